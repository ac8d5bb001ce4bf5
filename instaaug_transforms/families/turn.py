"""Turns by one of a few angles: which way is up."""

import math

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError, several
from . import register
from .anchors import AnchorFamily
from .base import affine


@register
class Turn(AnchorFamily):
    """Turn counter-clockwise by ``turn_angle`` degrees about the centre, rigidly in pixels.

    Quarter turns of square images copy pixels; nothing is resampled. A single image that is not square swaps its sides;
    images of a batch or a clip keep their canvas, and what a turn shows from outside is `fill`.

    Args:
        angles: degrees, all different turns, 0 first; −15 is 345.
        initial_identity: p(0°) before any fit.
    """

    name = "turn"
    fields = ("turn_angle", "turn")
    stage = "geometry"
    order = 40

    def __init__(self, angles: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0), initial_identity: float = 0.9) -> None:
        self.angles = tuple(float(angle) % 360 for angle in several("turn: angles", angles))
        distinct = len(set(self.angles)) == len(self.angles) and all(map(math.isfinite, self.angles))
        if not self.angles or self.angles[0] != 0 or not distinct:
            raise InstaAugError(f"turn: angles must be different turns and start with 0, got {tuple(angles)}")
        super().__init__({"turn_angle": torch.tensor(self.angles)}, initial_identity)

    def keeps_inside(self, height: int, width: int) -> bool:
        return height == width and all(angle % 90 == 0 for angle in self.angles)

    def swaps_sides(self, params: AugmentParams) -> bool:
        return "turn_angle" in params and bool((params.turn_angle % 180 == 90).all())

    def nearest(self, params: AugmentParams) -> Tensor:
        return self._nearest(params.turn_angle)

    def undoing(self, fields: dict[str, Tensor]) -> Tensor:
        return self._nearest(-fields["turn_angle"])

    def _nearest(self, angle: Tensor) -> Tensor:
        gap = (angle.unsqueeze(-1) - torch.tensor(self.angles).to(angle)) % 360
        return torch.minimum(gap, 360 - gap).argmin(-1)

    def compose_index(self) -> Tensor | None:
        total = (torch.tensor(self.angles)[:, None] + torch.tensor(self.angles)) % 360
        same = (total.unsqueeze(-1) - torch.tensor(self.angles)).abs() < 1e-4  # (A, A, A)
        return same.int().argmax(-1) if bool(same.any(-1).all()) else None

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        radians = params.turn_angle.float().deg2rad()
        # Quarter turns exactly: sin(π) is not 0 in floating point.
        quarter = params.turn_angle % 90 == 0
        cos, sin = (torch.where(quarter, wave.round(), wave) for wave in (radians.cos(), radians.sin()))
        return affine(cos, cos, xy=-sin / aspect, yx=sin * aspect)
