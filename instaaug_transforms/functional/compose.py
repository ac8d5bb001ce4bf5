"""Apply concrete parameters: one resample for every geometric family, then the colour families.

Geometry and colour run in fp32 with autocast off: half-precision grids are a pixel off, and half-precision
`grid_sample` gives NaN on some CPUs. The input's dtype and memory format come back.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..params import AugmentParams

Fill = float | Sequence[float]
CHUNK = 2**17  # pixels of the result at a time on the CPU


class Transformation(Protocol):
    """What acting on pixels needs of a family; `instaaug_transforms.families.Family` documents it."""

    fields: tuple[str, ...]
    stage: str
    stays_inside: bool

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor: ...

    def frame_aspect(self, params: AugmentParams, aspect: Tensor) -> Tensor: ...

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor: ...


def geometry_matrix(
    families: Sequence[Transformation], params: AugmentParams, height: int, width: int
) -> Tensor | None:
    """The out→in matrix ``(B, 3, 3)`` of all geometric families in [−1, 1] coordinates; None where there are none.

    ``x_in = M_crop · M_rotate · … · x_out``: the crop box lies in the original image, everything after it acts in the
    frame of that box.
    """
    matrix = None
    aspect: Tensor | None = None
    for family in families:
        if family.stage != "geometry" or family.fields[0] not in params:
            continue
        if aspect is None:
            first = params[family.fields[0]]
            aspect = torch.full(first.shape, width / height, dtype=torch.float32, device=first.device)
        step = family.matrix(params, aspect)
        matrix = step if matrix is None else matrix @ step
        aspect = family.frame_aspect(params, aspect)
    return matrix


def apply(
    images: Tensor,
    params: AugmentParams,
    families: Sequence[Transformation],
    output_size: tuple[int, int] | None = None,
    fill: Fill = 0.0,
    mode: str = "bilinear",
    colour: bool | Callable[[Tensor, Sequence[Transformation], AugmentParams], Tensor] = True,
) -> Tensor:
    """Transform images ``(B, C, H, W)``, float in [0, 1], by ``(B,)`` parameters.

    Args:
        images: the batch.
        params: one transformation per image; fields that are left out mean the identity.
        families: the families the parameters belong to, in the order of `families.create`.
        output_size: (height, width) of the result; that of the input where None.
        fill: value of what lies outside the image, one for all channels or one each.
        mode: ``"bilinear"`` or ``"bicubic"`` (antialiased where a box is larger in pixels than the result) or
            ``"nearest"``.
        colour: whether the colour families act (not on masks); or what acts in place of `colours`.

    Returns:
        ``(B, C, *output_size)``, of the dtype and memory format of ``images``.
    """
    height, width = images.shape[-2:]
    size = (height, width) if output_size is None else tuple(output_size)
    inside = all(f.stays_inside for f in families if f.stage == "geometry" and f.fields[0] in params)
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    with torch.autocast(images.device.type, enabled=False):
        matrix = geometry_matrix(families, params, height, width)
        if matrix is None and size != (height, width):
            matrix = torch.eye(3, device=images.device).expand(len(images), 3, 3)

        def transform(images: Tensor, matrix: Tensor | None, params: AugmentParams) -> Tensor:
            out = images.float()
            if matrix is not None:
                out = resample(out.contiguous(), matrix, size, fill, mode, inside)
                if mode == "bicubic":  # which overshoots
                    out = out.clamp(0, 1)
                if size == (height, width) and not matrix.requires_grad:
                    out = _unmoved(images, out, matrix)
            if colour:
                out = (colour if callable(colour) else colours)(out, families, params)
            return out

        if _differentiable(images, params) or len(images) <= (step := _step(images, size)):
            out = transform(images, matrix, params).to(images.dtype)
            return out.contiguous(memory_format=torch.channels_last) if last else out
        # Part by part: grids and whatever colour needs stay in the processor's cache, and memory is input and output.
        layout = torch.channels_last if last else torch.contiguous_format
        out = torch.empty((*images.shape[:2], *size), dtype=images.dtype, memory_format=layout)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            out[part] = transform(images[part], None if matrix is None else matrix[part], params.index(part))
        return out


def _step(images: Tensor, size: tuple[int, int]) -> int:
    """How many images at a time: on a CPU as many as stay in the cache, but `grid_sample` gives each thread its own."""
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return len(images)
    return max(torch.get_num_threads(), CHUNK // (size[0] * size[1]))


def _differentiable(images: Tensor, params: AugmentParams) -> bool:
    return torch.is_grad_enabled() and (images.requires_grad or any(field.requires_grad for field in params.values()))


def colours(images: Tensor, families: Sequence[Transformation], params: AugmentParams) -> Tensor:
    """Images ``(B, C, H, W)``, fp32 in [0, 1], through every colour family that has parameters."""
    for family in families:
        if family.stage == "colour" and family.fields[0] in params:
            images = family.colour(images, params)
    return images


def resample(
    images: Tensor,
    matrix: Tensor,
    size: tuple[int, int],
    fill: Fill = 0.0,
    mode: str = "bilinear",
    inside: bool = False,
) -> Tensor:
    """Sample ``images`` (B, C, H, W), fp32, at ``matrix`` (B, 3, 3; out→in, [−1, 1] coordinates).

    Args:
        inside: no box leaves the image. Then the border pixels are continued by half a pixel, as a crop followed by a
            resize does; otherwise what lies outside is ``fill`` and blends in at the border, as torchvision's warps.
    """
    if mode != "nearest" and (size[0] < images.shape[-2] or size[1] < images.shape[-1]):
        return _resample_shrinking(images, matrix, size, fill, mode, inside)
    return _warp(images, matrix, size, fill, mode, inside)


def _warp(images: Tensor, matrix: Tensor, size: tuple[int, int], fill: Fill, mode: str, inside: bool) -> Tensor:
    padding = "border" if inside else "zeros"
    outside = None if inside or fill == 0 else torch.as_tensor(fill, device=images.device).reshape(1, -1, 1, 1)
    shifted = images if outside is None else images - outside
    out = F.grid_sample(shifted, sampling_grid(matrix, size), mode, padding, align_corners=False)
    return out if outside is None else out + outside


def sampling_grid(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each pixel of the result looks: ``(B, 3, 3)`` out→in matrices to ``(B, H, W, 2)``, as `F.affine_grid`.

    x and y lie in planes of their own, (2, H, W) in memory: an affine map is a column plus a row, one addition per number,
    and `grid_sample` reads planes as fast as pairs. `F.affine_grid` multiplies matrices, which takes longer than the
    sampling does.
    """
    x, y = (_centres(n, matrix) for n in (size[1], size[0]))
    to_x, to_y, shift = matrix[:, :2, :, None, None].unbind(2)  # (B, 2, 1, 1) each
    return (to_x * x + (to_y * y[:, None] + shift)).permute(0, 2, 3, 1)


