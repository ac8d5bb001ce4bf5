"""Apply concrete parameters: one resample for every geometric family, then the colour families.

Geometry and colour run in fp32 with autocast off: half-precision grids are a pixel off, and half-precision
`grid_sample` gives NaN on some CPUs. The input's dtype and memory format come back.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError
from ..utils.modes import without_autocast
from . import backends
from .resample import resample
from .warp import Fill

AFFINE = torch.tensor([0.0, 0.0, 1.0])  # the last row of an affine map
# Pixels of the result that a CPU makes in one go, with colours and without; and of more at a time.
WHOLE_WITH_COLOURS, WHOLE, CHUNK = 2**20, 2**22, 2**18


class Transformation(Protocol):
    """What acting on pixels needs of a family; `instaaug_transforms.families.Family` documents it.

    A colour family with ``uses_backend`` has ``colour(images, params, backend)``.
    """

    fields: tuple[str, ...]
    stage: str
    changes_frame: bool
    uses_backend: bool
    acting_fields: tuple[str, ...]

    def identity(self) -> dict[str, float]: ...

    def left_out(self, params: AugmentParams) -> dict[str, Tensor]: ...

    def keeps_inside(self, height: int, width: int) -> bool: ...

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor: ...

    def frame_aspect(self, params: AugmentParams, aspect: Tensor) -> Tensor: ...

    def box(self, params: AugmentParams) -> tuple[float, float, float, float, bool] | None: ...

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor: ...


def complete(families: Sequence[Transformation], params: AugmentParams) -> AugmentParams:
    """``params`` with every field of the families that they have some fields of."""
    missing: dict[str, Tensor] = {}
    for family in families:
        missing |= family.left_out(params)
    return params.replace(**missing) if missing else params


def geometry_matrix(
    families: Sequence[Transformation], params: AugmentParams, height: int, width: int, swap: bool = False
) -> Tensor | None:
    """The out→in matrix ``(B, 3, 3)`` of all geometric families in [−1, 1] coordinates; None where there are none.

    ``x_in = M_crop · M_rotate · … · x_out``: the crop box lies in the original image, everything after it acts in the
    frame of that box.

    Args:
        swap: whether the result's canvas is ``width`` pixels high and ``height`` wide, as after a quarter turn.

    Raises:
        InstaAugError: ``(n, B)`` parameters, or a family whose matrix is not affine (not while compiling, which cannot look).
    """
    if not torch.compiler.is_compiling() and len(params.batch_shape) != 1:
        raise InstaAugError(
            f"params: expected (B,), got {tuple(params.batch_shape)}; params.flatten() has the matrices of all views, n·B"
        )
    params = complete(families, params)
    matrix: Tensor | None = None
    aspect: Tensor | None = None
    steps: list[tuple[Transformation, Tensor]] = []
    for family in families:
        if family.stage != "geometry" or family.fields[0] not in params:
            continue
        if aspect is None:
            first = params[family.fields[0]]
            aspect = torch.full(first.shape, width / height, dtype=torch.float32, device=first.device)
        else:
            aspect = steps[-1][0].frame_aspect(params, aspect)
        step = family.matrix(params, aspect)
        # Sums of products: `matmul` would round to bf16 under autocast, and to TF32 where that is allowed.
        matrix = step if matrix is None else (matrix.unsqueeze(-1) * step.unsqueeze(-3)).sum(-2)
        steps.append((family, step))
    if matrix is not None and not torch.compiler.is_compiling() and matrix.device.type != "meta":
        _check_affine(matrix, steps)
    if swap and matrix is not None:  # the same pixels, counted from the middle of a canvas of other sides
        sides = [height / width, width / height, 1.0]
        matrix = matrix * torch.tensor(sides, dtype=matrix.dtype, device=matrix.device)
    return matrix


def _check_affine(matrix: Tensor, steps: list[tuple[Transformation, Tensor]]) -> None:
    last = AFFINE.to(matrix)
    if torch.equal(matrix[:, 2], last.expand(len(matrix), 3)):
        return
    for family, step in steps:
        rows = step[:, 2].detach()
        bad = ((rows - last).abs() > 0).any(1)  # not NaN, which comes from the parameters
        if bad.any():
            raise InstaAugError(
                f"matrix of {family!r}: expected affine maps, with (0, 0, 1) as the last row, got "
                f"{tuple(rows[bad][0].tolist())}; images are not resampled by a perspective"
            )


def stay_inside(families: Sequence[Transformation], params: AugmentParams, height: int, width: int) -> bool:
    """Whether no geometric family that has parameters shows what lies outside an image of that size."""
    return not _leaving(families, params, height, width)


def _leaving(
    families: Sequence[Transformation], params: AugmentParams, height: int, width: int
) -> list[Transformation]:
    """Those that may show what lies outside."""
    found = []
    for family in families:
        if family.stage == "geometry" and family.fields[0] in params:
            if not family.keeps_inside(height, width):
                found.append(family)
            if family.changes_frame:  # those that follow act in a frame of any proportions
                height, width = 1, 2
    return found


def _resting(leaving: Sequence[Transformation], params: AugmentParams) -> Tensor | None:
    """For which images ``(B,)`` these families change nothing; None where they are ranges, whose draws hardly ever do."""
    if not leaving or any(getattr(family, "has_rsample", True) for family in leaving):
        return None
    fields = [(params[name], family.identity()[name]) for family in leaving for name in family.acting_fields]
    still = torch.stack([field == value for field, value in fields]).all(0)
    return None if still.device.type == "meta" else still


def apply(
    images: Tensor,
    params: AugmentParams,
    families: Sequence[Transformation],
    output_size: tuple[int, int] | None = None,
    fill: Fill = 0.0,
    mode: str = "bilinear",
    colour: bool | Callable[[Tensor, Sequence[Transformation], AugmentParams, str], Tensor] = True,
    backend: str = "auto",
    swap: bool = False,
) -> Tensor:
    """Transform images ``(B, C, H, W)``, float in [0, 1], by ``(B,)`` parameters.

    A table's candidate that changes nothing leaves no trace: beside turns of an image that is no square, which show what
    lies outside, a crop that is not turned is what it is by itself.

    Args:
        images: the batch.
        params: one transformation per image; fields that are left out mean the identity.
        families: the families the parameters belong to, in the order of `families.create`.
        output_size: (height, width) of the result; by default that of the input.
        fill: value of what lies outside the image, one for all channels or one each.
        mode: ``"bilinear"`` or ``"bicubic"`` (antialiased where a view shrinks the image) or ``"nearest"``. See
            `resample.resample`, also for what differs while compiling.
        colour: whether the colour families act (not on masks); or what acts in place of `colours`.
        backend: whose kernels sample and convert colours: ``"kornia"``, ``"torch"`` (this package's own), or ``"auto"``,
            Kornia's on an accelerator and ours on a CPU. They agree within 1e-5.
        swap: whether height and width of the result change places, as a quarter turn asks for; without ``output_size``.

    Returns:
        ``(B, C, *output_size)``, of the dtype and memory format of ``images``.

    Raises:
        InstaAugError: parameters that are not one for each image, names in place of families, a family whose matrix is not affine, or an unknown backend.
    """
    backends.check(backend)
    if not torch.compiler.is_compiling():
        _check(images, params, families)
    params = complete(families, params)
    height, width = images.shape[-2:]
    swap = swap and output_size is None
    size = tuple(output_size) if output_size is not None else (width, height) if swap else (height, width)
    leaving = _leaving(families, params, *((1, 1) if swap else (height, width)))
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    with without_autocast(images.device):
        matrix = geometry_matrix(families, params, height, width, swap)
        if matrix is None and size != (height, width):
            matrix = torch.eye(3, dtype=torch.float32, device=images.device).expand(images.shape[0], 3, 3)

        def sample(images: Tensor, matrix: Tensor, inside: bool | Tensor) -> Tensor:
            out = resample(images, matrix, size, fill, mode, inside, backend)
            # Bicubic overshoots; and what is filled is shifted and shifted back, which rounds below 0. Masks have any values.
            return out.clamp(0, 1) if mode == "bicubic" or (colour and fill != 0 and inside is not True) else out

        def transform(images: Tensor, matrix: Tensor | None, params: AugmentParams) -> Tensor:
            out = images.float()
            if matrix is not None:
                out, still = out.contiguous(), _resting(leaving, params)
                if still is not None and torch.compiler.is_compiling():  # no shape may depend on values
                    out = sample(out, matrix, still)
                elif still is None or not bool(still.any()):
                    out = sample(out, matrix, not leaving)
                else:
                    rows = [still.nonzero()[:, 0], (~still).nonzero()[:, 0]]
                    pieces = [sample(out[some], matrix[some], some is rows[0]) for some in rows if len(some)]
                    out = torch.cat(pieces)[torch.cat(rows).argsort()]
            if colour:
                out = (colour if callable(colour) else colours)(out, families, params, backend)
            return out

        step = _step(images, size, bool(colour and _colouring(families, params)))
        if step is None or _differentiable(images, params):
            out = transform(images, matrix, params).to(images.dtype)
            return out.contiguous(memory_format=torch.channels_last) if last else out
        # Part by part: grids and whatever colour needs stay in the processor's cache, and memory is input and output.
        layout = torch.channels_last if last else torch.contiguous_format
        out = torch.empty((*images.shape[:2], *size), dtype=images.dtype, memory_format=layout)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            out[part] = transform(images[part], None if matrix is None else matrix[part], params.index(part))
        return out


def _check(images: Tensor, params: AugmentParams, families: Sequence[Transformation]) -> None:
    if not (isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point()):
        given = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise InstaAugError(
            f"images: expected floats (B, C, H, W) in [0, 1], got {given}; LearnedAugment takes others by aug(images, params=params)"
        )
    if params.batch_shape != images.shape[:1]:
        raise InstaAugError(
            f"params: expected batch_shape ({len(images)},), one transformation for each image, got {tuple(params.batch_shape)}; of (n, B) "
            "parameters, params.index(0) is the first view of each, and params.flatten() goes with images.repeat(n, 1, 1, 1)"
        )
    if isinstance(families, str) or any(isinstance(family, str) for family in families):
        raise InstaAugError(
            f"families: expected families, those of a transform (aug.families) or families.create of names, got {families!r}"
        )


def _step(images: Tensor, size: tuple[int, int], coloured: bool) -> int | None:
    """How many images at a time, of many on a CPU: as many as stay in the cache, but `grid_sample` gives each thread its own."""
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    pixels = size[0] * size[1]
    if len(images) * pixels <= (WHOLE_WITH_COLOURS if coloured else WHOLE):
        return None
    return max(torch.get_num_threads(), CHUNK // pixels)


def _differentiable(images: Tensor, params: AugmentParams) -> bool:
    return torch.is_grad_enabled() and (images.requires_grad or any(field.requires_grad for field in params.values()))


def colours(images: Tensor, families: Sequence[Transformation], params: AugmentParams, backend: str = "auto") -> Tensor:
    """Images ``(B, C, H, W)``, fp32 in [0, 1], through every colour family that has parameters."""
    params = complete(families, params)
    for family in _colouring(families, params):
        channels = getattr(family, "channels", None)
        if channels is not None and images.shape[1] not in channels:  # some would broadcast
            raise InstaAugError(
                f"images: {family.name} is defined on {channels} channels, got {tuple(images.shape)}; leave its fields out of params, or "
                "give such images"
            )
        images = family.colour(images, params, *([backend] if family.uses_backend else []))
    return images


def _colouring(families: Sequence[Transformation], params: AugmentParams) -> list[Transformation]:
    return [family for family in families if family.stage == "colour" and family.fields[0] in params]
