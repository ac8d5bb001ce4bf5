"""Rotation by an angle of a learned range."""

from torch import Tensor

from ..params import AugmentParams
from . import register
from .base import affine
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

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        radians = params.angle.float().deg2rad()
        cos, sin = radians.cos(), radians.sin()
        # Out→in is the inverse turn; with y pointing down that is [cos −sin; sin cos], and the frame's aspect
        # takes [−1, 1] to pixels and back.
        return affine(cos, cos, xy=-sin / aspect, yx=sin * aspect)
