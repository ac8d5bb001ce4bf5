"""`WarmUp`: whether a model that is trained along knows enough by now for its losses to say what an augmentation costs."""

from torch import Tensor

LEARNED = 0.5  # of the first loss; below it the model is right about a good part of its images
STALLED = 200, 0.05  # updates in which the loss has not fallen by that share: no more is learned for now
FIRST = 10  # updates whose mean is the first loss


class WarmUp:
    """Over once the loss is half of what it was at first, or has stopped falling.

    A model that knows nothing loses nothing by any view, so that φ would open its ranges before the first image is learned;
    of a few hundred images it then learns none. Until then, entropy is held near where φ started (`EntropyController.penalty`).

    Args:
        over: do without.
    """

    def __init__(self, over: bool = False) -> None:
        self.over = over
        self.updates = 0
        self.first, self.mark, self.marked = float("nan"), float("nan"), 0  # losses; the update of the latter

    def update(self, loss: float, recent: float) -> None:
        """After an update whose first batch had this mean ``loss``; ``recent`` is an average over the latest ones."""
        if self.over:
            return
        self.updates += 1
        if self.updates <= FIRST:
            before = 0.0 if self.updates == 1 else self.first
            self.first = self.mark = before + (loss - before) / self.updates
            self.marked = self.updates
            return
        if recent < _below(self.mark, STALLED[1]):
            self.mark, self.marked = recent, self.updates
        self.over = recent < _below(self.first, LEARNED) or self.updates - self.marked >= STALLED[0]

    def state(self) -> list[float]:
        """Five numbers, for checkpoints."""
        return [float(self.over), float(self.updates), self.first, self.mark, float(self.marked)]

    def load_state(self, state: list[float]) -> None:
        """Go on from a `state`."""
        over, updates, self.first, self.mark, marked = state
        self.over, self.updates, self.marked = bool(over), int(updates), int(marked)


def _below(loss: float, share: float) -> float:
    return loss - share * abs(loss)  # losses may be negative


def trains(losses: Tensor, others: set[int]) -> bool:
    """Whether losses depend on any leaf that is learned, beside those of the identities ``others``."""
    seen, todo = set(), [losses.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad" and id(node.variable) not in others:
            return True
        todo += [following for following, _ in node.next_functions]
    return False
