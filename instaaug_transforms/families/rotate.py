"""Rotation by an angle of a learned range."""

import torch
from torch import Tensor

from ..params import AugmentParams
from . import register
from .uniform import UniformFamily


@register
class Rotate(UniformFamily):
    """Rotate counter-clockwise by ``angle`` degrees about the centre of the crop box, rigidly in pixels.

    Args:
        bounds: the widest range of angles, degrees.
    """

    name = "rotate"
    fields = ("angle",)
    stage = "geometry"
    order = 50

    def __init__(self, bounds: tuple[float, float] = (-180.0, 180.0)) -> None:
        super().__init__({"angle": bounds})

    def identity(self) -> dict[str, float]:
        return {"angle": 0.0}

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        radians = params.angle.float().deg2rad()
        cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
        # Out→in is the inverse turn; with y pointing down that is [cos −sin; sin cos], and the frame's aspect
        # takes [−1, 1] to pixels and back.
        rows = [cos, -sin / aspect, zero, sin * aspect, cos, zero, zero, zero, zero + 1]
        return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
