"""One resample of a batch: what is only turned or mirrored is copied, what shrinks is antialiased first."""

import math
from collections import defaultdict
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import InstaAugError
from .antialias import FINER, antialiased, copy_size, shrunk
from .warp import Fill, Size, warp

# Absolute values of the rows of a matrix that mirrors at most, and of one that turns by a quarter too.
STRAIGHT = np.array([[1, 0, 0], [0, 1, 0]])
TURNED = np.array([[0, 1, 0], [1, 0, 0]])
UNCHANGED = None, (1.0, 0.0, 0.0, 1.0)  # no copy of another size, no turn
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # of the same bits


def resample(
    images: Tensor,
    matrix: Tensor,
    size: Size,
    fill: Fill = 0.0,
    mode: str = "bilinear",
    inside: bool | Tensor = False,
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
            resize does; otherwise what lies outside is ``fill`` and blends in at the border, as torchvision's warps. While
            compiling, ``(B,)`` tells it of each image.
        backend: whose kernel samples, see `backends.get`.

    Returns:
        ``(B, C, *size)``, which shares no memory with ``images``.

    Raises:
        InstaAugError: an unknown backend.
    """
    _check_one_each(images, matrix)
    sampling = {"size": tuple(size), "fill": fill, "mode": mode, "inside": inside, "backend": backend}
    if torch.compiler.is_compiling() or matrix.device.type == "meta":
        return _without_reading(images, matrix, sampling)
    if len(images) == 1 and (out := _single(images, matrix, sampling)) is not None:
        return out
    groups = _groups(matrix, tuple(images.shape[-2:]), tuple(size), mode)
    special = [row for rows in groups.values() for row in rows]
    if not special:
        return warp(images, matrix, **sampling)
    if len(groups) == 1 and len(special) == len(images):
        return _one_group(images, matrix, *next(iter(groups)), sampling)
    few = 2 * len(special) < len(images)  # then all are sampled, and these replaced
    if not few and len(special) < len(images):
        groups[None, None] = sorted(set(range(len(images))) - set(special))
    learning = torch.is_grad_enabled() and (images.requires_grad or matrix.requires_grad)
    if few:
        out = warp(images, matrix, **sampling)
    elif 2 * len(groups.get(UNCHANGED, ())) > len(images) and not learning:  # these are there, and others replaced
        out = images.clone(memory_format=torch.contiguous_format)
        del groups[UNCHANGED]
    else:
        out = images.new_empty(*images.shape[:2], *size)
    pieces, order = [out], torch.arange(len(images))
    for (copy, turn), rows in groups.items():
        index = torch.tensor(rows, device=images.device)
        piece = _one_group(images.index_select(0, index), matrix.index_select(0, index), copy, turn, sampling)
        if learning:
            order[rows] = sum(map(len, pieces)) + torch.arange(len(rows))
            pieces.append(piece)
        else:
            out.index_copy_(0, index, piece)
    return torch.cat(pieces).index_select(0, order.to(images.device)) if learning else out


def resample_labels(labels: Tensor, matrix: Tensor, size: Size, fill: float = 0, inside: bool = False) -> Tensor:
    """As `resample` by nearest neighbour, exact for every dtype: ``(B, N, H, W)`` to ``(B, N, *size)``.

    What is resampled is where each label lies: places are small enough for fp32, labels need not be.

    Raises:
        InstaAugError: a fill that the dtype cannot hold.
    """
    _check_one_each(labels, matrix)
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
    kind = SIGNED.get(labels.dtype, labels.dtype)  # torch 2.11 moves no others
    moved = labels.flatten(2).contiguous().view(kind).gather(2, index.expand(-1, labels.shape[1], -1))
    outside = torch.tensor(round(fill) if integer else fill).to(labels).view(kind)
    return torch.where((row > 0).unsqueeze(1), moved.unflatten(2, tuple(size)), outside).view(labels.dtype)


def _check_one_each(images: Tensor, matrix: Tensor) -> None:
    if not torch.compiler.is_compiling() and (images.ndim != 4 or matrix.ndim != 3 or len(matrix) != len(images)):
        raise InstaAugError(
            f"matrix: expected (B, 3, 3), one for each of images (B, C, H, W), got {tuple(matrix.shape)} for {tuple(images.shape)}"
        )


def _single(images: Tensor, matrix: Tensor, sampling: dict) -> Tensor | None:
    """One image that is sampled, or stays, as it is: a first look like that of `_groups`, without arrays. None for all others."""
    (xx, xy, x), (yx, yy, y), _ = matrix[0].tolist()
    (height, width), (rows, columns) = images.shape[-2:], sampling["size"]
    if xx == yy == 1 and xy == yx == x == y == 0 and images.shape[-2:] == sampling["size"] and not matrix.requires_grad:
        return images.clone()
    across, down = math.hypot(xx / columns, xy / rows) * width, math.hypot(yx / columns, yy / rows) * height
    shrinks = sampling["mode"] != "nearest" and not max(across, down) <= 1
    return None if shrinks or sum(map(abs, (xx, xy, x, yx, yy, y))) == 2 else warp(images, matrix, **sampling)


def _groups(matrix: Tensor, shape: Size, size: Size, mode: str) -> dict[tuple, list[int]]:
    """Rows that are not sampled as they are, by the size of their antialiased copy (or None) and their turn (or None)."""
    rows = matrix.detach().cpu().numpy()[:, :2]  # on an accelerator, the one wait for it
    linear = rows[..., :2]
    whole, result, scale = _constants(shape, size)
    step = linear * scale  # of one pixel of the result, in pixels of the image
    # Most batches need no more than two looks: nothing steps further than a pixel, nothing has just two entries of 1 or −1.
    may_shrink = mode != "nearest" and (step * step).sum(-1).max(initial=0) > 1 + 0.5 / whole.max()
    magnitude = np.abs(rows)
    may_turn = not matrix.requires_grad and (magnitude.sum((1, 2)) == 2).any()
    if not (may_shrink or may_turn):
        return {}
    straight, turned = ((magnitude == pattern).all((1, 2)) for pattern in (STRAIGHT, TURNED))
    small = np.broadcast_to(whole, (len(rows), 2))
    if may_shrink:
        with np.errstate(all="ignore"):  # boxes without extent
            small = copy_size(linear, whole, result, np.where(straight | turned, 1, FINER)[:, None])
    smaller = (small != whole).any(1)
    exact = straight & (small == result).all(1) | turned & (small == result[::-1]).all(1)
    exact &= not matrix.requires_grad
    groups: dict[tuple, list[int]] = defaultdict(list)
    for row in np.flatnonzero(smaller | exact).tolist():
        copy = (int(small[row, 1]), int(small[row, 0])) if smaller[row] else None
        groups[copy, tuple(linear[row].flat) if exact[row] else None].append(row)
    return groups


@lru_cache
def _constants(shape: Size, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Width and height of the image and of the result; and of the one over the other, ``(2, 2)``."""
    whole, result = np.array(shape[::-1]), np.array(size[::-1])
    return whole, result, (whole[:, None] / result).astype(np.float32)


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
    if mode == "nearest" or (inside is True and min(size) >= max(images.shape[-2:])):
        out = warp(images, matrix, **sampling)
    else:
        out = warp(*antialiased(images, matrix, size, fill, mode, inside), **sampling)
    if size != images.shape[-2:] or matrix.requires_grad:
        return out
    same = (matrix == torch.eye(3, device=matrix.device)).flatten(1).all(1)
    return torch.where(same[:, None, None, None], images, out)
