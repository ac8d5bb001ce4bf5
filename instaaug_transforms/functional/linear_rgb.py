"""Light multiplied in linear RGB: the sRGB curve undone, scaled, and applied again."""

import torch
from torch import Tensor

KNEE = 0.04045  # sRGB values up to here lie on the straight part of the curve
OFFSET, GAMMA = 0.055, 2.4


def relight(images: Tensor, gains: Tensor) -> Tensor:
    """sRGB images ``(B, 3, H, W)`` in [0, 1] with their light multiplied by ``(B, 3)`` gains and clipped to [0, 1]."""
    gains = gains[..., None, None]
    by_hand = images.device.type == "cpu" and not torch.compiler.is_compiling()
    if not by_hand or (torch.is_grad_enabled() and (images.requires_grad or gains.requires_grad)):
        return _in_linear(images, gains)
    # Off the straight part the curve is a power, and a gain inside a power is a gain outside it: two operations, where
    # kornia's way there and back takes a hundred times as long as reading the image.
    scale = gains.pow(1 / GAMMA)
    out = torch.addcmul(scale * OFFSET - OFFSET, scale, images)
    straight = (images <= KNEE) | (out <= KNEE)
    out.clamp_(0, 1)
    dark = images[straight]
    if dark.numel():
        # Where either end is dark the curve is followed to the letter (IEC 61966-2-1).
        light = torch.where(dark <= KNEE, dark / 12.92, ((dark + OFFSET) / (1 + OFFSET)) ** GAMMA)
        light = (light * gains.expand(straight.shape)[straight]).clamp(0, 1)
        bright = (1 + OFFSET) * light ** (1 / GAMMA) - OFFSET
        out[straight] = torch.where(light <= KNEE / 12.92, 12.92 * light, bright)
    return out


def _in_linear(images: Tensor, gains: Tensor) -> Tensor:
    from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb

    return linear_rgb_to_rgb((rgb_to_linear_rgb(images) * gains).clamp(0, 1)).clamp(0, 1)
