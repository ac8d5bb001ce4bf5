"""Translation by a learned range, in fractions of the frame."""

import torch
from torch import Tensor

from ..params import AugmentParams
from . import register
from .base import affine
from .uniform import UniformFamily


@register
class Translate(UniformFamily):
    """Move the picture right by ``shift_x`` and down by ``shift_y``, fractions of the frame's width and height.

    Args:
        x, y: the widest ranges, fractions.
    """

    name = "translate"
    fields = ("shift_x", "shift_y")
    stage = "geometry"
    order = 80

    def __init__(self, x: tuple[float, float] = (-0.5, 0.5), y: tuple[float, float] = (-0.5, 0.5)) -> None:
        super().__init__({"shift_x": x, "shift_y": y})
        self.x, self.y = self.bounds["shift_x"], self.bounds["shift_y"]

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        # The frame is 2 wide in these coordinates; out→in goes the other way.
        x, y = -2 * params.shift_x.float(), -2 * params.shift_y.float()
        one = torch.ones_like(x)
        return affine(one, one, x=x, y=y)
