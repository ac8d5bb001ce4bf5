"""`InstaAugObjective`: what turns any training loop into one that learns its augmentation."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..augment_distribution import AugmentSample
from ..families import CandidateProduct
from ..predictors import ConvPredictor
from ..utils import distributed
from ..utils.errors import InstaAugError, check_number, check_one_of
from .accumulation import Accumulation
from .entropy import EntropyConfig, EntropyController
from .estimators import ESTIMATORS, critic, exact, only_gradient, reinforce, rloo
from .warm_up import WarmUp, trains
from .watch import Watch

logger = logging.getLogger(__name__)

# A model that learns keeps changing what an augmentation costs, and λ trails behind.
LOOKAHEAD = 50.0  # updates
MARGIN = 0.2  # of an entropy band, at either edge
ASTRAY = (
    10.0  # nats per whole width of the bounds by which ranges that a model learns with leave the image as it is out
)
PER_FAMILY = ("log_weight", "average", "trend", "reached", "start")  # of the controller's state
LOSSES = ("recent", "lowest")  # likewise


class InstaAugObjective(nn.Module):
    """Mean loss − Σ λ·entropy, with a gradient for φ and for the model (Miao et al., ICML 2023, eq. 4).

    One pass: the model's own step gives the losses. Uniform families learn pathwise, through the views; anchor
    families by the score function of the detached losses. λ keeps the mean entropy of the training batches in its band.
    Where a model is trained along, ranges are held to contain what leaves an image as it is; a frozen one may want images turned.

    .. code-block:: python

        objective = ia.InstaAugObjective(aug, entropy={"crop": (0.52, 0.61)})
        optimizer.add_param_group({"params": objective.parameters(), "lr": 1e-3})  # φ, and the critic where there is one
        ...
        views, sample = aug.sample(images, n=2)
        per_view = F.cross_entropy(model(views), y.repeat(2), reduction="none")
        objective(per_view, sample).backward()

    Under `torch.distributed`, make it on every process: φ takes rank 0's weights, and its gradients, λ and baselines are
    averaged over processes; φ needs no `DistributedDataParallel` of its own. Batches must be equally large. λ and the warm-up take one
    step for each update of φ, by the mean of the batches since the last one, whose gradients are accumulated; where a `GradScaler`
    skips a step, they wait as well. In eval mode nothing moves, and while φ is frozen no λ does. `state_dict` holds φ, critic, λ and
    baselines, tensors all.

    Args:
        aug: the transform that `sample` is called on.
        entropy: band per family, defaults for those left out; or an `EntropyConfig`, which also says how λ moves.
        estimator: for anchor families. ``"rloo"``, other views of the same image as the baseline (with n = 1: other
            images); ``"reinforce"``, a running mean of the loss; ``"critic"``, a second small network that predicts
            every anchor's loss; ``"exact"``, all anchors enumerated: ``aug.sample(images, n="all")``.
        baseline_decay: of the running mean, in [0, 1).
        warm_up: hold entropies within half a nat of where φ starts, nearly without augmentation, until the loss of the model that is trained along has
            halved, or has not fallen by 5 % for 200 updates. One that knows nothing yet forgives every view, and φ would run open.
            False where training has begun without augmentation already, or from trained weights. A frozen model needs none and
            gets none.

    Raises:
        InstaAugError: an unknown estimator, bad bands, a transform whose weights are frozen; when called, losses that are not one per view, a sample of
            another transform or that the estimator cannot use, or processes that did not begin alike.
    """

    def __init__(
        self,
        aug: LearnedAugment,
        entropy: EntropyConfig | Mapping[str, tuple[float, float]] | None = None,
        *,
        estimator: str = "rloo",
        baseline_decay: float = 0.9,
        warm_up: bool = True,
    ) -> None:
        super().__init__()
        aug = check_aug(aug)
        check_one_of("estimator", estimator, ESTIMATORS)
        if not any(parameter.requires_grad for parameter in aug.parameters()):
            raise InstaAugError("aug: all of its weights are frozen; call aug.requires_grad_(True) to go on learning")
        check_number("baseline_decay", baseline_decay, "[0, 1)")
        self.aug, self.estimator, self.baseline_decay = aug, estimator, baseline_decay
        config = EntropyConfig.of(entropy)
        lookahead = LOOKAHEAD if config.lookahead is None else config.lookahead
        margin = MARGIN if config.margin is None else config.margin
        self.controller = EntropyController(aug.families, replace(config, lookahead=lookahead, margin=margin))
        self.watch, self.warm_up = Watch(aug.families), WarmUp(over=not warm_up)
        self._trains_along: bool | None = None  # not known yet
        self._parts = Accumulation()  # of the current update of φ
        self._before = self.controller.state_dict()  # as that update began
        self.register_buffer("baseline", torch.tensor(float("nan")))
        self._latest: Tensor | None = None  # loss, for `logs`, as the next
        self._information: dict[str, Tensor] = {}
        anchored = aug.anchor_families
        self.critic: nn.Module | None = None
        if estimator == "critic" and anchored:
            size = getattr(aug.predictor, "image_size", 64)  # of φ's copy; of a large one, less
            size = 16 * max(1, round(min(size, 64) / 16))
            self.critic = ConvPredictor(size).build(anchored, aug.in_channels).to(aug.device)
            for head in self.critic.heads.values():  # predicted losses start at 0, not at log-probabilities
                head.zero_()
        distributed.broadcast(self)
        self._processes = distributed.world_size()  # that are known to have begun alike

    @property
    def weights(self) -> dict[str, float]:
        """λ of each family."""
        return {name: self.controller.weight(name) for name in self.controller.bands}

    @property
    def entropies(self) -> dict[str, float]:
        """Recent mean entropy of each family, nats; empty before the first step."""
        return dict(self.controller.average)

    def logs(self) -> dict[str, float]:
        """For any logger: ``loss`` of the latest training step, ``warm_up``, 1 while entropies are held, ``entropy/<family>`` (recent
        mean, nats), ``lambda/<family>``, and ``in_band/<family>``, 1 or 0, over all processes; and of this process's latest batch ``information/<family>``, how much
        candidates depend on the image (`AugmentDistribution.information`). Empty before the first step.
        """
        found = {} if self._latest is None else {"loss": self._latest.item(), "warm_up": float(not self.warm_up.over)}
        found |= {f"information/{name}": nats.item() for name, nats in self._information.items()}
        for name, entropy in self.entropies.items():
            found |= {f"entropy/{name}": entropy, f"lambda/{name}": self.controller.weight(name)}
            found[f"in_band/{name}"] = float(self.controller.violation(name, entropy) == 0)
        return found

    @torch.compiler.disable  # it reads numbers to move λ; model and views, which cost, are compiled around it
    def forward(self, per_view: Tensor, sample: AugmentSample, credit: Tensor | None = None) -> Tensor:
        """Losses ``(n·B,)``, view-major as ``sample``'s views, to the scalar whose ``backward()`` trains all.

        Its value is mean loss − Σ λ·mean entropy.

        Args:
            per_view: what the model learns from.
            sample: what `LearnedAugment.sample` gave with the views.
            credit: ``(n·B,)``, the sum of all entries of ``per_view`` that a view has a part in, where that is more than
                its own: both directions of a contrastive pair, both mixtures of a Mixup pair. Anchor families learn from
                it. Use ``estimator="reinforce"`` or ``"critic"`` there: a leave-one-out baseline would hold the view
                itself.
        """
        losses = self._checked(per_view, sample, "per_view")
        if credit is not None and sample.enumerated:
            raise InstaAugError(
                "credit: estimator 'exact' learns from per_view alone; use 'reinforce' or 'critic' where views share their losses"
            )
        detached = losses.detach() if credit is None else self._checked(credit, sample, "credit").detach()
        entropies = sample.distribution.entropies()
        learns = self._learns()
        if (
            learns
            and self.training
            and torch.is_grad_enabled()
            and not any(h.requires_grad for h in entropies.values())
        ):
            raise InstaAugError(
                "sample: it has no way back to φ, which would not learn; call aug.sample outside torch.no_grad() (or, where "
                "nothing is to be learned, objective.eval())"
            )
        moves = self.training and torch.is_grad_enabled()
        if sample.enumerated:
            product = CandidateProduct(self.aug.anchor_families)
            value = exact(losses, product.log_p(sample.distribution.parts))
        else:
            value = losses.mean(0)
        means = torch.stack([detached.mean(), value.detach().mean(), *(h.mean() for h in entropies.values())]).detach()
        if moves:  # one process may test alone
            self._check_alike()
            means = distributed.all_reduce_mean(means)
        if not sample.enumerated:
            for name, part in sample.distribution.parts.items():
                if not part.has_rsample:
                    value = value + only_gradient(self._score(name, part, detached, sample, means[0]))
        if moves:
            self._check_whether_trained_along(per_view)
            ranges = [part for part in sample.distribution.parts.values() if part.has_rsample]
            if self._trains_along and ranges:
                value = value + only_gradient(ASTRAY * sum(part.astray() for part in ranges))
            begins = self._begins(learns)
        penalty = self.controller.penalty(entropies, held=not self.warm_up.over)
        if moves:
            if learns:
                self.aug.recommended = None  # of a φ that is no more
            self._latest = means[1]
            with torch.no_grad():
                self._information = sample.distribution.information()
            self._update(means, list(entropies), learns, begins)
        return (value - penalty).mean()

    def epoch_end(self) -> None:
        """After an epoch; moves λ in ``paper`` mode."""
        self._parts.end()  # a further part would take back what is moved here
        if self.warm_up.over and self._learns():
            self.controller.epoch_end()

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _learns(self) -> bool:
        """Whether φ is trained: not while it is frozen for a part of the training."""
        return any(weight.requires_grad for weight in self.aug.predictor.parameters())

    def _check_alike(self) -> None:
        """Raise where processes were joined after the objective was made, and nothing has made their weights equal since."""
        if self._processes == distributed.world_size():
            return
        own = torch.stack([weight.detach().double().square().sum() for weight in self.parameters()])
        # The same answer everywhere: where one process alone raised, the others would wait for it.
        if distributed.all_reduce_mean((own - distributed.all_reduce_mean(own)).abs()).sum() > 1e-9 * own.sum():
            raise InstaAugError(
                "objective: its processes have different weights, for it was made before they were joined; make it after "
                "torch.distributed.init_process_group, or wrap it with the model in DistributedDataParallel"
            )
        self._processes = distributed.world_size()

    def _check_whether_trained_along(self, per_view: Tensor) -> None:
        """Do without a warm-up where no model is: its losses say from the start what an augmentation costs."""
        if self._trains_along is None:
            self._trains_along = trains(per_view, {id(weight) for weight in self.parameters()})
            self.warm_up.over |= not self._trains_along

    def _baseline(self, mean: Tensor) -> Tensor:
        """The running mean, at first that of this batch; in its type, for modules around it may be moved to another."""
        return torch.where(self.baseline.isnan(), mean, self.baseline.to(mean))

    def _score(self, name: str, part, losses: Tensor, sample: AugmentSample, mean: Tensor) -> Tensor:
        log_prob = part.log_prob(sample.params.detach())
        if self.estimator == "reinforce":
            return reinforce(losses, log_prob, self._baseline(mean))
        if self.estimator == "critic":
            predicted = distributed.call_with_mean_gradients(self.critic, sample.images)[name]
            index = part.index(sample.params)
            error = predicted.gather(1, index.T).T - losses
            return critic(losses, log_prob, index, part.categorical.logits, predicted) + error.square().mean(0)
        processes = distributed.world_size()
        return rloo(losses, log_prob, mean, processes * sample.batch_size)

    def _begins(self, learns: bool) -> bool:
        """Whether a batch is the first of an update of φ. At any other λ goes back to where the first found it: all parts of an update
        have the same, and together they move it once."""
        if learns and self._parts.goes_on(self.aug.predictor.parameters()):
            self.controller.load_state_dict(self._before)
            return False
        self._parts.end()  # while φ is frozen there are no updates, and averages follow every batch
        self._before = self.controller.state_dict()
        return True

    def _update(self, means: Tensor, names: list[str], learns: bool, begins: bool) -> None:
        held, (_, loss, *entropies) = not self.warm_up.over, means.tolist()
        mean_loss, *mean_entropies = self._parts.mean([loss, *entropies]) if learns else (loss, *entropies)
        # A model that is frozen forgets nothing: its loss rises because views say so.
        forgets = mean_loss if self._trains_along else None
        self.controller.step(dict(zip(names, mean_entropies, strict=True)), forgets, held, learns)
        if learns:
            self.watch.weights(self.aug.predictor.parameters())
        if begins and not held and learns:
            self.watch.update(dict(zip(names, entropies, strict=True)), self.controller)
        elif begins and held and math.isfinite(loss):
            self.warm_up.update(loss, self.controller.losses["recent"])
            if self.warm_up.over:
                logger.info(
                    "warm-up: over after %d updates, at a loss of %.3g; φ opens now", self.warm_up.updates, loss
                )
        moved = torch.lerp(means[0], self._baseline(means[0]), self.baseline_decay)
        # A step that overflowed under a GradScaler must not stay in the average.
        self.baseline.copy_(torch.where(means[0].isfinite(), moved, self.baseline))

    def _checked(self, per_view: Tensor, sample: AugmentSample, name: str) -> Tensor:
        if not isinstance(sample, AugmentSample):
            raise InstaAugError(f"sample: expected what aug.sample(images) gave, got {type(sample).__name__}")
        given, own = list(sample.distribution.families), list(self.aug.families)
        # A copy, such as an average of φ over time, may be judged in eval mode.
        if given != own and (self.training or repr(given) != repr(own)):
            names = [", ".join(family.name for family in families) for families in (given, own)]
            raise InstaAugError(
                f"sample: it is of another transform, of {names[0]}, than the objective's, of {names[1]}; call sample on the aug that "
                "InstaAugObjective was made with"
            )
        n, batch = sample.n, sample.batch_size
        if not isinstance(per_view, Tensor) or per_view.shape != (n * batch,):
            given = tuple(per_view.shape) if isinstance(per_view, Tensor) else type(per_view).__name__
            raise InstaAugError(
                f"{name}: expected one loss per view, ({n * batch},) = {n} views × {batch} images, got "
                f'{given}; use reduction="none" and targets repeated per view: y.repeat({n})'
            )
        if (self.estimator == "exact") != sample.enumerated:
            raise InstaAugError(
                f'sample: estimator "exact" and aug.sample(images, n="all") go together; got estimator '
                f"{self.estimator!r} and {'all anchors' if sample.enumerated else f'n={n}'}"
            )
        return per_view.float().unflatten(0, (n, batch))

    def get_extra_state(self) -> Tensor:
        """Per family log λ, average entropy, its trend, whether it has been in its band, and where it began; in every row the recent loss, the
        lowest that it has been, and the five numbers of the warm-up, ``(families, 12)``. NaN for what is not known yet."""
        state, unknown = self.controller.state_dict(), float("nan")
        alike = [state["losses"].get(key, unknown) for key in LOSSES] + self.warm_up.state()
        rows = [[*(state[key].get(name, unknown) for key in PER_FAMILY), *alike] for name in self.controller.bands]
        return torch.tensor(rows, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """The reverse of `get_extra_state`; of earlier versions too, which kept no losses and knew no warm-up."""
        names = list(self.controller.bands)
        if state.shape not in ((len(names), 3), (len(names), 5), (len(names), 12)):
            raise InstaAugError(
                f"state_dict: holds a controller's state of shape {tuple(state.shape)}, this objective's is "
                f"({len(names)}, 12): log λ, entropy, trend, reached and start of {', '.join(names)}, losses, and the warm-up"
            )
        keys = (*PER_FAMILY, *LOSSES) if state.shape[1] == 12 else (*PER_FAMILY[:3], *LOSSES)
        columns = dict(zip(keys, state.T.tolist(), strict=False))
        known = [key for key in PER_FAMILY if key in columns]
        values = {key: {n: v for n, v in zip(names, columns[key], strict=True) if v == v} for key in known}
        losses = {key: columns[key][0] for key in LOSSES if key in columns and columns[key][0] == columns[key][0]}
        self.controller.load_state_dict({**values, "losses": losses})
        self._parts.end()
        self.warm_up.load_state(state[0, 7:].tolist() if state.shape[1] == 12 else WarmUp(over=True).state())
