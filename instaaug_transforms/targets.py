"""Masks, boxes and keypoints follow the image. Boxes and points go through torchvision's own perspective kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from . import ops
from .errors import InstaAugError
from .families import Family
from .params import AugmentParams

POINT_TYPES = (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints)


def transform_mask(
    mask: tv_tensors.Mask, params: AugmentParams, families: Sequence[Family], size: tuple[int, int] | None
) -> tv_tensors.Mask:
    """``(H, W)``, ``(N, H, W)`` or batched ``(B, N, H, W)`` labels, nearest neighbour, 0 outside."""
    plain = mask.as_subclass(Tensor)
    n = params.batch_shape[0]
    if (plain.ndim == 4 and len(plain) != n) or (plain.ndim < 4 and n != 1):
        raise InstaAugError(
            f"mask: shape {tuple(plain.shape)} does not go with {n} image(s); give (B, N, H, W) for a batch"
        )
    batch = plain.reshape(n, -1, *plain.shape[-2:])
    if plain.dtype == torch.int64 and batch.numel() and batch.abs().max() > 2**24:
        raise InstaAugError("mask: labels above 2**24 do not fit the fp32 resample; renumber them")
    out = ops.apply(batch.float(), params, families, size, mode="nearest", colour=False).to(plain.dtype)
    return tv_tensors.wrap(out.reshape(*plain.shape[:-2], *out.shape[-2:]), like=mask)


def transform_points(
    points: Tensor, params: AugmentParams, families: Sequence[Family], size: tuple[int, int] | None
) -> Tensor:
    """`BoundingBoxes` (the enclosing box of the moved corners) or `KeyPoints` of one image."""
    if params.batch_shape[0] != 1:
        raise InstaAugError(
            f"{type(points).__name__}: one canvas goes with one image, got a batch of {params.batch_shape[0]}; transform "
            "sample by sample (in the Dataset), as torchvision does"
        )
    height, width = points.canvas_size
    matrix = ops.geometry_matrix(families, params, height, width)
    if matrix is not None:
        points = F.perspective(points, None, None, coefficients=perspective_coefficients(matrix[0], height, width))
    if size is not None and tuple(size) != (height, width):
        points = F.resize(points, list(size))
    return points


def perspective_coefficients(matrix: Tensor, height: int, width: int) -> list[float]:
    """A (3, 3) out→in matrix in [−1, 1] coordinates to torchvision's eight, in pixel-edge coordinates."""
    to_pixels = torch.tensor([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]], dtype=torch.float64)
    pixels = to_pixels @ matrix.detach().double().cpu() @ to_pixels.inverse()
    return [*pixels[:2].flatten().tolist(), 0.0, 0.0]
