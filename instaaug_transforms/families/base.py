"""The protocol of a transformation family: one kind of transformation whose strength is learned per image.

A family says how φ's features become a distribution (`head`, `distribution`) and how its parameters act on images
(`matrix` for a geometric family, `colour` for any other). It is one file in this folder, or one class anywhere:
`register` makes it known by its ``name``, and nothing else has to be edited. Families are independent given the image.
"""

import inspect
import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from ..params import AugmentParams
from ..utils.modes import check_holds_numbers

# Heads multiply their last weights, not their biases, with it: an optimiser that moves every parameter by the same
# step then tells images apart before it moves all of their ranges together.
GAIN = 3.0


def affine(
    xx: Tensor,
    yy: Tensor,
    *,
    xy: Tensor | None = None,
    yx: Tensor | None = None,
    x: Tensor | None = None,
    y: Tensor | None = None,
) -> Tensor:
    """Matrices ``(B, 3, 3)`` with rows (xx, xy, x), (yx, yy, y) and (0, 0, 1), of ``(B,)`` each; 0 where left out."""
    zero = torch.zeros_like(xx)
    entries = [xx, xy, x, yx, yy, y, None, None, zero + 1]
    return torch.stack([zero if entry is None else entry for entry in entries], -1).unflatten(-1, (3, 3))


class Features(NamedTuple):
    """What φ's trunk hands to every head."""

    map: Tensor  # (B, C, h, w), position kept: unit (i, j) looks at that part of the image
    vector: Tensor  # (B, D), a summary of the whole image


class FeatureSpec(NamedTuple):
    """The sizes a head is built for."""

    map_channels: int
    map_size: tuple[int, int]
    vector_size: int


class Limit(NamedTuple):
    """Which values of a field mean something to its family, and what to do about others."""

    low: float = -sys.float_info.max
    high: float = sys.float_info.max
    whole: bool = False  # whole numbers alone
    fix: str = ""

    def __str__(self) -> str:
        if self == Limit(fix=self.fix):
            return "any finite number"
        return f"{'whole ' * self.whole}numbers from {self.low:g} to {self.high:g}"


