"""`AnchorFamily`: a table of candidates, one of which is taken (what crop, turn and light are)."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributions import AnchorCategorical
from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_number
from .base import GAIN, Family, FamilyDistribution, Features, FeatureSpec, Limit

CHANNELS = 32
HIDDEN = 128


class AnchorFamily(Family):
    """Base of families that take one of A candidates per image. Candidate 0 is the identity.

    Its parameters are the columns of the table and, last in `fields`, the index of the candidate that was taken. A new
    family passes its table to this constructor and says how parameters act (`matrix` or `colour`); the loss table, exact
    fitting, the input-free arms, ``views="all"``, entropy bands and pictures follow.

    Args:
        candidates: fields but the last to columns ``(A,)``, row 0 the identity.
        initial_identity: p(identity) before any fit, in (0, 1).
        size: A, for a family whose only field is the index.

    Attributes:
        index_field: the last of `fields`: which candidate was taken.
    """

    has_rsample = False
    n_jitter: ClassVar[int] = 0  # uniform numbers that `jittered` takes, where ``jitter`` is on
    jitter: bool = False

    def __init__(
        self, candidates: Mapping[str, Tensor], initial_identity: float = 0.9, size: int | None = None
    ) -> None:
        check_number(f"{self.name}: initial_identity", initial_identity, "(0, 1)")
        sizes = {len(column) for column in candidates.values()} | ({size} if size is not None else set())
        if tuple(candidates) != self.fields[:-1] or len(sizes) != 1 or not all(sizes):
            raise InstaAugError(
                f"{self.name}: candidates must be columns of equal length for {', '.join(self.fields[:-1])}, got "
                f"{ {name: tuple(column.shape) for name, column in candidates.items()} }"
            )
        self.initial_identity = float(initial_identity)
        self._columns = {name: column.float() for name, column in candidates.items()}
        # Read once: what is compiled reads no tensors.
        self._identity = {name: column[0].item() for name, column in self._columns.items()} | {self.index_field: 0}
        self._table = torch.stack([*self._columns.values()], 1) if self._columns else torch.empty(size, 0)
        (self._size,) = sizes

    @property
    def index_field(self) -> str:
        return self.fields[-1]

    @property
    def acting_fields(self) -> tuple[str, ...]:
        """Not the index of a candidate, unless there is nothing else."""
        return self.fields[:-1] or self.fields

    def left_out(self, params: AugmentParams) -> dict[str, Tensor]:
        """As for every family; where the index is there, what the candidate has."""
        if self.index_field not in params:
            return super().left_out(params)
        absent = [name for name in self.acting_fields if name not in params]
        if not absent:
            return {}
        index = params[self.index_field].long()
        if not (torch.compiler.is_compiling() or index.device.type == "meta"):
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= self.n_candidates:
                raise InstaAugError(
                    f"{self.index_field}: it says which candidate, a whole number from 0 to {self.n_candidates - 1}, got {low} to {high}; "
                    f"values are those of {', '.join(absent)}"
                )
        taken = self.take(index)
        return {name: taken[name] for name in absent}

    def limits(self) -> dict[str, Limit]:
        values = f"; values are those of {', '.join(self.fields[:-1])}" if self.fields[:-1] else ""
        return {self.index_field: Limit(0, self.n_candidates - 1, True, f"it says which candidate{values}")}

    @property
    def n_candidates(self) -> int:
        """A."""
        return self._size

    def candidates(self) -> AugmentParams:
        """Every candidate once, ``(A,)``."""
        return AugmentParams(**self.take(torch.arange(self.n_candidates)))

    def take(self, index: Tensor) -> dict[str, Tensor]:
        """Fields of the candidates ``index``, of its shape."""
        table = self._table.to(index.device)
        rows = table.index_select(0, index) if index.ndim == 1 else table[index]  # the one is quicker, for one image
        return {**dict(zip(self._columns, rows.unbind(-1), strict=True)), self.index_field: index}

    def nearest(self, params: AugmentParams) -> Tensor:
        """Index of the candidate nearest to parameters that were made by hand, of their shape."""
        distance = sum(
            (params[name].unsqueeze(-1) - column.to(params[name])).abs() for name, column in self._columns.items()
        )
        return distance.argmin(-1)

    def jittered(self, fields: dict[str, Tensor], uniform: Tensor) -> dict[str, Tensor]:
        """Fields moved inside their candidate's cell by ``(*, n_jitter)`` uniform numbers."""
        return fields

    def log_prior(self) -> Tensor:
        """``(A,)``: log-probabilities before any fit."""
        rest = math.log((1 - self.initial_identity) / max(self.n_candidates - 1, 1))
        return torch.tensor([math.log(self.initial_identity)] + [rest] * (self.n_candidates - 1))

    def mirror_index(self) -> Tensor | None:
        """``(A,)``: candidate a of a mirrored image shows what candidate ``mirror_index[a]`` of the image shows.

        None where the table has no such pairs.
        """
        return None

    def undoing(self, fields: dict[str, Tensor]) -> Tensor:
        """Index of the candidate that comes nearest to undoing disturbances ``fields`` (see `disturb`), of their shape.

        Raises:
            InstaAugError: a family whose disturbances nothing undoes.
        """
        raise InstaAugError(f"family {self.name!r} has no candidates that undo each other")

    def compose_index(self) -> Tensor | None:
        """``(A, A)``: candidate b of what candidate a made is candidate ``compose_index[a, b]`` of the image.

        None where the table is not closed under composition.
        """
        return None

    @property
    def n_uniforms(self) -> int:
        return 1 + (self.n_jitter if self.jitter else 0)

    def widest(self, uniform: Tensor, fraction: float = 1.0) -> dict[str, Tensor]:
        index = (uniform[..., 0] * self.n_candidates).long().clamp(max=self.n_candidates - 1)
        return self._draw(index, uniform)

    def _draw(self, index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        fields = self.take(index)
        return self.jittered(fields, uniform[..., 1:]) if self.jitter else fields

    def identity(self) -> dict[str, float]:
        return dict(self._identity)

    def head(self, spec: FeatureSpec) -> nn.Module:
        return CandidateHead(self.log_prior(), spec)

    def distribution(self, raw: Tensor) -> "AnchorDistribution":
        return AnchorDistribution(self, raw)

    def entropy_band(self) -> tuple[float, float]:
        return (0.4, 0.6)

    def max_entropy(self) -> float:
        return math.log(self.n_candidates)

    @property
    def entropy_unit(self) -> tuple[float, str]:
        return self.max_entropy(), "fractions of log A"


class AnchorDistribution(FamilyDistribution):
    """Categorical over the candidates; the only randomness besides is the jitter.

    Args:
        family: whose table it is.
        logits: ``(B, A)``.
    """

    has_rsample = False

    def __init__(self, family: AnchorFamily, logits: Tensor) -> None:
        self.family = family
        self.categorical = AnchorCategorical(logits, validate_args=False)
        self.n_uniforms = family.n_uniforms

    def from_uniform(self, uniform: Tensor) -> dict[str, Tensor]:
        return self.family._draw(self.categorical.icdf(uniform[..., 0]), uniform)

    def index(self, params: AugmentParams) -> Tensor:
        """Which candidate each of ``(*sample_shape, B)`` parameters is."""
        return params[self.family.index_field] if self.family.index_field in params else self.family.nearest(params)

    def log_prob(self, params: AugmentParams) -> Tensor:
        return self.categorical.log_prob(self.index(params))

    def entropy(self) -> Tensor:
        return self.categorical.entropy()

    def mode(self) -> dict[str, Tensor]:
        return self.family.take(self.categorical.mode)

    def top(self, k: int, place: int = 0) -> dict[str, Tensor]:
        return self.family.take(self.categorical.top(k))


class CandidateHead(nn.Module):
    """`Features` to one logit per candidate, ``(B, A)``, for candidates without a place of their own.

    Which way up an image is, or how it is lit, is told by where things are: the feature map is read unit by unit,
    beside the summary of the whole image.

    Args:
        start: ``(A,)`` logits before any fit.
        spec: sizes of the features.
    """

    def __init__(self, start: Tensor, spec: FeatureSpec) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(spec.map_channels, CHANNELS, 1)
        self.local = nn.Linear(CHANNELS * spec.map_size[0] * spec.map_size[1], HIDDEN)
        self.context = nn.Linear(spec.vector_size, HIDDEN, bias=False)
        # What the summary says outright; nothing at first.
        self.direct = nn.Linear(spec.vector_size, len(start), bias=False)
        nn.init.zeros_(self.direct.weight)
        self.out = nn.Linear(HIDDEN, len(start))
        nn.init.normal_(self.out.weight, std=0.01 / GAIN)
        with torch.no_grad():
            self.out.bias.copy_(start)

    def forward(self, features: Features) -> Tensor:
        local = F.gelu(self.reduce(features.map)).flatten(1)  # (B, C·h·w)
        hidden = F.gelu(self.local(local) + self.context(features.vector))
        return F.linear(hidden, GAIN * self.out.weight, self.out.bias) + self.direct(features.vector)

    @torch.no_grad()
    def shrink_(self, strength: float, mean: Tensor) -> None:
        """Let the image move the logits by ``strength`` times as much about their ``mean`` (A,) over images."""
        self.direct.weight.mul_(strength)
        self.out.weight.mul_(strength)
        self.out.bias.mul_(strength).add_(mean.to(self.out.bias), alpha=1 - strength)

    @torch.no_grad()
    def shift_(self, by: Tensor) -> None:
        """Add ``by`` (A,) to the logits of every image."""
        self.out.bias.add_(by)

    @torch.no_grad()
    def zero_(self) -> None:
        """Leave nothing but what the image says: logits start at 0, as the predicted losses of a critic should."""
        self.out.bias.zero_()
