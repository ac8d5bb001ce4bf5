"""Entropy control: one weight λ per family, moved until the mean entropy lies in its band."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..families import Family
from ..utils.errors import InstaAugError

MODES = ("dual", "paper")


class EntropyController:
    """λ of each family.

    ``dual``: log λ climbs by ``rate`` times how far an average of recent batch entropies lies below the band, in widths
    of the band, and falls where it lies above: gradient ascent on the multiplier of the constraint H_min ≤ H ≤ H_max.
    While the average is outside, λ is also ``exp(boost · violation)`` times as large, and with ``lookahead`` both act on
    where the average will be so many updates later if it goes on as it does. Both damp the oscillation of pure
    integration (the P and D of a PID controller of a multiplier: Stooke et al. 2020, arXiv 2007.03964, section 5).
    Violations count up to one width.
    ``paper``: the published scheme (Miao et al. 2023, section 4), λ × 1.2 or ÷ 1.2 once an epoch.

    Only training data may be given to it.

    Args:
        families: those of the transform.
        bands: per family name ``(low, high)``: fractions of log A for tables of candidates, nats for ranges. Families that
            are left out take their default.
        initial: λ at the start.
        mode: ``"dual"`` or ``"paper"``.
        rate: step of log λ per update and width of violation (dual).
        boost: gain of the proportional part (dual).
        lookahead: updates (dual). A model that is trained along needs it: what an augmentation costs changes all the time.
        margin: part of the band's width, on either side of it, that counts as outside already (dual). Where the loss drifts,
            λ trails behind and entropy rests a little beyond the edge it is held at.
        decay: of the averages of entropies and of their change per update (dual).
        limits: smallest and largest λ.

    Raises:
        InstaAugError: a band of an unknown family, or one that is empty or out of reach; a negative lookahead; a margin outside [0, 0.5).
    """

    def __init__(
        self,
        families: Sequence[Family],
        bands: Mapping[str, tuple[float, float]] | None = None,
        *,
        initial: float = 0.1,
        mode: str = "dual",
        rate: float = 0.004,
        boost: float = 0.3,
        lookahead: float = 0.0,
        margin: float = 0.0,
        decay: float = 0.9,
        limits: tuple[float, float] = (1e-3, 30.0),
    ) -> None:
        bands = dict(bands or {})
        names = [family.name for family in families]
        unknown = sorted(set(bands) - set(names))
        if unknown:
            raise InstaAugError(f"entropy: bands for {', '.join(unknown)}, but the families are {', '.join(names)}")
        if mode not in MODES:
            raise InstaAugError(f"entropy mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if not initial > 0:
            raise InstaAugError(f"entropy initial weight: expected a number above 0, got {initial}")
        if not lookahead >= 0:
            raise InstaAugError(f"entropy lookahead: expected a number of updates ≥ 0, got {lookahead}")
        if not 0 <= margin < 0.5:
            raise InstaAugError(f"entropy margin: expected a part of the band in [0, 0.5), got {margin}")
        self.bands: dict[str, tuple[float, float]] = {}
        for family in families:
            low, high = bands.get(family.name, family.entropy_band())
            scale, unit = family.entropy_unit
            largest = family.max_entropy() / scale if scale else 0.0
            if not low < high <= largest:
                raise InstaAugError(
                    f"entropy[{family.name!r}]: expected low < high ≤ {largest:g} ({unit}), got ({low}, {high})"
                )
            self.bands[family.name] = (low * scale, high * scale)
        self.mode, self.rate, self.boost, self.lookahead = mode, rate, boost, lookahead
        self.margin, self.decay, self.limits = margin, decay, limits
        self.log_weight = dict.fromkeys(names, math.log(initial))
        self.average: dict[str, float] = {}
        self.trend: dict[str, float] = {}  # nats per update

    def weight(self, name: str) -> float:
        """λ of a family."""
        boost = self.boost * self._clamped(name) if self.mode == "dual" else 0.0
        return math.exp(self.log_weight[name] + boost)

    def settled_weight(self, name: str) -> float:
        """λ of a family without the momentary boost."""
        return math.exp(self.log_weight[name])

    def _clamped(self, name: str) -> float:
        if name not in self.average:
            return 0.0
        low, high = self.bands[name]
        ahead, inner = self.average[name] + self.lookahead * self.trend[name], self.margin * (high - low)
        outside = max(low + inner - ahead, 0.0) - max(ahead - high + inner, 0.0)
        return max(-1.0, min(1.0, outside / (high - low)))

    def violation(self, name: str, entropy: float) -> float:
        """Nats below the band (positive) or above it (negative); 0 inside."""
        low, high = self.bands[name]
        return max(low - entropy, 0.0) - max(entropy - high, 0.0)

    def penalty(self, entropies: Mapping[str, Tensor]) -> Tensor:
        """Σ λ_k · H_k, ``(B,)``: what the objective subtracts."""
        return sum(self.weight(name) * entropy for name, entropy in entropies.items())

    def step(self, entropies: Mapping[str, Tensor]) -> None:
        """After a batch: update the averages, and λ in ``dual`` mode."""
        for name, entropy in entropies.items():
            mean = entropy.detach().mean().item()
            before = self.average.get(name, mean)
            self.average[name] = self.decay * before + (1 - self.decay) * mean
            change = self.average[name] - before
            self.trend[name] = self.decay * self.trend.get(name, 0.0) + (1 - self.decay) * change
            if self.mode == "dual":
                self._move(name, self.rate * self._clamped(name))

    def epoch_end(self) -> None:
        """After an epoch: update λ in ``paper`` mode."""
        if self.mode == "paper":
            for name, entropy in self.average.items():
                violation = self.violation(name, entropy)
                self._move(name, math.copysign(math.log(1.2), violation) if violation else 0.0)

    def _move(self, name: str, by: float) -> None:
        low, high = map(math.log, self.limits)
        self.log_weight[name] = min(max(self.log_weight[name] + by, low), high)

    def state_dict(self) -> dict[str, Any]:
        """λ, averages and trends, for checkpoints."""
        return {"log_weight": dict(self.log_weight), "average": dict(self.average), "trend": dict(self.trend)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.log_weight, self.average = dict(state["log_weight"]), dict(state["average"])
        self.trend = dict(state["trend"])


def summarise(entropies: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean entropy of each family."""
    return {name: torch.as_tensor(entropy).mean().item() for name, entropy in entropies.items()}
