"""One affine warp for a whole batch, with a choice of what lies outside the image."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from ..utils.errors import InstaAugError

Fill = float | str
FILLS = ("mean", "border", "reflection", "wrap")


def check_fill(fill: Fill) -> Fill:
    """A grey value in [0, 1], or one of `FILLS`.

    ``"mean"`` is each image's own mean colour; ``"border"`` and ``"reflection"`` are `grid_sample`'s (the mirror is
    the edge of the outermost pixel, as torchvision's ``"symmetric"``); ``"wrap"`` continues on the other side.
    """
    if isinstance(fill, str):
        if fill in FILLS:
            return fill
    elif isinstance(fill, (int, float)) and not isinstance(fill, bool) and 0 <= fill <= 1:
        return float(fill)
    raise InstaAugError(f"fill: expected a value in [0, 1] or one of {', '.join(FILLS)}, got {fill!r}")


def check_fills(fills: Fill | Sequence[Fill]) -> list[Fill]:
    """One fill or several, each checked, none twice."""
    checked = [check_fill(fill) for fill in ([fills] if isinstance(fills, (str, float, int)) else fills)]
    if not checked or len(set(checked)) < len(checked):
        raise InstaAugError(f"fills: expected at least one, each once, got {fills!r}")
    return checked


def fill_name(fill: Fill) -> str:
    """What reports call a fill."""
    return {0.0: "black", 0.5: "grey", 1.0: "white"}.get(fill, f"grey {fill:g}") if isinstance(fill, float) else fill


def warp(images: Tensor, linear: list[list[float]], shift: tuple[float, float], fill: Fill = 0.0) -> Tensor:
    """Move the content of images by one affine map about their centre, bilinearly.

    A pixel at p (from the centre, in pixels, x right and y down) moves to ``linear @ p + shift``; antialiased where
    that makes the content smaller.

    Args:
        images: ``(B, C, H, W)``, floating point.
        linear: in→out, 2 × 2, in pixels.
        shift: (right, down) as fractions of width and height.
        fill: what lies outside, see `check_fill`.

    Returns:
        ``(B, C, H, W)``, of the memory format of ``images``.
    """
    fill = check_fill(fill)
    height, width = images.shape[-2:]
    out_to_in = torch.linalg.inv(torch.tensor(linear, dtype=torch.float64))
    offset = -out_to_in @ torch.tensor([shift[0] * width, shift[1] * height], dtype=torch.float64)
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    # Where each output pixel comes from, in pixels from the centre of the input; float64 keeps whole pixels whole.
    source = torch.stack([x, y], -1) @ out_to_in.T + offset  # (H, W, 2)
    size = torch.tensor([width, height], dtype=torch.float64)
    if fill == "wrap":
        source = torch.remainder(source + size / 2, size) - size / 2
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    source_images = _blurred(images, out_to_in, fill)
    if fill == "wrap":
        source_images = F.pad(source_images, (1, 1, 1, 1), mode="circular")
        size = size + 2
    grid = (source / size * 2).to(images).expand(len(images), -1, -1, -1)
    padding = fill if fill in ("border", "reflection") else "zeros"
    # Zeros outside, of images that are 0 where the fill is: the fill blends in at the border as torchvision's does.
    level = images.mean((-2, -1), keepdim=True) if fill == "mean" else fill if isinstance(fill, float) else 0.0
    filled = isinstance(level, Tensor) or level != 0
    source_images = source_images - level if filled else source_images
    out = F.grid_sample(source_images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    out = out + level if filled else out
    return out.contiguous(memory_format=torch.channels_last) if last else out


def _blurred(images: Tensor, out_to_in: Tensor, fill: Fill) -> Tensor:
    """Where an output pixel spans s > 1 of the input's, a Gaussian of σ = (s − 1)/2 first, as scikit-image rescales."""
    # By area: a shear lengthens one axis without making anything smaller.
    sigma = (math.sqrt(abs(torch.linalg.det(out_to_in).item())) - 1) / 2
    if sigma < 0.01:
        return images
    kernel = 2 * math.ceil(3 * sigma) + 1
    kernel = min(kernel, 2 * (min(images.shape[-2:]) // 2) - 1)
    border = "circular" if fill == "wrap" else "replicate"
    return gaussian_blur2d(images, kernel, (sigma, sigma), border)


def neighbours(images: Tensor, fill: Fill) -> Tensor:
    """Images with one more pixel on every side, as ``fill`` continues them: ``(B, C, H + 2, W + 2)``."""
    check_fill(fill)
    if fill == "mean":
        wide = images.mean((-2, -1), keepdim=True).repeat(1, 1, images.shape[-2] + 2, images.shape[-1] + 2)
        wide[..., 1:-1, 1:-1] = images
        return wide
    if isinstance(fill, str):
        return F.pad(images, (1, 1, 1, 1), mode="circular" if fill == "wrap" else "replicate")
    return F.pad(images, (1, 1, 1, 1), value=fill)
