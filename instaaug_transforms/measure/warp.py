"""One affine warp for a whole batch, with a choice of what lies outside the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.antialias import copy_size, shrunk
from ..functional.compose import AFFINE
from ..functional.warp import sampling_grid
from ..utils.errors import InstaAugError, check_distinct

Outside = float | str  # what an image shows from outside itself
FILLS, GREYS = ("mean", "border", "reflection", "wrap"), {0.0: "black", 0.5: "grey", 1.0: "white"}


def check_fills(fills: Outside | Sequence[Outside]) -> list[Outside]:
    """One fill or several: grey values in [0, 1] and names of `GREYS` and `FILLS`, each once.

    ``"mean"`` is each image's own mean colour; ``"border"`` and ``"reflection"`` are `grid_sample`'s (mirrored at the edge
    of the outermost pixel, as torchvision's ``"symmetric"``); ``"wrap"`` continues on the other side.
    """
    checked: list[Outside] = []
    for fill in [fills] if isinstance(fills, (str, float, int)) else fills:
        fill = next((level for level, name in GREYS.items() if name == fill), fill)
        grey = isinstance(fill, (int, float)) and not isinstance(fill, bool) and 0 <= fill <= 1
        if not grey and fill not in FILLS:
            raise InstaAugError(f"fill: expected a value in [0, 1] or one of {', '.join(FILLS)}, black, got {fill!r}")
        checked.append(float(fill) if grey else fill)
    check_distinct("fills", checked)
    return checked


def fill_name(fill: Outside) -> str:
    """What reports call a fill."""
    return GREYS.get(fill, f"grey {fill:g}") if isinstance(fill, float) else fill


def warp(images: Tensor, matrix: Tensor, fill: Outside = 0.0) -> Tensor:
    """Resample a batch by one affine map, bilinearly; antialiased if the map makes the content smaller.

    `functional.resample` does what a learned transform does to training images: one map per image, a constant outside.
    Measurements need other fills, and sample positions that are exact to the pixel.

    Args:
        images: ``(B, C, H, W)``, floating point.
        matrix: ``(3, 3)``, out→in in [−1, 1] coordinates.
        fill: what lies outside, from `check_fills`.

    Returns:
        ``(B, C, H, W)``, of the dtype and memory format of ``images``.

    Raises:
        InstaAugError: images that are not floating point, a matrix that is not affine, or an unknown fill.
    """
    affine = matrix.shape == (3, 3) and (matrix[2].cpu() - AFFINE).abs().max() < 1e-6
    if not images.is_floating_point() or not affine:
        given = f"{images.dtype} and {matrix.tolist()}"
        raise InstaAugError(f"images, matrix: expected floating point and (3, 3), the last row (0, 0, 1), got {given}")
    if images.dtype in (torch.float16, torch.bfloat16):  # whose numbers are too few for places
        return warp(images.float(), matrix, fill).to(images.dtype)
    (height, width), (fill,) = images.shape[-2:], check_fills(fill)
    matrix = matrix.double().cpu()  # float64 keeps whole pixels whole
    size = torch.tensor([width, height])
    copy = copy_size(matrix[None, :2, :2], size, size)[0].int()
    source = images if torch.equal(copy, size.int()) else shrunk(images, (int(copy[1]), int(copy[0])), "bilinear")
    grid = sampling_grid(matrix[None], (height, width))
    if fill == "wrap":
        grid = (torch.remainder(grid + 1, 2) - 1) * copy / (copy + 2)
        source = F.pad(source, (1, 1, 1, 1), mode="circular")
    # Zeros outside, of images that are 0 where the fill is: the fill blends in at the border as torchvision's does.
    level = images.mean((-2, -1), keepdim=True) if fill == "mean" else fill if isinstance(fill, float) else 0.0
    padding = fill if fill in ("border", "reflection") else "zeros"
    grid = grid.to(images).expand(len(images), -1, -1, -1)
    out = F.grid_sample(source - level, grid, "bilinear", padding, align_corners=False) + level
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return out.contiguous(memory_format=torch.channels_last) if last else out


def neighbours(images: Tensor, fill: Outside) -> Tensor:
    """Images with one more pixel on every side, as ``fill`` continues them: ``(B, C, H + 2, W + 2)``."""
    if fill == "mean":
        wide = images.mean((-2, -1), keepdim=True).repeat(1, 1, images.shape[-2] + 2, images.shape[-1] + 2)
        wide[..., 1:-1, 1:-1] = images
        return wide
    if isinstance(fill, str):
        return F.pad(images, (1, 1, 1, 1), mode="circular" if fill == "wrap" else "replicate")
    return F.pad(images, (1, 1, 1, 1), value=fill)
