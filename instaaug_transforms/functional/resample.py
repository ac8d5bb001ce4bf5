"""One resample of a batch: what is only turned or mirrored is copied, what shrinks is antialiased first."""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import InstaAugError
from .antialias import antialiased, copy_size, shrunk
from .warp import Fill, Size, warp

# Absolute values of the rows of a matrix that mirrors at most, and of one that turns by a quarter too.
STRAIGHT = np.array([[1, 0, 0], [0, 1, 0]])
TURNED = np.array([[0, 1, 0], [1, 0, 0]])


def resample(
    images: Tensor,
    matrix: Tensor,
    size: Size,
    fill: Fill = 0.0,
    mode: str = "bilinear",
    inside: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Sample ``images`` (B, C, H, W), fp32, at ``matrix`` (B, 3, 3; out→in, [−1, 1] coordinates).

    An image that a view draws smaller, along either axis, is antialiased first (not for ``"nearest"``). Where the result
    has a pixel for each of the image's — the identity, mirrorings, and quarter turns to a ``size`` with height and width
    swapped — pixels are copied bit by bit, if the matrix holds exactly 0, 1 and −1 and takes no gradient. What an image
    becomes does not depend on its batch.

    The same while compiling, where no shape may depend on values: but for the identity, turns are sampled then, 1e-5 from
    a copy.

    Args:
        images: the batch.
        matrix: one affine map per image.
        size: (height, width) of the result.
        fill: value of what lies outside the image, one for all channels or one each.
        mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        inside: no box leaves the image. Then the border pixels are continued by half a pixel, as a crop followed by a
            resize does; otherwise what lies outside is ``fill`` and blends in at the border, as torchvision's warps.
        backend: whose kernel samples, see `backends.get`.

    Returns:
        ``(B, C, *size)``, which shares no memory with ``images``.

    Raises:
        InstaAugError: an unknown backend.
    """
    sampling = {"size": tuple(size), "fill": fill, "mode": mode, "inside": inside, "backend": backend}
    if torch.compiler.is_compiling() or matrix.device.type == "meta":
        return _without_reading(images, matrix, sampling)
    groups = _groups(matrix, images.shape[-2:], tuple(size), mode)
    if len(groups) == 1:
        return _one_group(images, matrix, *next(iter(groups)), sampling)
    parts = []
    for (copy, turn), rows in groups.items():
        index = torch.tensor(rows, device=images.device)
        part = images.index_select(0, index), matrix.index_select(0, index)
        parts.append(_one_group(*part, copy, turn, sampling))
    order = torch.tensor([row for rows in groups.values() for row in rows], device=images.device).argsort()
    return torch.cat(parts).index_select(0, order)


def resample_labels(labels: Tensor, matrix: Tensor, size: Size, fill: float = 0, inside: bool = False) -> Tensor:
    """As `resample` by nearest neighbour, exact for every dtype: ``(B, N, H, W)`` to ``(B, N, *size)``.

    What is resampled is where each label lies: places are small enough for fp32, labels need not be.

    Raises:
        InstaAugError: a fill that the dtype cannot hold.
    """
    integer = not labels.is_floating_point() and labels.dtype != torch.bool
    if integer and not torch.iinfo(labels.dtype).min <= fill <= torch.iinfo(labels.dtype).max:
        raise InstaAugError(
            f"fill: {fill} does not fit masks of dtype {labels.dtype}; give another, or convert the masks"
        )
    height, width = labels.shape[-2:]
    axes = [torch.arange(1, n + 1, dtype=matrix.dtype, device=matrix.device) for n in (height, width)]  # 0 is outside
    places = torch.stack(torch.meshgrid(axes, indexing="ij")).expand(len(matrix), -1, -1, -1)  # (B, 2, H, W)
    row, column = resample(places, matrix, size, 0.0, "nearest", inside).long().unbind(1)  # (B, h, w) each
    index = ((row - 1) * width + column - 1).clamp(min=0).flatten(1).unsqueeze(1)  # (B, 1, h·w)
    out = labels.flatten(2).gather(2, index.expand(-1, labels.shape[1], -1)).unflatten(2, tuple(size))
    return torch.where((row > 0).unsqueeze(1), out, torch.tensor(round(fill) if integer else fill).to(out))


def _groups(matrix: Tensor, shape: Size, size: Size, mode: str) -> dict[tuple, list[int]]:
    """Rows that are made alike, by the size of their antialiased copy and the linear part of their turn; None for neither."""
    rows = matrix.detach()[:, :2].cpu().numpy()  # on an accelerator, the one wait for it
    whole, result = np.array(shape[::-1]), np.array(size[::-1])
    small = np.broadcast_to(whole, (len(rows), 2))
    if mode != "nearest":
        with np.errstate(all="ignore"):  # boxes without extent
            copy = copy_size(rows[..., :2], whole, result).round()
        small = np.where(copy < whole, np.maximum(copy, 1), whole)
    smaller = (small != whole).any(1)
    exact = np.zeros_like(smaller)
    if not matrix.requires_grad:
        magnitude = np.abs(rows)
        exact |= (magnitude == STRAIGHT).all((1, 2)) & (small == result).all(1)
        exact |= (magnitude == TURNED).all((1, 2)) & (small == result[::-1]).all(1)
    if not (smaller | exact).any():
        return {(None, None): list(range(len(rows)))}
    groups: dict[tuple, list[int]] = defaultdict(list)
    for row in range(len(rows)):
        copy = (int(small[row, 1]), int(small[row, 0])) if smaller[row] else None
        groups[copy, tuple(rows[row, :, :2].flat) if exact[row] else None].append(row)
    return groups


def _one_group(images: Tensor, matrix: Tensor, copy: Size | None, turn: tuple | None, sampling: dict) -> Tensor:
    if copy is not None:
        images = shrunk(images, copy, sampling["mode"])
    if turn is None:
        return warp(images, matrix, **sampling)
    xx, xy, yx, yy = turn  # x_in = xx·x + xy·y, y_in = yx·x + yy·y, one of each pair 0
    if xy:
        images = images.transpose(-2, -1)
    # Without an axis to flip this is a copy too.
    return images.flip([axis for axis, sign in ((-2, xy + yy), (-1, xx + yx)) if sign < 0]).contiguous()


def _without_reading(images: Tensor, matrix: Tensor, sampling: dict) -> Tensor:
    """`resample` by operations whose shapes do not depend on values."""
    size, fill, mode, inside = (sampling[name] for name in ("size", "fill", "mode", "inside"))
    # A box inside the image cannot shrink to a result that has as many pixels, whichever way the box is turned.
    if mode == "nearest" or (inside and min(size) >= max(images.shape[-2:])):
        out = warp(images, matrix, **sampling)
    else:
        out = warp(*antialiased(images, matrix, size, fill, mode, inside), **sampling)
    if size != images.shape[-2:] or matrix.requires_grad:
        return out
    same = (matrix == torch.eye(3, device=matrix.device)).flatten(1).all(1)
    return torch.where(same[:, None, None, None], images, out)