class FamilyDistribution(ABC):
    """p(τ_k | x) of one family for a batch of B images.

    Attributes:
        n_uniforms: how many uniform numbers one sample takes.
        has_rsample: whether samples carry gradients to φ (the pathwise estimator).
    """

    n_uniforms: int
    has_rsample: ClassVar[bool]

    @abstractmethod
    def from_uniform(self, uniform: Tensor) -> dict[str, Tensor]:
        """Uniform numbers ``(*sample_shape, B, n_uniforms)`` in [0, 1) to fields ``(*sample_shape, B)``."""

    @abstractmethod
    def log_prob(self, params: AugmentParams) -> Tensor:
        """Log density of ``(*sample_shape, B)`` parameters, relative to the family's widest distribution."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """``(B,)`` nats."""

    @abstractmethod
    def mode(self) -> dict[str, Tensor]:
        """The likeliest parameters, fields ``(B,)``; where all are equally likely, the one nearest the identity."""

    def astray(self) -> Tensor:
        """``(B,)`` how far what leaves an image as it is lies outside the ranges, parts of their bounds; 0 without ranges."""
        return torch.zeros_like(self.entropy())

    def narrowed(self, fraction: float) -> "FamilyDistribution":
        """The middle ``fraction`` of every range; a family without ranges stays as it is."""
        return self

    @abstractmethod
    def top(self, k: int, place: int = 0) -> dict[str, Tensor]:
        """``k`` parameters chosen without chance, fields ``(k, B)``: the likeliest, or evenly spaced quantiles.

        Args:
            k: how many.
            place: fields of the families before this one: no two fields take their quantiles in one order.
        """


class Family(ABC):
    """One transformation family. Constructor arguments must be JSON values kept as attributes of the same name.

    Class attributes:
        name: what users write in ``LearnedAugment([...])``; also the key of entropy bands.
        fields: the names of its parameters in `AugmentParams`.
        stage: ``"geometry"`` (has `matrix`; all such families share one resample) or ``"colour"`` (has `colour`).
        order: position among the families of its stage, ascending.
        stays_inside: a geometric family that never shows what lies outside the image.
        channels: the numbers of image channels it is defined on, None for any.
        has_rsample: whether samples carry gradients to φ: true of ranges, false of tables of candidates.
        changes_frame: whether what it shows may have other proportions than the image, see `frame_aspect`.
        uses_backend: whether `colour` takes a third argument, the name of the kernels to use.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    stage: ClassVar[str]
    order: ClassVar[int] = 50
    stays_inside: ClassVar[bool] = False
    changes_frame: bool = False
    channels: ClassVar[tuple[int, ...] | None] = None
    has_rsample: ClassVar[bool]
    uses_backend: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        check_holds_numbers()
        return super().__new__(cls)

    @abstractmethod
    def identity(self) -> dict[str, float]:
        """The value of each field that leaves an image alone."""

    def limits(self) -> dict[str, Limit]:
        """Of fields for which not any finite number will do, which: for parameters that are made by hand."""
        return {}

    @property
    def acting_fields(self) -> tuple[str, ...]:
        """The fields that views are applied by."""
        return self.fields

    def left_out(self, params: AugmentParams) -> dict[str, Tensor]:
        """What acting fields that ``params`` leave out stand for, if they have others of this family: the identity."""
        absent = [name for name in self.acting_fields if name not in params]
        present = [name for name in self.acting_fields if name in params]
        if not absent or not present:
            return {}
        identity, device = self.identity(), params[present[0]].device
        return {name: torch.full(params.batch_shape, float(identity[name]), device=device) for name in absent}

    @abstractmethod
    def head(self, spec: FeatureSpec) -> nn.Module:
        """A module from `Features` to raw outputs ``(B, R)``; at first they describe a narrow range at the identity."""

    @abstractmethod
    def distribution(self, raw: Tensor) -> FamilyDistribution:
        """The distribution that raw outputs ``(B, R)`` describe."""

    @property
    @abstractmethod
    def n_uniforms(self) -> int:
        """How many uniform numbers one draw takes."""

    @abstractmethod
    def widest(self, uniform: Tensor, fraction: float = 1.0) -> dict[str, Tensor]:
        """Uniform numbers ``(*sample_shape, n_uniforms)`` in [0, 1) to fields drawn from the widest distribution allowed.

        Args:
            uniform: see above.
            fraction: of a range, the part around the identity that is drawn from; candidates are drawn from all.
        """

    @property
    def n_disturb(self) -> int:
        """How many uniform numbers `disturb` takes."""
        return self.n_uniforms

    def disturb(self, uniform: Tensor) -> dict[str, Tensor]:
        """Uniform numbers ``(*sample_shape, n_disturb)`` to a disturbance that this family can undo (``nuisance=``)."""
        return self.widest(uniform)

    @abstractmethod
    def entropy_band(self) -> tuple[float, float]:
        """The default entropy band, in units of `entropy_unit`."""

    @abstractmethod
    def max_entropy(self) -> float:
        """The largest entropy, nats: 0 for ranges, log A for a table of A candidates."""

    @property
    def entropy_unit(self) -> tuple[float, str]:
        """Nats per unit of an entropy band, and the unit's name."""
        return 1.0, "nats"

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        """Out→in matrices ``(B, 3, 3)`` in [−1, 1] coordinates of the frame this family acts in.

        Args:
            params: ``(B,)`` parameters.
            aspect: ``(B,)``, width over height of that frame in pixels, so that rigid motions can stay rigid.
        """
        raise NotImplementedError(f"family {self.name!r} is not geometric")

    def keeps_inside(self, height: int, width: int) -> bool:
        """Whether no image of this size shows what lies outside it."""
        return self.stays_inside

    def swaps_sides(self, params: AugmentParams) -> bool:
        """Whether a single image, not square, changes places of height and width."""
        return False

    def frame_aspect(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        """Width over height, in pixels, of the frame the next family acts in."""
        return aspect

    def box(self, params: AugmentParams) -> tuple[float, float, float, float, bool] | None:
        """What ``(1,)`` parameters show, if that is a box of the image: left, top, right and bottom, fractions, and whether
        it is mirrored. None where only `matrix` says what they do."""
        return None

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1], fp32, with this family's change to the pixels' values."""
        raise NotImplementedError(f"family {self.name!r} does not change pixel values")

    def shown(self, images: Tensor, params: AugmentParams) -> Tensor:
        """How much of each pixel is still the image's, ``(B, 1, H, W)``, after `colour`; 0 where another took its place.

        Args:
            images: the same before it.
            params: ``(B,)`` parameters.
        """
        return images

    def config(self) -> dict[str, Any]:
        """Constructor arguments that make this family again, as JSON values."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"
