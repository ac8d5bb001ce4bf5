"""`UniformFamily`: a range [lo, hi] per image and field, sampled uniformly (what rotate and hsv are)."""

import copy
import math
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributions import BoundedUniform
from ..params import AugmentParams
from ..utils.errors import InstaAugError, several
from .base import GAIN, Family, FamilyDistribution, Features, FeatureSpec

INITIAL_WIDTH = 0.02  # of the bounds
LARGEST = 1e6  # absolute value of a bound: beyond, sampling grids lose their places
LEAST_WIDTH = 1e-6  # of the bounds; a point would have an entropy of −∞
HIDDEN = 32


class UniformFamily(Family):
    """Base of families whose fields are each uniform on a learned interval.

    φ gives any interval inside the bounds: it need not hold the identity, nor be symmetric. With s = σ(r_w) and
    t = σ(r_c), the width is s·(b − a) and lo = a + (1 − s)·t·(b − a), so lo < hi always and both stay in [a, b].

    Args:
        bounds: for each field, the widest range [a, b] allowed. Must hold the identity, which is 0 by default.

    Attributes:
        bounds: the same, as floats.
    """

    has_rsample = True

    def __init__(self, bounds: dict[str, tuple[float, float]]) -> None:
        identity = self.identity()
        for name, pair in bounds.items():
            given = pair  # one number by itself is told as any other that is no pair
            pair = () if isinstance(pair, Real) else several(f"bounds of {name!r} in family {self.name!r}", pair)
            inside = len(pair) == 2 and -LARGEST <= pair[0] <= identity[name] <= pair[1] <= LARGEST
            if not inside or not pair[0] < pair[1]:
                raise InstaAugError(
                    f"bounds of {name!r} in family {self.name!r} must be (low, high) around the identity "
                    f"{identity[name]:g}, got {given}"
                )
        self.bounds = {name: (float(low), float(high)) for name, (low, high) in bounds.items()}

    def identity(self) -> dict[str, float]:
        return dict.fromkeys(self.fields, 0.0)

    def config(self) -> dict[str, Any]:
        config = super().config()
        if "bounds" in config and len(self.fields) == 1:  # an argument of that name is the pair of the only field
            config["bounds"] = self.bounds[self.fields[0]]
        return config

    def head(self, spec: FeatureSpec) -> nn.Module:
        return UniformHead(spec, self._initial_raw())

    def _initial_raw(self) -> Tensor:
        """Raw outputs of a range 2 % of the bounds wide around the identity."""
        width = math.log(INITIAL_WIDTH / (1 - INITIAL_WIDTH))
        identity = self.identity()
        position = [(identity[name] - low) / (high - low) for name, (low, high) in self.bounds.items()]
        start = [min(max((p - INITIAL_WIDTH / 2) / (1 - INITIAL_WIDTH), 0.01), 0.99) for p in position]
        return torch.tensor([width] * len(start) + [math.log(t / (1 - t)) for t in start])

    def distribution(self, raw: Tensor) -> "UniformFamilyDistribution":
        return UniformFamilyDistribution(self, raw)

    def entropy_band(self) -> tuple[float, float]:
        return (-1.0 * len(self.fields), -0.3 * len(self.fields))

    def max_entropy(self) -> float:
        return 0.0

    @property
    def n_uniforms(self) -> int:
        return len(self.fields)

    def widest(self, uniform: Tensor, fraction: float = 1.0) -> dict[str, Tensor]:
        identity, fields = self.identity(), {}
        for index, (name, (low, high)) in enumerate(self.bounds.items()):
            width = (high - low) * fraction
            # The identity may lie at the edge of its bounds: the part around it is as wide, and lies to one side.
            start = max(low, min(identity[name] - width / 2, high - width))
            fields[name] = start + width * uniform[..., index]
        return fields


