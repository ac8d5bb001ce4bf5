"""Per-view losses of a frozen classifier."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InstaAugError

# Outputs and targets to losses (B,).
PerViewLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``(B, classes)`` logits and ``(B,)`` labels, or ``(B, classes)`` probabilities, to ``(B,)`` nats."""
    # Classes that the classifier rules out have logits of −∞: finite, they may meet a probability of 0.
    return F.cross_entropy(logits.float().clamp(-1e4, 1e4), targets, reduction="none")


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """``(B, …)`` outputs and as many target numbers to ``(B,)``, the mean over an image's numbers: regression."""
    targets = _alike(outputs, targets, "squared_error")
    finite = targets.isfinite().reshape(len(targets), -1).all(1)
    if not bool(finite.all()):
        raise InstaAugError(
            f"squared_error: the targets of {int((~finite).sum())} of {len(targets)} images are not finite (without labels they are the model's own "
            "outputs); leave these images out, or, where single numbers are missing, leave those out by a loss of your own: loss=f, "
            "f(outputs, targets) giving the mean over the numbers that are known, (B,)"
        )
    return (outputs.float() - targets).square().reshape(len(outputs), -1).mean(1)


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """``(B, classes)`` logits, and targets in [0, 1], to ``(B,)`` nats, the mean over classes: several classes an image."""
    targets = _alike(outputs, targets, "binary_cross_entropy")
    if not bool(((targets >= 0) & (targets <= 1)).all()):
        low, high = targets.min().item(), targets.max().item()
        raise InstaAugError(
            f"binary_cross_entropy: expected targets in [0, 1], got {low:g} to {high:g}; where labels are missing, leave them out by a loss of "
            "your own: loss=f, f(outputs, targets) giving the mean over the classes that are known, (B,)"
        )
    outputs = outputs.float().clamp(-1e4, 1e4)
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").reshape(len(outputs), -1).mean(1)


def _alike(outputs: Tensor, targets: Tensor, name: str) -> Tensor:
    """Targets in the shape of the outputs, at least ``(B, 1)``; a missing or additional dimension of 1 is none."""
    given = f"outputs {_shape(outputs)} and targets {_shape(targets)}"
    if not isinstance(outputs, Tensor) or outputs.shape[:1] != targets.shape[:1] or outputs.numel() != targets.numel():
        raise InstaAugError(f"{name}: expected as many numbers in the targets as in the outputs, got {given}")
    return targets.reshape(outputs.shape).to(outputs.device).float()


def _one_tensor(outputs: Any, name: str) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise InstaAugError(
            f"{name}: expected outputs that are one tensor, got {_shape(outputs)}; wrap the model in a module that returns it"
        )
    return outputs


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


LOSSES: dict[str, PerViewLoss] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
}
# What a loss takes as targets when they are the model's own outputs.
OWN = {
    cross_entropy: lambda logits: logits.float().softmax(-1),
    squared_error: lambda outputs: _one_tensor(outputs, "squared_error").float(),
    binary_cross_entropy: lambda outputs: _one_tensor(outputs, "binary_cross_entropy").sigmoid(),
}


def find_loss(loss: PerViewLoss | str) -> PerViewLoss:
    """A loss by its name, or as it is given.

    Raises:
        InstaAugError: an unknown name, or no function.
    """
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if callable(loss):
        return loss
    raise InstaAugError(
        f"loss: expected one of {', '.join(LOSSES)}, or a function of outputs and targets; got {loss!r}"
    )


def own_answers(loss: PerViewLoss) -> Callable[[Tensor], Tensor]:
    """What makes targets of the model's own outputs.

    Raises:
        InstaAugError: a loss of one's own, of which nobody knows that.
    """
    made = next((make for known, make in OWN.items() if known is loss), None)
    if made is None:
        raise InstaAugError(
            "loss: a loss of one's own needs labels, and this fit is to the model's own answers; give (images, labels) and "
            f"labels=True, or one of {', '.join(map(repr, LOSSES))}"
        )
    return made


def per_view(loss: PerViewLoss, outputs: Any, targets: Tensor, n: int) -> Tensor:
    """``loss`` of n views, ``(n,)``.

    Raises:
        InstaAugError: it gives something else: their mean, a loss per class.
    """
    losses = loss(outputs, targets)
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise InstaAugError(
            f'loss: expected one loss per view, ({n},), got {given}; use reduction="none", and .flatten(1).mean(1) over what '
            "else it leaves"
        )
    return losses
