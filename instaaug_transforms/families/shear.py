"""Shear by learned ranges of angles."""

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError
from . import register
from .base import Limit, affine
from .uniform import UniformFamily

STEEPEST, LYING = 80.0, 89.0  # degrees, learned and by hand; at 90 lines would lie down


@register
class Shear(UniformFamily):
    """Lean vertical lines by ``shear_x`` and horizontal ones by ``shear_y`` degrees about the centre of the frame.

    Both together are torchvision's ``affine(shear=[x, y])``.

    Args:
        x, y: the widest ranges of angles, degrees, inside ±80.
    """

    name = "shear"
    fields = ("shear_x", "shear_y")
    stage = "geometry"
    order = 70

    def __init__(self, x: tuple[float, float] = (-45.0, 45.0), y: tuple[float, float] = (-45.0, 45.0)) -> None:
        super().__init__({"shear_x": x, "shear_y": y})
        if max(abs(end) for pair in self.bounds.values() for end in pair) > STEEPEST:
            raise InstaAugError(f"shear: x and y must lie inside ±{STEEPEST:g} degrees, got {tuple(x)} and {tuple(y)}")
        self.x, self.y = self.bounds["shear_x"], self.bounds["shear_y"]

    def limits(self) -> dict[str, Limit]:
        return dict.fromkeys(self.fields, Limit(-LYING, LYING, fix="it is in degrees"))

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        x, y = params.shear_x.float().deg2rad().tan(), params.shear_y.float().deg2rad().tan()
        # Shears in pixels, x·width = pixels: the off-diagonals take the frame's aspect.
        return affine(1 + x * y, torch.ones_like(x), xy=x / aspect, yx=y * aspect)
