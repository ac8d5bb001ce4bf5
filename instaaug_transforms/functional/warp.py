"""One affine map per image, a pixel of the image for a pixel of the result: the grid, and what lies outside."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backends

Fill = float | Sequence[float]
Size = tuple[int, int]  # (height, width)


def warp(
    images: Tensor, matrix: Tensor, size: Size, fill: Fill, mode: str, inside: bool | Tensor, backend: str
) -> Tensor:
    """As `resample.resample`, without antialiasing and without copies."""
    if isinstance(inside, Tensor) and mode == "bicubic":  # which reads beyond the border wherever it looks near it
        both = (warp(images, matrix, size, fill, mode, continued, backend) for continued in (True, False))
        return torch.where(inside[:, None, None, None], *both)
    kernel, grid = backends.get(backend, images.device), sampling_grid(matrix, size)
    if isinstance(inside, Tensor):  # of images: what lies beyond the centres of their border pixels is these
        edge = 1 - 1 / torch.tensor(images.shape[:-3:-1], dtype=grid.dtype, device=grid.device)
        grid = torch.where(inside[:, None, None, None], torch.minimum(torch.maximum(grid, -edge), edge), grid)
    outside = None if inside is True or fill == 0 else as_column(fill, images)
    shifted = images if outside is None else images - outside
    out = kernel.sample(shifted, grid, mode, "border" if inside is True else "zeros")
    return out if outside is None else out + outside


def as_column(fill: Fill, like: Tensor) -> Tensor:
    """``(1, 1 or C, 1, 1)``."""
    return torch.as_tensor(fill, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)


def sampling_grid(matrix: Tensor, size: Size) -> Tensor:
    """Where each pixel of the result looks: ``(B, 3, 3)`` out→in matrices to ``(B, H, W, 2)``, as `F.affine_grid`.

    x and y lie in planes of their own, (2, H, W) in memory: an affine map is a column plus a row, one addition per number,
    and `grid_sample` reads planes as fast as pairs. `F.affine_grid` multiplies matrices, which takes longer than the
    sampling does, and which TF32 would round to a tenth of a pixel.
    """
    x, y = (_centres(n, matrix) for n in (size[1], size[0]))
    to_x, to_y, shift = matrix[:, :2, :, None, None].unbind(2)  # (B, 2, 1, 1) each
    return (to_x * x + (to_y * y[:, None] + shift)).permute(0, 2, 3, 1)


def _centres(n: int, like: Tensor) -> Tensor:
    """Centres of ``n`` pixels in [−1, 1]."""
    return torch.arange(1 - n, n, 2, dtype=like.dtype, device=like.device) / n
