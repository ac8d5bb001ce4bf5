"""Hue, saturation and value, each changed by an amount of a learned range."""

import math

import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from torch import Tensor

from ..params import AugmentParams
from . import register
from .uniform import UniformFamily


@register
class HSV(UniformFamily):
    """Add ``hue`` turns (modulo 1); multiply saturation and value (1 is the identity), clamped to [0, 1].

    Args:
        hue: the widest range of hue shifts, turns.
        saturation, value: the widest ranges of factors.
    """

    name = "hsv"
    fields = ("hue", "saturation", "value")
    stage = "colour"
    order = 50
    channels = (3,)

    def __init__(
        self,
        hue: tuple[float, float] = (-0.5, 0.5),
        saturation: tuple[float, float] = (0.0, 2.0),
        value: tuple[float, float] = (0.0, 2.0),
    ) -> None:
        super().__init__({"hue": hue, "saturation": saturation, "value": value})
        self.hue, self.saturation, self.value = (self._bounds[name] for name in self.fields)

    def identity(self) -> dict[str, float]:
        return {"hue": 0.0, "saturation": 1.0, "value": 1.0}

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor:
        hue, saturation, value = rgb_to_hsv(images.clamp(0, 1)).unbind(1)  # (B, H, W) each, hue in [0, 2π)

        def per_image(name: str) -> Tensor:
            return params[name].to(images).reshape(-1, 1, 1)

        hue = torch.remainder(hue + 2 * math.pi * per_image("hue"), 2 * math.pi)
        saturation = (saturation * per_image("saturation")).clamp(0, 1)
        value = (value * per_image("value")).clamp(0, 1)
        return hsv_to_rgb(torch.stack([hue, saturation, value], dim=1))
