"""What `fit` is told and what it gives back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from ..families.product import MAX_COLUMNS
from ..utils.errors import InstaAugError
from .entropy import EntropyConfig
from .report import HeldOutReport

OBJECTIVES = ("paper", "sampled")


@dataclass(frozen=True)
class FitConfig:
    """How `fit` learns.

    Args:
        entropy: band per family, ``{"crop": (0.52, 0.61), "rotate": (-1.0, -0.3)}``: tables of candidates in fractions of
            log A, ranges in nats. Families that are left out take their default. Without any, λ stays what it is where
            a table says all there is to know: each of ``entropy_weights`` is tried and held-out images choose; ranges
            take their default bands. An `EntropyConfig` also says how λ moves.
        entropy_weights: the λ to try.
        max_steps: of each such try; fewer epochs where images are many.
        objective: of mean loss − λ·entropy: ``"paper"``, candidates exact by the loss table; ``"sampled"``, without a
            table, for candidates too many to enumerate, by the score function of ``views`` samples.
        epochs, batch_size, lr, weight_decay: of AdamW; the rate climbs for a tenth of the steps, then follows a cosine to zero.
        views: sampled views per image and step, where a range is learned; two or more are each other's
            baseline in ``"sampled"``.
        patience: epochs inside the band without a better held-out objective before it stops.
        val_views: sampled views per held-out image, where a range is learned.
        amp: bfloat16 autocast in the classifier.
        table_batch_size: views per forward of the classifier.
        nuisance_draws: disturbed copies per image, where there is a nuisance.
        nuisance_probability: that a copy is disturbed at all.
        held_out: share of the images that is held out to choose on, where no ``val_data`` is given; by default a tenth, but 100
            images, or half of them all where they are few.
        max_columns: of a loss table, the product of the families' candidates.
        seed: of everything random in the fit.
        checkpoint_seconds: between checkpoints, where there is a ``workdir``; one is also made after every epoch.
        progress: show bars; None where the output is a terminal.
    """

    entropy: EntropyConfig | Mapping[str, tuple[float, float]] = field(default_factory=EntropyConfig)
    entropy_weights: tuple[float, ...] = (0.1, 0.3)
    max_steps: int = 800
    objective: str = "paper"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-2
    views: int = 1
    patience: int = 8
    val_views: int = 4
    amp: bool = False
    table_batch_size: int = 256
    nuisance_draws: int = 1
    nuisance_probability: float = 0.5
    held_out: float | None = None
    max_columns: int = MAX_COLUMNS
    seed: int = 0
    checkpoint_seconds: float = 60.0
    progress: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "entropy", EntropyConfig.of(self.entropy))
        if self.objective not in OBJECTIVES:
            raise InstaAugError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        for name in (
            "epochs",
            "batch_size",
            "views",
            "patience",
            "val_views",
            "table_batch_size",
            "nuisance_draws",
            "max_columns",
            "max_steps",
        ):
            if not isinstance(getattr(self, name), Integral) or getattr(self, name) < 1:
                raise InstaAugError(f"{name}: expected a positive whole number, got {getattr(self, name)!r}")
        if not isinstance(self.seed, Integral):
            raise InstaAugError(f"seed: expected a whole number, got {self.seed!r}")
        if not (_positive(self.lr) and self.lr < math.inf):
            raise InstaAugError(f"lr: expected a positive number, got {self.lr!r}")
        if not _positive(self.checkpoint_seconds):
            raise InstaAugError(f"checkpoint_seconds: expected a positive number, got {self.checkpoint_seconds!r}")
        if not isinstance(self.weight_decay, Real) or not 0 <= self.weight_decay < math.inf:
            raise InstaAugError(f"weight_decay: expected a number ≥ 0, got {self.weight_decay!r}")
        if self.held_out is not None and not (_positive(self.held_out) and self.held_out < 1):
            raise InstaAugError(f"held_out: expected a share in (0, 1), got {self.held_out!r}")
        weights = self.entropy_weights
        if not isinstance(weights, Sequence) or not weights or not all(map(_positive, weights)):
            raise InstaAugError(f"entropy_weights: expected positive numbers, (0.1, 0.3) say, got {weights!r}")


def _positive(value: Any) -> bool:
    return isinstance(value, Real) and value > 0


@dataclass(frozen=True)
class FitResult:
    """What `fit` did.

    Attributes:
        history: one entry per epoch: ``loss`` and ``val_loss`` (expected loss of a view), ``entropy``, ``val_entropy``
            and ``weight`` (λ) per family, ``in_band``, ``seconds``.
        best_epoch: the epoch whose weights were kept.
        stopped_early: whether patience ran out.
        table_seconds, fit_seconds: wall times of the loss tables and of the rest.
        report: what one view, the best policy that does not look at the image, and ours give on held-out images, and
            which of them to use; None where ``val_table`` was given, or outputs are maps or anything but one tensor.
        held_out: names of the held-out images, where the data has names.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    stopped_early: bool
    table_seconds: float
    fit_seconds: float
    report: HeldOutReport | None = None
    held_out: list[str] | None = None

    @property
    def best(self) -> dict[str, Any]:
        """The history's entry of the epoch that was kept."""
        return self.history[self.best_epoch]
