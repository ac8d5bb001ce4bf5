"""The way back: what a model said about views, put where it belongs in the image the views came from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from .. import functional
from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..families import Family
from ..families.checks import check_params
from ..functional.inputs import plain
from ..functional.targets import pixel_matrix
from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_one_of

MODES = ("bilinear", "nearest")


def check_size(size: Any, name: str = "size", of: str = "images") -> tuple[int, int]:
    """``size`` itself; raise unless it is (height, width)."""
    whole = isinstance(size, Sequence) and all(isinstance(n, (int, torch.SymInt)) and n is not True for n in size)
    if not whole or len(size) != 2 or min(size) < 1:
        raise InstaAugError(f"{name}: expected (height, width) of the {of}, got {size!r}")
    return tuple(size)


def invert_maps(
    aug: LearnedAugment,
    maps: Tensor,
    params: AugmentParams,
    size: tuple[int, int],
    mode: str = "bilinear",
    families: Sequence[Family] | None = None,
) -> tuple[Tensor, Tensor]:
    """Maps over views — probabilities, heat maps, masks — back on the canvas of the images.

    Args:
        aug: what made the views.
        maps: ``(B, C, h, w)`` or ``(n, B, C, h, w)``, any float or integer dtype (rounded to whole numbers); any resolution.
        params: ``(B,)`` or ``(n, B)``, as `LearnedAugment.views` gave them. Colour plays no part.
        size: (height, width) of the images.
        mode: ``"bilinear"``, or ``"nearest"`` for labels.
        families: what acted in place of the transform's own, as for `LearnedAugment.apply`.

    Returns:
        The maps, ``(…, C, *size)``, 0 where no view looked; and the share of each pixel that was seen,
        ``(…, 1, *size)`` in [0, 1] (what it should be weighted with in a mean; 0 or 1 for ``"nearest"``).

    Raises:
        InstaAugError: numbers of maps and of parameters that differ, parameters of another transform, another mode, or a size that is none.
    """
    check_one_of("mode", mode, MODES)
    _check(aug, "maps", maps, params, families)
    lead, size = params.batch_shape, check_size(size)
    if tuple(maps.shape[: len(lead)]) != tuple(lead) or maps.ndim != len(lead) + 3:
        raise InstaAugError(
            f"maps: shape {tuple(maps.shape)} does not go with params of shape {tuple(lead)}; give (…, C, h, w) with the "
            "leading dimensions of params"
        )
    flat = plain(maps).reshape(-1, *maps.shape[-3:])
    matrix = _matrix(aug, params, size, maps.shape[-2:], families)
    with torch.autocast(flat.device.type, enabled=False):
        if matrix is None:
            matrix = torch.eye(3, device=flat.device).expand(len(flat), 3, 3)
        back = affine_inverse(matrix.to(flat.device))
        if mode == "nearest":
            restored = functional.resample_labels(flat, back, size)
        else:
            restored = _as_kind(functional.resample(flat.float(), back, size, mode=mode), flat)
        seen = functional.resample(torch.ones_like(flat[:, :1], dtype=torch.float32), back, size, mode=mode).clamp(0, 1)
    return restored.unflatten(0, lead), seen.unflatten(0, lead)


def invert_points(
    aug: LearnedAugment,
    points: Tensor,
    params: AugmentParams,
    size: tuple[int, int],
    view_size: tuple[int, int] | None = None,
) -> Tensor:
    """Points on views, in pixels, back to pixels of the images.

    Args:
        aug: what made the views.
        points: ``(B, …, 2)`` or ``(n, B, …, 2)``, x and y, pixel-edge coordinates (0 = left edge of the first pixel, as
            torchvision's boxes); or `KeyPoints` of one image with ``(1,)`` params, whose canvas is the view's.
        params: ``(B,)`` or ``(n, B)``.
        size: (height, width) of the images.
        view_size: of the views; that of ``KeyPoints``' canvas, else ``aug.output_size`` or ``size`` by default.

    Returns:
        The points, of the kind and dtype that came; whole numbers are rounded.

    Raises:
        InstaAugError: numbers of points and of parameters that differ, or a size that is none.
    """
    _check(aug, "points", points, params)
    single, size = isinstance(points, tv_tensors.KeyPoints), check_size(size)
    known = (points.canvas_size if single else aug.output_size) or size
    view_size = known if view_size is None else check_size(view_size, "view_size", "views")
    lead, given = params.batch_shape, plain(points)[None] if single else points
    if tuple(given.shape[: len(lead)]) != tuple(lead) or given.shape[-1] != 2 or given.ndim <= len(lead):
        raise InstaAugError(
            f"points: shape {tuple(given.shape)} does not go with params of shape {tuple(lead)}; give (…, N, 2) with the "
            "leading dimensions of params"
        )
    matrix = _matrix(aug, params, size, view_size)
    if matrix is None:
        matrix = torch.eye(3).expand(lead.numel(), 3, 3)
    back = torch.linalg.inv(pixel_matrix(matrix, size, view_size)).to(given.device)  # (n·B, 3, 3)
    flat = given.double().reshape(lead.numel(), -1, 2)
    moved = flat @ back[:, :2, :2].transpose(1, 2) + back[:, None, :2, 2]
    moved = _as_kind(moved.reshape(given.shape), given)
    return tv_tensors.wrap(moved[0], like=points, canvas_size=tuple(size)) if single else moved


def _check(aug: LearnedAugment, name: str, given: Any, params: Any, families: Sequence[Family] | None = None) -> None:
    """Raise where arguments are in another order, of another kind, or the parameters those of another transform."""
    if torch.compiler.is_compiling():
        return
    acting = check_aug(aug).families if families is None else families
    if not isinstance(given, Tensor):
        raise InstaAugError(
            f"{name}: expected a tensor, got {type(given).__name__}; of an array make torch.as_tensor({name})"
        )
    check_params(params, acting)


def _matrix(
    aug: LearnedAugment,
    params: AugmentParams,
    size: tuple[int, int],
    view_size: Sequence[int],
    families: Sequence[Family] | None = None,
) -> Tensor | None:
    """The out→in matrices of all views ``(n·B, 3, 3)``; those of a single image that a quarter turn made swap its sides."""
    (height, width), (h, w), flat = size, view_size, params.flatten().detach()
    families = aug.families if families is None else families
    swap = aug.output_size is None and (h - w) * (height - width) < 0 and any(f.swaps_sides(flat) for f in families)
    return functional.geometry_matrix(families, flat, *size, swap)


def affine_inverse(matrix: Tensor) -> Tensor:
    """The inverses of affine maps ``(B, 3, 3)``, in closed form: `torch.linalg.inv` has no translation to ONNX.

    Of a box without extent, a map to somewhere outside of all views.
    """
    (xx, xy, x), (yx, yy, y) = (row.unbind(-1) for row in matrix[:, :2].unbind(1))
    area = xx * yy - xy * yx
    rows = torch.stack([yy, -xy, xy * y - yy * x, -yx, xx, yx * x - xx * y], -1) / area[:, None]
    rows = torch.where(area[:, None] == 0, rows.new_tensor([1, 0, 3, 0, 1, 3]), rows)  # (B, 6)
    return torch.cat([rows.unflatten(-1, (2, 3)), matrix[:, 2:]], 1)


def _as_kind(values: Tensor, like: Tensor) -> Tensor:
    """``values`` in the dtype of ``like``; to the nearest where that is a whole number."""
    return (values if like.is_floating_point() else values.round()).to(like.dtype)
