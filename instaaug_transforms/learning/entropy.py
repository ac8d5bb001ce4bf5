"""Entropy control: one weight λ per family, moved until the mean entropy lies in its band."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..families import Family
from ..utils.errors import InstaAugError, check_number, check_one_of

MODES = ("dual", "paper")
# Tried on planted problems (tests/test_learning.py); nobody has needed others.
BOOST = 0.3  # gain of the proportional part
DECAY = 0.9  # of the averages of entropies and of their change per update
LIMITS = (1e-3, 30.0)  # smallest and largest λ
# Nats above where φ started, per number of a range, at which the penalty begins to level off, and has, while a model that is trained along
# knows nothing.
HELD = 0.5, 0.65
APPROACH = 0.02  # the least rate for a table that has not been in its band yet
FORGOTTEN = 10.0, 0.5  # times its lowest loss, and nats above it: a model that has risen so far forgets


@dataclass(frozen=True)
class EntropyConfig:
    """Which entropies are wanted, and how λ moves to get them.

    Args:
        bands: per family name ``(low, high)``: fractions of log A for tables of candidates, nats for ranges. Families that
            are left out take their default.
        initial_weight: λ at the start, > 0.
        mode: ``"dual"``, moved after every update, or ``"paper"``, once an epoch; see `EntropyController`.
        rate: step of log λ per update and width of violation (dual), ≥ 0; 0 leaves λ as it is. Where it moves faster than
            the ranges can follow, all of them run from narrow to full and back together; slow, each image's range stops
            where its own loss begins.
        lookahead: updates ≥ 0 (dual). A model that is trained along needs it: what an augmentation costs changes all the
            time. By default 50 in `InstaAugObjective` and 0 in `fit`.
        margin: part of the band's width, on either side of it, that counts as outside already (dual), in [0, 0.5). Where
            the loss drifts, λ trails behind and entropy rests a little beyond the edge it is held at. By default 0.2 in
            `InstaAugObjective` and 0 in `fit`.

    Raises:
        InstaAugError: a value out of range.
    """

    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    initial_weight: float = 0.1
    mode: str = "dual"
    rate: float = 0.004
    lookahead: float | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bands, Mapping):
            raise InstaAugError(
                f"entropy: expected bands, {{'crop': (0.5, 0.6)}}, or an EntropyConfig, got {self.bands!r}"
            )
        check_one_of("entropy mode", self.mode, MODES)
        check_number("initial_weight", self.initial_weight, "(0, ∞)")
        check_number("entropy rate", self.rate, "[0, ∞)")
        check_number("entropy lookahead", self.lookahead, "[0, ∞)", optional=True)
        check_number("entropy margin", self.margin, "[0, 0.5)", optional=True)

    @classmethod
    def of(cls, entropy: "EntropyConfig | Mapping[str, tuple[float, float]] | None") -> "EntropyConfig":
        """Bands alone, or nothing, as a configuration."""
        return entropy if isinstance(entropy, cls) else cls({} if entropy is None else entropy)


class EntropyController:
    """λ of each family.

    ``dual``: log λ climbs by ``rate`` times how far an average of recent batch entropies lies below the band, in widths
    of the band, and falls where it lies above: gradient ascent on the multiplier of the constraint H_min ≤ H ≤ H_max.
    While the average is outside, λ is also ``exp(0.3 · violation)`` times as large, and with ``lookahead`` both act on
    where the average will be so many updates later if it goes on as it does. Both damp the oscillation of pure
    integration (the P and D of a PID controller of a multiplier: Stooke et al. 2020, arXiv 2007.03964, section 5).
    Violations count up to one width. Where the loss has risen to ten times its lowest, and by half a nat, the model forgets:
    λ falls, at ``rate``, until the model has learned again. Where a model is trained along, λ of a table climbs at 0.02 at least until
    it has been in its band: candidates that nothing is drawn from say nothing, so that a table, once shut, stays shut at a small λ.
    ``paper``: the published scheme (Miao et al. 2023, section 4), λ × 1.2 or ÷ 1.2 once an epoch.

    Only training data may be given to it.

    Args:
        families: those of the transform.
        entropy: bands per family name, or an `EntropyConfig`.

    Attributes:
        bands: ``(low, high)`` in nats per family name.
        limits: smallest and largest λ: `LIMITS`, or where it starts if that is further out.

    Raises:
        InstaAugError: a band of an unknown family, or one that is empty or out of reach.
    """

    def __init__(
        self,
        families: Sequence[Family],
        entropy: EntropyConfig | Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.config = EntropyConfig.of(entropy)
        bands, names = self.config.bands, [family.name for family in families]
        unknown = sorted(set(bands) - set(names))
        if unknown:
            raise InstaAugError(f"entropy: bands for {', '.join(unknown)}, but the families are {', '.join(names)}")
        self.bands: dict[str, tuple[float, float]] = {}
        for family in families:
            low, high = _pair(family.name, bands.get(family.name, family.entropy_band()))
            scale, unit = family.entropy_unit
            largest = family.max_entropy() / scale if scale else 0.0
            if not low < high <= largest:
                raise InstaAugError(
                    f"entropy[{family.name!r}]: expected low < high ≤ {largest:g} ({unit}), got ({low}, {high})"
                )
            self.bands[family.name] = (low * scale, high * scale)
        start = self.config.initial_weight
        self.limits = min(LIMITS[0], start), max(LIMITS[1], start)
        self.log_weight = dict.fromkeys(names, math.log(start))
        self.average: dict[str, float] = {}
        self.trend: dict[str, float] = {}  # nats per update
        self.reached = {family.name: not family.max_entropy() for family in families}  # ranges need no approach
        self.numbers = {family.name: 1 if family.max_entropy() else len(family.fields) for family in families}
        self.start: dict[str, float] = {}  # mean entropy of the first batch
        self.losses: dict[str, float] = {}  # the recent one, and the lowest that this has been

    def weight(self, name: str) -> float:
        """λ of a family."""
        moves = self.config.mode == "dual" and self.config.rate > 0
        return math.exp(self.log_weight[name] + (BOOST * self._clamped(name) if moves else 0.0))

    def settled_weight(self, name: str) -> float:
        """λ of a family without the momentary boost."""
        return math.exp(self.log_weight[name])

    def _clamped(self, name: str) -> float:
        if name not in self.average:
            return 0.0
        low, high = self.bands[name]
        ahead = self.average[name] + (self.config.lookahead or 0.0) * self.trend[name]
        inner = (self.config.margin or 0.0) * (high - low)
        outside = max(low + inner - ahead, 0.0) - max(ahead - high + inner, 0.0)
        return max(-1.0, min(1.0, outside / (high - low)))

    def violation(self, name: str, entropy: float) -> float:
        """Nats below the band (positive) or above it (negative); 0 inside."""
        low, high = self.bands[name]
        return max(low - entropy, 0.0) - max(entropy - high, 0.0)

    @torch.compiler.disable  # λ are numbers that change with every step: traced, each of them would be compiled anew
    def penalty(self, entropies: Mapping[str, Tensor], held: bool = False) -> Tensor:
        """Σ λ_k · H_k, ``(B,)``: what the objective subtracts.

        ``held``: less Σ λ_k · max(H_k − start_k − 0.5, 0)² / 0.3, so that it is largest 0.65 nats above the start; of ranges
        that many times their numbers.
        """
        total = sum(self.weight(name) * entropy for name, entropy in entropies.items())
        if held:
            for name in self.start:  # known from the second batch on
                entropy = entropies[name]
                begins, turns = (self.start[name] + nats * self.numbers[name] for nats in HELD)
                above = (entropy - begins).clamp(min=0)
                total = total - self.weight(name) * above.square() / (2 * (turns - begins))
        return total

    @property
    def forgets(self) -> bool:
        """Whether the model that is trained along has lost what it knew."""
        if not self.losses:
            return False
        recent, lowest = self.losses["recent"], self.losses["lowest"]
        return recent > max(FORGOTTEN[0] * lowest, lowest + FORGOTTEN[1])

    def step(
        self,
        entropies: Mapping[str, Tensor | float],
        loss: float | None = None,
        held: bool = False,
        learns: bool = True,
    ) -> None:
        """After an update, of that ``loss`` where a model is trained along: update the averages, and λ in ``dual`` mode.

        ``held``: as in `penalty`; λ stays where entropy is being held. Without ``learns``, too: no λ moves what is frozen, and it
        would climb to its limit.
        """
        if loss is not None and math.isfinite(loss):
            recent = DECAY * self.losses.get("recent", loss) + (1 - DECAY) * loss
            self.losses = {"recent": recent, "lowest": min(recent, self.losses.get("lowest", recent))}
        for name, mean in summarise(entropies).items():
            if not math.isfinite(mean):  # a batch that overflowed, which a GradScaler skips: it says nothing
                continue
            before = self.average.get(name, mean)
            self.start.setdefault(name, mean)
            self.average[name] = DECAY * before + (1 - DECAY) * mean
            change = self.average[name] - before
            self.trend[name] = DECAY * self.trend.get(name, 0.0) + (1 - DECAY) * change
            still = held and self.average[name] > self.start[name] + HELD[0] * self.numbers[name]
            still |= not learns
            if self.config.mode == "dual" and not still:
                by = self._clamped(name)
                self.reached[name] |= by <= 0
                approaches = self.config.rate > 0 and loss is not None and not self.reached[name]
                rate = max(self.config.rate, APPROACH) if approaches else self.config.rate
                self._move(name, rate * (-1.0 if self.forgets and by > 0 else by))

    def epoch_end(self) -> None:
        """After an epoch: update λ in ``paper`` mode."""
        if self.config.mode == "paper":
            for name, entropy in self.average.items():
                violation = self.violation(name, entropy)
                self._move(name, math.copysign(math.log(1.2), violation) if violation else 0.0)

    def _move(self, name: str, by: float) -> None:
        low, high = map(math.log, self.limits)
        self.log_weight[name] = min(max(self.log_weight[name] + by, low), high)

    def state_dict(self) -> dict[str, Any]:
        """λ, averages, trends, which have been in their band, entropies at the start, and losses, for checkpoints."""
        names = ("log_weight", "average", "trend", "reached", "start", "losses")
        return {name: dict(getattr(self, name)) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.log_weight, self.average = dict(state["log_weight"]), dict(state["average"])
        self.trend, self.losses = dict(state["trend"]), dict(state.get("losses", {}))
        self.start = dict(state.get("start", {}))
        self.reached = {name: bool(state.get("reached", {}).get(name, True)) for name in self.log_weight}


def _pair(name: str, band: Any) -> tuple[float, float]:
    try:
        low, high = map(float, band)
    except (TypeError, ValueError):
        raise InstaAugError(f"entropy[{name!r}]: expected a pair of numbers, (low, high), got {band!r}") from None
    return low, high


def summarise(entropies: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Mean entropy of each family."""
    return {name: torch.as_tensor(entropy).detach().mean().item() for name, entropy in entropies.items()}
