"""What `fit` is told and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any

from ..families.product import MAX_COLUMNS
from ..utils.errors import InstaAugError, check_number, check_one_of, check_whole
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
        entropy_weights: the λ to try; where, of several, at all of them φ gives every image the same candidate, ten times the
            largest as well, and so on, up to three times.
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
        nuisance_draws: copies per image, where there is a nuisance; twice as many of held-out images, half of them as they are.
        nuisance_probability: that a copy is disturbed at all; what a held-out one counts.
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

    @classmethod
    def of(cls, given: Any) -> "FitConfig":
        """``given`` itself, or the default of None.

        Raises:
            InstaAugError: something else: options in a dictionary, say, or labels beside their images.
        """
        if given is not None and not isinstance(given, cls):
            raise InstaAugError(
                f"config: expected a FitConfig, or None, got {type(given).__name__}; options go in one, FitConfig(epochs=5), and labels "
                "with their images, (images, labels)"
            )
        return given or cls()

    def __post_init__(self) -> None:
        object.__setattr__(self, "entropy", EntropyConfig.of(self.entropy))
        check_one_of("objective", self.objective, OBJECTIVES)
        for each in fields(self):  # every whole number counts something
            if each.type is int and each.name != "seed":
                check_whole(each.name, getattr(self, each.name))
        if not isinstance(self.seed, Integral):
            raise InstaAugError(f"seed: expected a whole number, got {self.seed!r}")
        check_number("lr", self.lr, "(0, ∞)")
        check_number("checkpoint_seconds", self.checkpoint_seconds, "(0, ∞]")
        check_number("weight_decay", self.weight_decay, "[0, ∞)")
        check_number("held_out", self.held_out, "(0, 1)", optional=True)
        if not isinstance(self.entropy_weights, Sequence) or not self.entropy_weights:
            raise InstaAugError(f"entropy_weights: expected numbers, (0.1, 0.3) say, got {self.entropy_weights!r}")
        for weight in self.entropy_weights:
            check_number("entropy_weights", weight, "(0, ∞]")


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        return (
            f"FitResult({len(self.history)} epochs, best_epoch={self.best_epoch}, stopped_early={self.stopped_early}, "
            f"table_seconds={self.table_seconds:.1f}, fit_seconds={self.fit_seconds:.1f}, recommended={self.report and self.report.advice!r})"
        )

    @property
    def best(self) -> dict[str, Any]:
        """The history's entry of the epoch that was kept."""
        return self.history[self.best_epoch]
