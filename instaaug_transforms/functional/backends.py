"""Whose kernels move pixels and change colours: Kornia's or this package's own, chosen by name and device.

Kornia is imported where it is used: its import takes longer than that of all else here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import check_one_of
from . import hsv

BACKENDS = ("auto", "kornia", "torch")


class Backend(NamedTuple):
    """Two kernels with one signature each.

    Attributes:
        sample: images ``(B, C, H, W)``, a grid ``(B, h, w, 2)`` in [−1, 1] (pixel edges), mode and padding of
            `F.grid_sample`, to ``(B, C, h, w)``.
        shift_hsv: images ``(B, 3, H, W)`` in [0, 1], a hue shift in turns and factors of saturation and value,
            ``(B, 1, 1)`` each, to images.
    """

    sample: Callable[[Tensor, Tensor, str, str], Tensor]
    shift_hsv: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def check(backend: str) -> str:
    """``backend`` itself.

    Raises:
        InstaAugError: not one of `BACKENDS`.
    """
    check_one_of("backend", backend, BACKENDS)
    return backend


def get(backend: str, device: torch.device) -> Backend:
    """The kernels of that name; ``"auto"`` is Kornia's on an accelerator and ours on a CPU, where it is several times as fast.

    Raises:
        InstaAugError: not one of `BACKENDS`.
    """
    if check(backend) == "auto":
        backend = "torch" if device.type == "cpu" else "kornia"
    return _KERNELS[backend]


def _sample(images: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    return F.grid_sample(images, grid, mode, padding, align_corners=False)


def _sample_by_kornia(images: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    if mode == "bicubic":  # `remap` promises bilinear and nearest
        return _sample(images, grid, mode, padding)
    from kornia.geometry.transform import remap

    # Kornia's own grids go through products of matrices, which TF32 rounds: places come from ours, ready made.
    return remap(images, *grid.unbind(-1), mode, padding, align_corners=False, normalized_coordinates=True)


def _shift_hsv(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    in_pieces = images.device.type == "cpu" and not torch.compiler.is_compiling()
    return (hsv.shift_hsv_in_pieces if in_pieces else hsv.shift_hsv)(images, hue, saturation, value)


def _shift_hsv_by_kornia(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    from kornia.color import hsv_to_rgb, rgb_to_hsv

    h, s, v = rgb_to_hsv(images).unbind(1)  # radians, [0, 1], [0, 1]
    h = torch.remainder(h + 2 * math.pi * hue, 2 * math.pi)
    return hsv_to_rgb(torch.stack([h, (s * saturation).clamp(0, 1), (v * value).clamp(0, 1)], dim=1))


_KERNELS = {"torch": Backend(_sample, _shift_hsv), "kornia": Backend(_sample_by_kornia, _shift_hsv_by_kornia)}
