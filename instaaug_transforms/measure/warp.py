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


def check_fills(fills: Fill | Sequence[Fill]) -> list[Fill]:
    """One fill or several: grey values in [0, 1] and names of `FILLS`, each once.

    ``"mean"`` is each image's own mean colour; ``"border"`` and ``"reflection"`` are `grid_sample`'s (mirrored at the edge
    of the outermost pixel, as torchvision's ``"symmetric"``); ``"wrap"`` continues on the other side.
    """
    checked: list[Fill] = []
    for fill in [fills] if isinstance(fills, (str, float, int)) else fills:
        grey = isinstance(fill, (int, float)) and not isinstance(fill, bool) and 0 <= fill <= 1
        if not grey and fill not in FILLS:
            raise InstaAugError(f"fill: expected a value in [0, 1] or one of {', '.join(FILLS)}, got {fill!r}")
        checked.append(float(fill) if grey else fill)
    if not checked or len(set(checked)) < len(checked):
        raise InstaAugError(f"fills: expected at least one, each once, got {fills!r}")
    return checked


def fill_name(fill: Fill) -> str:
    """What reports call a fill."""
    return {0.0: "black", 0.5: "grey", 1.0: "white"}.get(fill, f"grey {fill:g}") if isinstance(fill, float) else fill


def warp(images: Tensor, matrix: Tensor, fill: Fill = 0.0) -> Tensor:
    """Resample a batch by one affine map, bilinearly; antialiased if the map makes the content smaller.

    `functional.resample` does what a learned transform does to training images: one map per image, a constant outside.
    Measurements need other fills, and sample positions that are exact to the pixel.

    Args:
        images: ``(B, C, H, W)``, floating point.
        matrix: ``(3, 3)``, out→in in [−1, 1] coordinates.
        fill: what lies outside, from `check_fills`.

    Returns:
        ``(B, C, H, W)``, of the memory format of ``images``.
    """
    (height, width), (fill,) = images.shape[-2:], check_fills(fill)
    matrix = matrix.double().cpu()  # float64 keeps whole pixels whole
    source = _antialiased(images, matrix, fill)
    grid = F.affine_grid(matrix[None, :2], [1, 1, height, width], align_corners=False)
    if fill == "wrap":
        size = torch.tensor([width, height])
        grid = (torch.remainder(grid + 1, 2) - 1) * size / (size + 2)
        source = F.pad(source, (1, 1, 1, 1), mode="circular")
    # Zeros outside, of images that are 0 where the fill is: the fill blends in at the border as torchvision's does.
    level = images.mean((-2, -1), keepdim=True) if fill == "mean" else fill if isinstance(fill, float) else 0.0
    filled = isinstance(level, Tensor) or level != 0
    padding = fill if fill in ("border", "reflection") else "zeros"
    grid = grid.to(images).expand(len(images), -1, -1, -1)
    out = F.grid_sample(source - level if filled else source, grid, "bilinear", padding, align_corners=False)
    out = out + level if filled else out
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return out.contiguous(memory_format=torch.channels_last) if last else out


def _antialiased(images: Tensor, matrix: Tensor, fill: Fill) -> Tensor:
    """Where an output pixel spans s > 1 of the input's, a Gaussian of σ = (s − 1)/2 first, as scikit-image rescales."""
    # By area: a shear lengthens one axis without making anything smaller.
    sigma = (math.sqrt(abs(torch.linalg.det(matrix[:2, :2]).item())) - 1) / 2
    if sigma < 0.01:
        return images
    kernel = 2 * math.ceil(3 * sigma) + 1
    kernel = min(kernel, 2 * (min(images.shape[-2:]) // 2) - 1)
    return gaussian_blur2d(images, kernel, (sigma, sigma), "circular" if fill == "wrap" else "replicate")


def neighbours(images: Tensor, fill: Fill) -> Tensor:
    """Images with one more pixel on every side, as ``fill`` continues them: ``(B, C, H + 2, W + 2)``."""
    if fill == "mean":
        wide = images.mean((-2, -1), keepdim=True).repeat(1, 1, images.shape[-2] + 2, images.shape[-1] + 2)
        wide[..., 1:-1, 1:-1] = images
        return wide
    if isinstance(fill, str):
        return F.pad(images, (1, 1, 1, 1), mode="circular" if fill == "wrap" else "replicate")
    return F.pad(images, (1, 1, 1, 1), value=fill)
