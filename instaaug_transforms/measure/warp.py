"""One affine warp for a whole batch, with a choice of what lies outside the image."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InstaAugError

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
    check_fill(fill)
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
    copy = _smaller(images, out_to_in)
    copy_size = torch.tensor([copy.shape[-1], copy.shape[-2]], dtype=torch.float64)
    if fill == "wrap":
        copy = F.pad(copy, (1, 1, 1, 1), mode="circular")
        grid = source / size * copy_size / (copy_size + 2) * 2
    else:
        grid = source / size * 2
    grid = grid.to(images).expand(len(images), -1, -1, -1)
    padding = fill if fill in ("border", "reflection") else "zeros"
    level = images.mean((-2, -1), keepdim=True) if fill == "mean" else fill if isinstance(fill, float) else 0.0
    shifted = copy - level if isinstance(level, Tensor) or level else copy
    out = F.grid_sample(shifted, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    out = out + level if isinstance(level, Tensor) or level else out
    return out.contiguous(memory_format=torch.channels_last) if last else out


def _smaller(images: Tensor, out_to_in: Tensor) -> Tensor:
    """Where one output pixel spans more than one of the input's, an antialiased copy at about one pixel per pixel."""
    height, width = images.shape[-2:]
    span_x, span_y = out_to_in.norm(dim=1).tolist()
    # A shear lengthens one axis without making anything smaller: only a shrinking area is copied.
    area = math.sqrt(abs(torch.linalg.det(out_to_in).item()))
    span_x, span_y = min(span_x, area), min(span_y, area)
    size = (max(1, round(height / max(span_y, 1))), max(1, round(width / max(span_x, 1))))
    if size == (height, width):
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def neighbours(images: Tensor, fill: Fill) -> Tensor:
    """Images with one more pixel on every side, as ``fill`` continues them: ``(B, C, H + 2, W + 2)``."""
    check_fill(fill)
    if fill == "mean":
        level = images.mean((-2, -1), keepdim=True)
        return F.pad(images - level, (1, 1, 1, 1)) + level
    if isinstance(fill, str):
        return F.pad(images, (1, 1, 1, 1), mode="circular" if fill == "wrap" else "replicate")
    return F.pad(images, (1, 1, 1, 1), value=fill)