def _centres(n: int, like: Tensor) -> Tensor:
    """Centres of ``n`` pixels in [−1, 1]."""
    return (2 * torch.arange(n, dtype=like.dtype, device=like.device) + 1) / n - 1


def _unmoved(images: Tensor, out: Tensor, matrix: Tensor) -> Tensor:
    """``out`` with the images themselves where their matrix is the identity: fp32 sample positions are 1e-5 pixels off."""
    same = (matrix == torch.eye(3, device=matrix.device)).flatten(1).all(1)
    if matrix.device.type == "cpu" and not torch.compiler.is_compiling():
        for row in same.nonzero().flatten().tolist():  # a few copies, where indexing goes number by number
            out[row].copy_(images[row])
        return out
    # Elsewhere, to know how many rows there are would mean to wait for the device.
    return torch.where(same[:, None, None, None], images.float(), out)


def _resample_shrinking(
    images: Tensor, matrix: Tensor, size: tuple[int, int], fill: Fill, mode: str, inside: bool
) -> Tensor:
    """Where a box holds more pixels than the result: an antialiased copy first, at about one pixel per pixel.

    Images of one copy size go together, so what an image gets does not depend on its batch.
    """
    height, width = images.shape[-2:]
    # How many input pixels one output pixel spans, along each axis of the input.
    step = matrix[:, :2, :2].detach() / torch.tensor([size[1], size[0]], device=matrix.device)
    span = step.square().sum(-1).sqrt() * torch.tensor([width, height], device=matrix.device)
    copy = (torch.tensor([width, height], device=matrix.device) / span.clamp(min=1)).round().long().clamp(min=1)
    out = images.new_empty(len(images), images.shape[1], *size)
    for copy_size in torch.unique(copy, dim=0).tolist():
        chosen = (copy == torch.tensor(copy_size, device=copy.device)).all(-1)
        part = images[chosen]
        if copy_size != [width, height]:
            part = F.interpolate(part, size=copy_size[::-1], mode=mode, antialias=True)
        out[chosen] = _warp(part, matrix[chosen], size, fill, mode, inside)
    return out
