"""The transformations a model is measured under, with an exact identity: of the package's families, or torchvision's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .. import functional
from ..families import Family
from ..families.hsv import HSV
from ..families.rotate import Rotate
from ..families.scale import Scale
from ..families.shear import Shear
from ..families.translate import Translate
from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_distinct
from .warp import Outside, warp


@dataclass(frozen=True)
class Transformation:
    """One transformation over a range of magnitudes.

    Attributes:
        name: what reports call it.
        magnitudes: what is tried, ascending or descending; holds ``identity`` exactly once.
        identity: the magnitude that changes nothing; `apply` returns the very images there.
        unit: of the magnitudes.
        matrix: of a geometric one: (magnitude, width over height) to the out→in ``(3, 3)`` in [−1, 1] coordinates.
        colour: of any other: (images, magnitude) to images.
        uses_fill: whether what lies outside the image is ever seen.
        channels: numbers of channels it is defined on, None for any.
    """

    name: str
    magnitudes: tuple[float, ...]
    identity: float
    unit: str
    matrix: Callable[[float, float], Tensor] | None = None
    colour: Callable[[Tensor, float], Tensor] | None = None
    uses_fill: bool = False
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.matrix is None) == (self.colour is None):
            raise InstaAugError(f"transformation {self.name!r}: expected exactly one of matrix= and colour=")
        steps = np.diff(self.magnitudes)
        if list(self.magnitudes).count(self.identity) != 1 or not ((steps > 0).all() or (steps < 0).all()):
            raise InstaAugError(
                f"magnitudes of {self.name!r}: expected ascending or descending values that hold the identity "
                f"{self.identity:g} once, got {tuple(self.magnitudes)}"
            )

    @property
    def kind(self) -> str:
        """``"geometry"`` or ``"appearance"``."""
        return "appearance" if self.matrix is None else "geometry"

    @classmethod
    def of_family(
        cls, family: Family, field: str, magnitudes: Sequence[float], *, name: str | None = None, unit: str = ""
    ) -> "Transformation":
        """One field of a family over its values, the identity among them; the index of a candidate stands for all it does.

        Raises:
            InstaAugError: a field that the family does not have.
        """
        rest = family.identity()
        if field not in rest:
            raise InstaAugError(f"field: {family.name!r} has {', '.join(rest)}, got {field!r}")
        geometry, steps = family.stage == "geometry", tuple(float(m) for m in magnitudes)
        acts = {"matrix": partial(_matrix, family, field)} if geometry else {"colour": partial(_colour, family, field)}
        uses_fill = geometry and not family.keeps_inside(1, 2)
        return cls(name or field, steps, rest[field], unit, **acts, uses_fill=uses_fill, channels=family.channels)

    def apply(self, images: Tensor, magnitude: float, fill: Outside = 0.0) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] under one magnitude; the same object at the identity."""
        if magnitude == self.identity:
            return images
        if self.colour is not None:
            return self.colour(images, magnitude)
        return warp(images, self.matrix(magnitude, images.shape[-1] / images.shape[-2]), fill)

    def with_magnitudes(self, magnitudes: Sequence[float]) -> "Transformation":
        """The same over other magnitudes, which must hold the identity."""
        return replace(self, magnitudes=tuple(float(m) for m in magnitudes))


# Functions of the module, not inner ones: a report holds its transformations, and reports are pickled.
def _matrix(family: Family, field: str, value: float, aspect: float) -> Tensor:
    params = functional.complete([family], AugmentParams.alike({field: value}, 1))
    return family.matrix(params, torch.tensor([float(aspect)]))[0]


def _colour(family: Family, field: str, images: Tensor, value: float) -> Tensor:
    return functional.apply(images, AugmentParams.alike({field: value}, len(images), images.device), [family])


def _zoom_matrix(factor: float, aspect: float) -> Tensor:
    return _matrix(Scale(), "log2_scale", math.log2(factor), aspect)


def _posterize(images: Tensor, bits: float) -> Tensor:
    return F.posterize(images, int(bits))


def _grid(low: float, high: float, n: int = 11) -> tuple[float, ...]:
    return tuple(round(float(x), 10) for x in np.linspace(low, high, n))


def _zoom(name: str, farthest: float) -> Transformation:
    return Transformation(name, _grid(1, farthest), 1.0, "× size", _zoom_matrix, uses_fill=farthest < 1)


# The whole circle, finer where models begin to mind; −180° is +180°.
_ANGLES = (-135.0, -90.0, -45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0, 90.0, 180.0)
_field = Transformation.of_family

_ALL = (
    _field(Rotate(), "angle", _ANGLES, name="rotate", unit="degrees, counter-clockwise"),
    _field(Translate(), "shift_x", _grid(-0.5, 0.5), name="translate_x", unit="of the width, right"),
    _field(Translate(), "shift_y", _grid(-0.5, 0.5), name="translate_y", unit="of the height, down"),
    _field(Shear(), "shear_x", _grid(-40, 40), unit="degrees"),
    _field(Shear(), "shear_y", _grid(-40, 40), unit="degrees"),
    _zoom("zoom_in", 2),
    _zoom("zoom_out", 0.5),
    *(
        Transformation(f"{name}_{way}", _grid(1, farthest), 1.0, "factor", colour=colour, channels=(1, 3))
        for name, colour in (("brightness", F.adjust_brightness), ("contrast", F.adjust_contrast))
        for way, farthest in (("up", 1.9), ("down", 0.1))
    ),
    Transformation("posterize", _grid(8, 1, 8), 8.0, "bits", colour=_posterize),
    Transformation("solarize", _grid(1, 0), 1.0, "threshold", colour=F.solarize),
    _field(HSV(), "hue", _grid(-0.5, 0.5), unit="turns"),
    _field(HSV(), "saturation", _grid(0, 2), unit="factor"),
)
STANDARD = {transformation.name: transformation for transformation in _ALL}
"""The fifteen transformations by name: nine for any image, brightness and contrast for one or three channels, hue and saturation for RGB."""


def choose(wanted: Sequence[str | Transformation] | None, channels: int) -> list[Transformation]:
    """Names and `Transformation` objects to objects; None to all of `STANDARD` that are defined on ``channels`` channels."""
    if wanted is None:
        return [t for t in STANDARD.values() if t.channels is None or channels in t.channels]
    chosen = []
    for item in [wanted] if isinstance(wanted, (str, Transformation)) else wanted:
        t = item if isinstance(item, Transformation) else STANDARD.get(item)
        if t is None:
            raise InstaAugError(
                f"transformations: unknown {item!r}; known are {', '.join(STANDARD)}, or Transformation(…)"
            )
        if t.channels is not None and channels not in t.channels:
            raise InstaAugError(
                f"transformations: {t.name!r} is defined on {t.channels} channels, the images have {channels}; leave it out"
            )
        if len(t.magnitudes) < 2:
            raise InstaAugError(f"transformations: {t.name!r} has no magnitude but the identity; give it others")
        chosen.append(t)
    check_distinct("transformations", [t.name for t in chosen])
    return chosen
