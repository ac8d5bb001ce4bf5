"""Antialiased copies of images: how large they are to be, and how they are made."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .warp import Fill, Size, as_column

# A copy is made with a triangular filter, and sampled with another: two of support s/√2 blur as much as one of support s, which is
# what a result with pixels of that size asks for. A copy that is not sampled again has the size of the result.
FINER = 2**0.5


def copy_size(linear: Any, whole: Any, result: Any, finer: Any = 1.0) -> Any:
    """Width and height, ``(B, 2)``, of the copy of the image whose pixels are as large as those of the result.

    One step between neighbours of that copy, along either axis, is one pixel long in the result. So a turn or a shear
    shrinks nothing. Whole pixels, at least one, and no more than the image has. Arrays or tensors.

    Args:
        linear: ``(B, 2, 2)``, out→in in [−1, 1] coordinates.
        whole, result: width and height of the image and of the result.
        finer: how many pixels for one of the result, along each axis.
    """
    step = linear / result  # of one pixel of the result
    area = abs(step[..., 0, 0] * step[..., 1, 1] - step[..., 0, 1] * step[..., 1, 0])
    size = (((step**2).sum(-1) ** 0.5)[..., [1, 0]] / area[..., None] * finer).round()
    where = torch.where if isinstance(size, Tensor) else np.where
    return where(size < whole, size.clip(min=1), whole)  # the image's where it is not a number, of boxes without extent


def shrunk(images: Tensor, size: Size, mode: str) -> Tensor:
    """`F.interpolate` with ``antialias=True``."""
    if size[1] > 1:
        return F.interpolate(images, size=size, mode=mode, antialias=True)
    # To one column, PyTorch's kernel for CPUs (2.15) repeats the first pixel; one row comes out right.
    row = F.interpolate(images.transpose(-2, -1).contiguous(), size=size[::-1], mode=mode, antialias=True)
    return row.transpose(-2, -1).contiguous()


def antialiased(
    images: Tensor, matrix: Tensor, size: Size, fill: Fill, mode: str, inside: bool | Tensor
) -> tuple[Tensor, Tensor]:
    """Every image's antialiased copy in the top left corner of a canvas of the image's size, and the maps into it.

    The numbers of `shrunk`, by products of matrices: for the compiler, to whom sizes must not depend on values.
    """
    height, width = images.shape[-2:]
    whole, result = (torch.tensor(s[::-1], dtype=matrix.dtype, device=matrix.device) for s in ((height, width), size))
    linear, moved = matrix[:, :2, :2].detach(), matrix[:, :2, 2].detach()
    # Where the squares of both rows sum to 1, all entries sum to 2 only if the image is turned by quarters or mirrored.
    whole_image = (linear.abs().sum((1, 2)) == 2) & (linear.square().sum(2) == 1).all(1) & (moved == 0).all(1)
    finer = torch.where(whole_image, 1.0, FINER).to(matrix).unsqueeze(1)
    copy = copy_size(linear, whole, result, finer)  # (B, 2)
    columns, rows = copy[:, :, None, None].unbind(1)  # (B, 1, 1) each
    canvas = _filter(height, rows, mode).unsqueeze(1) @ images @ _filter(width, columns, mode).mT.unsqueeze(1)
    if inside is not True:  # where the border is continued, the copy's last row and column are, too
        x, y = (torch.arange(n, device=matrix.device) for n in (width, height))
        kept = ((x < columns) & (y[:, None] < rows)).unsqueeze(1)
        kept = kept if inside is False else kept | inside[:, None, None, None]
        canvas = torch.where(kept, canvas, as_column(fill, canvas))
    share = (copy / whole).unsqueeze(-1)  # (B, 2, 1)
    into = matrix[:, :2] * share + (share - 1) * torch.tensor([0.0, 0.0, 1.0], dtype=matrix.dtype, device=matrix.device)
    return canvas, torch.cat([into, matrix[:, 2:]], 1)


def _filter(n: int, copy: Tensor, mode: str) -> Tensor:
    """Weights ``(B, n, n)`` that take ``n`` pixels to the first ``copy`` (B, 1, 1) of n, and repeat the last of them."""
    pixel = torch.arange(n, dtype=copy.dtype, device=copy.device)
    centre = torch.minimum(pixel[:, None], copy - 1) + 0.5
    distance = ((pixel + 0.5) * copy / n - centre).abs()
    if mode == "bilinear":
        weight = (1 - distance).clamp(min=0)
    else:  # Keys' cubic with a = −0.5
        near, far = (1.5 * distance - 2.5) * distance**2 + 1, ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weight = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weight / weight.sum(-1, keepdim=True)
