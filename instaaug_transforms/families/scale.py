"""Scaling by a learned range, about the centre of the frame."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError, several
from . import register
from .base import affine
from .uniform import UniformFamily


@register
class Scale(UniformFamily):
    """Draw the picture ``2^log2_scale`` times as large about the centre of the frame; smaller shows `fill` around it.

    Args:
        bounds: the widest range of factors; 1 leaves the picture as it is. Factors are uniform in their logarithm, so
            that twice and half as large are equally far from 1.
    """

    name = "scale"
    fields = ("log2_scale",)
    stage = "geometry"
    order = 60

    def __init__(self, bounds: tuple[float, float] = (0.5, 2.0)) -> None:
        given = bounds
        bounds = () if isinstance(bounds, Real) else several("bounds of family 'scale'", bounds)
        if len(bounds) != 2 or not 0 < bounds[0] < bounds[1]:
            raise InstaAugError(f"bounds of family 'scale' must be factors, 0 < low < high, got {given}")
        super().__init__({"log2_scale": (math.log2(bounds[0]), math.log2(bounds[1]))})
        self._factors = (float(bounds[0]), float(bounds[1]))

    def config(self) -> dict[str, Any]:
        return {"bounds": self._factors}

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        step = torch.exp2(-params.log2_scale.float())
        return affine(step, step)
