"""Hue, saturation and value, each changed by an amount of a learned range."""

import torch
from torch import Tensor

from ..params import AugmentParams
from . import register
from .uniform import UniformFamily

CHUNK = 2**15  # pixels at a time on the CPU: planes that the allocator need not ask the system for each time


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
        amounts = [params[name].to(images)[:, None, None] for name in self.fields]
        if images.device.type != "cpu" or torch.compiler.is_compiling():
            return shift_hsv(images, *amounts)
        # Some forty passes over the pixels, of pieces that stay in the processor's cache.
        pixels = images.flatten(2).unsqueeze(2)  # (B, 3, 1, H·W)
        step = max(1, CHUNK // pixels.shape[-1])
        parts = []
        for part, *few in zip(pixels.split(step), *(amount.split(step) for amount in amounts), strict=True):
            pieces = [shift_hsv(piece, *few) for piece in part.chunk(-(-pixels.shape[-1] // CHUNK), dim=-1)]
            parts.append(torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0])
        return torch.cat(parts).view(images.shape)


def shift_hsv(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """``(B, 3, H, W)`` in [0, 1] with hue added, in turns, and saturation and value multiplied, ``(B, 1, 1)`` each.

    As `kornia.color.rgb_to_hsv`, the change, and `kornia.color.hsv_to_rgb`, without a branch: choosing among three formulas
    by the largest channel costs more than all of the arithmetic.
    """
    red, green, blue = images.clamp(0, 1).unbind(1)  # (B, H, W) each
    top = torch.maximum(torch.maximum(red, green), blue)
    chroma = top - torch.minimum(torch.minimum(red, green), blue)
    per_chroma = chroma.clamp(min=1e-12).reciprocal()
    # Hue is sign · distance from red, in sixths of a turn. Let a = |green − blue| / chroma and d = (top − red) / chroma.
    # The distance is a where red is the largest channel (d = 0), 3 − a where it is the smallest (d = 1), 1 + d where it
    # is between (a = 1): a + d·(3 − 2a) in every case.
    across = green - blue
    sign = torch.copysign(torch.ones_like(across), across.detach())
    a, d = across * sign * per_chroma, (top - red) * per_chroma
    turns = torch.addcmul(hue, sign, torch.addcmul(a, d, torch.rsub(a, 3, alpha=2)), value=1 / 6)
    depth = (chroma / (top + 1e-8) * saturation).clamp(0, 1)
    top = (top * value).clamp(0, 1)
    depth = depth * top
    # A channel is full within 1/6 of a turn of its own hue, and lacks ``depth`` from 1/3 of a turn on.
    apart = (
        turns.unsqueeze(1) - torch.tensor([0.0, 1 / 3, 2 / 3], dtype=turns.dtype, device=turns.device)[:, None, None]
    )
    apart = (apart - apart.round()).abs().clamp(1 / 6, 1 / 3)
    return torch.addcmul((top + depth).unsqueeze(1), depth.unsqueeze(1), apart, value=-6)
