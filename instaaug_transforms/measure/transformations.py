"""The transformations a model is measured under: named, with magnitudes, and an identity that is exact."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .. import functional
from ..families.hsv import HSV
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from .warp import Fill, warp

Matrix = list[list[float]]


@dataclass(frozen=True)
class Transformation:
    """One transformation over a range of magnitudes.

    Attributes:
        name: what reports call it.
        magnitudes: what is tried, ascending or descending; holds ``identity`` exactly once.
        identity: the magnitude that changes nothing; `apply` returns the very images there.
        unit: of the magnitudes.
        kind: ``"geometry"`` or ``"appearance"``.
        matrix: magnitude to the in→out matrix ``(2, 2)`` and shift ``(2,)``, see `warp`; geometry alone.
        colour: (images, magnitude) to images; appearance alone.
        uses_fill: whether what lies outside the image is ever seen.
        channels: numbers of channels it is defined on, None for any.
    """

    name: str
    magnitudes: tuple[float, ...]
    identity: float
    unit: str
    kind: str
    matrix: Callable[[float], tuple[Matrix, tuple[float, float]]] | None = None
    colour: Callable[[Tensor, float], Tensor] | None = None
    uses_fill: bool = False
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        given = {"geometry": self.matrix, "appearance": self.colour}
        if given.get(self.kind) is None or sum(way is not None for way in given.values()) != 1:
            raise InstaAugError(
                f"transformation {self.name!r}: expected kind 'geometry' with matrix= or 'appearance' with colour=, got "
                f"kind {self.kind!r}"
            )
        steps = np.diff(self.magnitudes)
        if list(self.magnitudes).count(self.identity) != 1 or not ((steps > 0).all() or (steps < 0).all()):
            raise InstaAugError(
                f"magnitudes of {self.name!r}: expected ascending or descending values that hold the identity "
                f"{self.identity:g} once, got {tuple(self.magnitudes)}"
            )

    def apply(self, images: Tensor, magnitude: float, fill: Fill = 0.0) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] under one magnitude; the same object at the identity."""
        if magnitude == self.identity:
            return images
        if self.colour is not None:
            return self.colour(images, magnitude)
        return warp(images, *self.matrix(magnitude), fill=fill)

    def with_magnitudes(self, magnitudes: Sequence[float]) -> "Transformation":
        """The same over other magnitudes, which must hold the identity."""
        return replace(self, magnitudes=tuple(float(m) for m in magnitudes))


def _grid(low: float, high: float, n: int = 11) -> tuple[float, ...]:
    return tuple(round(float(x), 10) for x in np.linspace(low, high, n))


def _turn(degrees: float) -> tuple[Matrix, tuple[float, float]]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[cos, sin], [-sin, cos]], (0.0, 0.0)  # counter-clockwise where y points down


def _scale(factor: float) -> tuple[Matrix, tuple[float, float]]:
    return [[factor, 0.0], [0.0, factor]], (0.0, 0.0)


def _shear_x(degrees: float) -> tuple[Matrix, tuple[float, float]]:
    return [[1.0, math.tan(math.radians(degrees))], [0.0, 1.0]], (0.0, 0.0)


def _shear_y(degrees: float) -> tuple[Matrix, tuple[float, float]]:
    return [[1.0, 0.0], [math.tan(math.radians(degrees)), 1.0]], (0.0, 0.0)


def _move_x(fraction: float) -> tuple[Matrix, tuple[float, float]]:
    return [[1.0, 0.0], [0.0, 1.0]], (fraction, 0.0)


def _move_y(fraction: float) -> tuple[Matrix, tuple[float, float]]:
    return [[1.0, 0.0], [0.0, 1.0]], (0.0, fraction)


def _hsv(images: Tensor, **fields: float) -> Tensor:
    values = {"hue": 0.0, "saturation": 1.0, "value": 1.0} | fields
    params = {name: torch.full((len(images),), value, device=images.device) for name, value in values.items()}
    return functional.apply(images, AugmentParams(**params), [HSV()])


# The whole circle, finer where models begin to mind; −180° is +180°.
_ANGLES = (-135.0, -90.0, -45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0, 90.0, 180.0)
_BITS = (8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)

_ALL = (
    Transformation("rotate", _ANGLES, 0.0, "degrees, counter-clockwise", "geometry", _turn, uses_fill=True),
    Transformation("translate_x", _grid(-0.5, 0.5), 0.0, "of the width, right", "geometry", _move_x, uses_fill=True),
    Transformation("translate_y", _grid(-0.5, 0.5), 0.0, "of the height, down", "geometry", _move_y, uses_fill=True),
    Transformation("shear_x", _grid(-40, 40), 0.0, "degrees", "geometry", _shear_x, uses_fill=True),
    Transformation("shear_y", _grid(-40, 40), 0.0, "degrees", "geometry", _shear_y, uses_fill=True),
    Transformation("zoom_in", _grid(1, 2), 1.0, "× size", "geometry", _scale),
    Transformation("zoom_out", _grid(1, 0.5), 1.0, "× size", "geometry", _scale, uses_fill=True),
    Transformation("brightness_up", _grid(1, 1.9), 1.0, "factor", "appearance", colour=F.adjust_brightness),
    Transformation("brightness_down", _grid(1, 0.1), 1.0, "factor", "appearance", colour=F.adjust_brightness),
    Transformation("contrast_up", _grid(1, 1.9), 1.0, "factor", "appearance", colour=F.adjust_contrast),
    Transformation("contrast_down", _grid(1, 0.1), 1.0, "factor", "appearance", colour=F.adjust_contrast),
    Transformation("posterize", _BITS, 8.0, "bits", "appearance", colour=lambda x, m: F.posterize(x, int(m))),
    Transformation("solarize", _grid(1, 0), 1.0, "threshold", "appearance", colour=F.solarize),
    Transformation(
        "hue", _grid(-0.5, 0.5), 0.0, "turns", "appearance", colour=lambda x, m: _hsv(x, hue=m), channels=(3,)
    ),
    Transformation(
        "saturation", _grid(0, 2), 1.0, "factor", "appearance", colour=lambda x, m: _hsv(x, saturation=m), channels=(3,)
    ),
)
STANDARD = {transformation.name: transformation for transformation in _ALL}
"""The fifteen transformations by name: thirteen for any image, hue and saturation (this package's own) for RGB."""


def choose(wanted: Sequence[str | Transformation] | None, channels: int) -> list[Transformation]:
    """Names or `Transformation` objects to objects; None for every one defined on ``channels`` channels.

    Raises:
        InstaAugError: an unknown name, one given twice, none at all, or one that is not defined on such images.
    """
    if wanted is None:
        return [t for t in STANDARD.values() if t.channels is None or channels in t.channels]
    if isinstance(wanted, (str, Transformation)):
        wanted = [wanted]
    chosen = []
    for item in wanted:
        if isinstance(item, str) and item not in STANDARD:
            raise InstaAugError(f"transformations: unknown {item!r}; known are {', '.join(STANDARD)}")
        if not isinstance(item, (str, Transformation)):
            raise InstaAugError(f"transformations: expected names or Transformation, got {type(item).__name__}")
        chosen.append(STANDARD[item] if isinstance(item, str) else item)
    names = [t.name for t in chosen]
    if not names or len(set(names)) < len(names):
        raise InstaAugError(f"transformations: expected at least one, each once, got {names}")
    for t in chosen:
        if t.channels is not None and channels not in t.channels:
            raise InstaAugError(
                f"transformations: {t.name!r} is defined on {t.channels} channels, the images have {channels}; leave it out"
            )
    return chosen