class UniformFamilyDistribution(FamilyDistribution):
    """Independent uniform fields; their entropies add up."""

    has_rsample = True

    def __init__(self, family: UniformFamily, raw: Tensor) -> None:
        self.n_uniforms = family.n_uniforms
        self._identity = family.identity()
        width, start = raw.float().sigmoid().chunk(2, dim=-1)  # (B, F) each
        self.fields: dict[str, BoundedUniform] = {}
        for index, name in enumerate(family.fields):
            low, high = family.bounds[name]
            w, t = width[..., index].clamp(min=LEAST_WIDTH), start[..., index]
            lo = low + (high - low) * (1 - w) * t
            self.fields[name] = BoundedUniform(lo, lo + (high - low) * w, (low, high), validate_args=False)

    def from_uniform(self, uniform: Tensor) -> dict[str, Tensor]:
        return {name: u.icdf(uniform[..., index]) for index, (name, u) in enumerate(self.fields.items())}

    def log_prob(self, params: AugmentParams) -> Tensor:
        return sum(u.log_prob(params[name]) for name, u in self.fields.items())

    def entropy(self) -> Tensor:
        return sum(u.entropy() for u in self.fields.values())

    def astray(self) -> Tensor:
        nearest = self.mode()
        gaps = [
            (nearest[name] - self._identity[name]).abs() / (u.bounds[1] - u.bounds[0])
            for name, u in self.fields.items()
        ]
        return sum(
            (gap - INITIAL_WIDTH).clamp(min=0) for gap in gaps
        )  # an identity at the edge of its bounds is never quite met

    def narrowed(self, fraction: float) -> "UniformFamilyDistribution":
        made = copy.copy(self)
        made.fields = {}
        for name, u in self.fields.items():
            middle, half = (u.lo + u.hi) / 2, (u.hi - u.lo) / 2 * fraction
            made.fields[name] = BoundedUniform(middle - half, middle + half, u.bounds, validate_args=False)
        return made

    def mode(self) -> dict[str, Tensor]:
        return {
            name: torch.minimum(torch.maximum(torch.full_like(u.lo, self._identity[name]), u.lo), u.hi)
            for name, u in self.fields.items()
        }

    def top(self, k: int, place: int = 0) -> dict[str, Tensor]:
        """Quantiles (i + ½)/k, each field in another order so that fields are not paired up."""
        fields, orders = {}, quantile_orders(k, place + len(self.fields))[place:]
        for order, (name, u) in zip(orders, self.fields.items(), strict=True):
            quantile = (torch.tensor(order).to(u.lo) + 0.5) / k
            fields[name] = u.icdf(quantile.unsqueeze(-1).expand(k, *u.batch_shape))
        return fields


@torch.compiler.assume_constant_result  # the compiler knows neither NumPy's old generator nor caches
def quantile_orders(k: int, n: int) -> list[tuple[int, ...]]:
    """``n`` fixed permutations of 0 … k−1, all different as long as there are so many.

    The first goes by halves (van der Corput's sequence), so that a few views cover the range; the others are random.
    """
    return _quantile_orders(k, n)


@lru_cache(maxsize=256)
def _quantile_orders(k: int, n: int) -> list[tuple[int, ...]]:
    # Plain numbers: an exporter, which traces tensors, cannot read them.
    halves = np.argsort(np.argsort([_radical_inverse(i + 1) for i in range(k)]))
    orders = [tuple(halves.tolist())]
    random = np.random.RandomState(k)  # whose numbers do not change between versions
    while len(orders) < n:
        tries = [_shuffled(k, random) for _ in range(100)]
        orders.append(next((order for order in tries if order not in orders), tries[0]))
    return orders[:n]


def _shuffled(k: int, random: np.random.RandomState) -> tuple[int, ...]:
    """What `torch.randperm` gives under the same seed."""
    order = list(range(k))
    for i, draw in enumerate(random.randint(0, 2**32, k - 1, dtype=np.uint32).tolist()):
        j = i + draw % (k - i)
        order[i], order[j] = order[j], order[i]
    return tuple(order)


def _radical_inverse(i: int) -> float:
    value, scale = 0.0, 0.5
    while i:
        i, digit = divmod(i, 2)
        value, scale = value + digit * scale, scale / 2
    return value


class UniformHead(nn.Module):
    """`Features` to the raw widths and starts of F fields, ``(B, 2·F)``."""

    def __init__(self, spec: FeatureSpec, initial: Tensor) -> None:
        super().__init__()
        self.hidden = nn.Linear(spec.vector_size, HIDDEN)
        self.out = nn.Linear(HIDDEN, len(initial))
        # Small, not zero: the trunk needs a gradient at the first step, the ranges must start near the identity.
        nn.init.normal_(self.out.weight, std=0.01 / GAIN)
        with torch.no_grad():
            self.out.bias.copy_(initial)

    def forward(self, features: Features) -> Tensor:
        hidden = torch.relu(self.hidden(features.vector))
        return F.linear(hidden, GAIN * self.out.weight, self.out.bias)

    @torch.no_grad()
    def shrink_(self, strength: float, mean: Tensor) -> None:
        """Let the image move the outputs by ``strength`` times as much about their ``mean`` over images."""
        self.out.weight.mul_(strength)
        self.out.bias.mul_(strength).add_(mean.to(self.out.bias), alpha=1 - strength)
