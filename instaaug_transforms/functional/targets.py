"""Masks, boxes and keypoints follow the image."""

from collections import defaultdict
from collections.abc import Sequence

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..params import AugmentParams
from ..utils.errors import InstaAugError
from . import compose
from .compose import Transformation
from .inputs import plain, rewrap
from .resample import resample_labels

POINT_TYPES = (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints)


def owners(leaves: Sequence[object], n: int) -> dict[int, list[int]]:
    """Which of ``n`` images each leaf belongs to, by its id, where a batch has one leaf of a kind per image.

    ``{"image": (B, C, H, W), "target": [{"boxes": …}, …]}`` has B boxes, in the order of the images. The same object may
    stand for several images: its list is gone through from the front.
    """
    by_leaf: dict[int, list[int]] = defaultdict(list)
    if n == 1:
        return by_leaf
    for kind in (tv_tensors.Mask, *POINT_TYPES):
        of_kind = [leaf for leaf in leaves if isinstance(leaf, kind)]
        if len(of_kind) == n and not (kind is tv_tensors.Mask and of_kind[0].ndim > 3):
            for index, leaf in enumerate(of_kind):
                by_leaf[id(leaf)].append(index)
    return by_leaf


def check_proportions(image: object, leaves: Sequence[object]) -> None:
    """Raise where a mask, boxes or points lie on a canvas of other proportions than the image.

    One of the same proportions, a mask at half the resolution say, follows the image whatever is done to it. One of others
    would be turned as far, and not with what it shows. Not while compiling, when sides may be symbols.
    """
    if torch.compiler.is_compiling():
        return
    height, width = (image.height, image.width) if isinstance(image, PIL.Image.Image) else plain(image).shape[-2:]
    for leaf in leaves:
        if isinstance(leaf, POINT_TYPES):
            high, wide = leaf.canvas_size
        elif isinstance(leaf, tv_tensors.Mask) and leaf.ndim > 1:
            high, wide = plain(leaf).shape[-2:]
        else:
            continue
        if abs(high * width - wide * height) > high + wide + height + width:  # each side may be rounded
            kind = type(leaf).__name__
            raise InstaAugError(
                f"{kind}: it lies on a canvas (height, width) of {(high, wide)}, and the image has {(height, width)}: of other proportions "
                f"it does not follow the image; resize both together, v2.Resize(size)(image, {kind.lower()}), or give it the canvas it is of"
            )


def transform_mask(
    mask: tv_tensors.Mask,
    params: AugmentParams,
    families: Sequence[Transformation],
    size: tuple[int, int] | None,
    fill: float = 0,
    swap: bool = False,
    clip: bool = False,
) -> tv_tensors.Mask:
    """``(H, W)``, ``(N, H, W)`` or batched ``(B, N, H, W)`` labels of any dtype, nearest neighbour, ``fill`` outside.

    Those of one ``clip`` may be of each of its frames, ``(T, N, H, W)``.

    Raises:
        InstaAugError: a mask that does not go with the number of images, or a fill that its dtype cannot hold.
    """
    labels = plain(mask)
    n = params.batch_shape[0]
    of_one = n == 1 and (labels.ndim < 4 or clip)
    if labels.ndim < 2 or not (of_one or (labels.ndim > 3 and len(labels) == n)):
        raise InstaAugError(
            f"mask: shape {tuple(labels.shape)} does not go with {n} image(s); give (B, N, H, W) for a batch, or a list "
            "of B masks"
        )
    height, width = labels.shape[-2:]
    size, swap = _canvas(height, width, size, swap)
    matrix = compose.geometry_matrix(families, params, height, width, swap)
    if matrix is None:
        matrix = torch.eye(3, device=labels.device).expand(n, 3, 3)
    batch = labels.reshape(n, labels.shape[:-2].numel() // n, height, width)
    inside = compose.stay_inside(families, params, *((1, 1) if swap else (height, width)))
    out = resample_labels(batch, matrix.to(labels.device), size, fill, inside)
    return rewrap(out.reshape(*labels.shape[:-2], *size), mask)


def transform_points(
    points: Tensor,
    params: AugmentParams,
    families: Sequence[Transformation],
    size: tuple[int, int] | None,
    swap: bool = False,
) -> Tensor:
    """`BoundingBoxes` or `KeyPoints` of one image.

    An axis-aligned box becomes the box that encloses what is visible of it: with a clamping mode the part inside the
    canvas, without one all of it. Rotated boxes go through torchvision's own kernels. Numbers of any dtype are moved in
    double precision, and whole ones rounded once.
    """
    if params.batch_shape[0] != 1:
        kind = type(points).__name__
        raise InstaAugError(
            f"{kind}: one canvas goes with one image, got a batch of {params.batch_shape[0]}; give one {kind} per image "
            "— {'image': images, 'targets': [{'boxes': …}, …]} — or transform sample by sample (in the Dataset)"
        )
    height, width = points.canvas_size
    out_size, swap = _canvas(height, width, size, swap)
    matrix = compose.geometry_matrix(families, params, height, width, swap)
    if matrix is None:
        return F.resize(points, list(out_size)) if out_size != (height, width) else points
    if isinstance(points, tv_tensors.KeyPoints):
        forward = pixel_matrix(matrix[0], (height, width), out_size).to(points.device)
        return _like(plain(points).double() @ forward[:2, :2].T + forward[:2, 2], points, out_size)
    if tv_tensors.is_rotated_bounding_format(points.format):
        return _transform_rotated(points, matrix[0], out_size, swap)
    return _transform_boxes(points, matrix[0], out_size)


def _like(moved: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Coordinates in double precision as the kind and dtype that ``points`` are, on a canvas of ``size``."""
    moved = moved if points.is_floating_point() else moved.round()
    return tv_tensors.wrap(moved.to(points.dtype), like=points, canvas_size=size)


def _transform_rotated(
    boxes: tv_tensors.BoundingBoxes, matrix: Tensor, out_size: tuple[int, int], swap: bool
) -> Tensor:
    size, moved = boxes.canvas_size, tv_tensors.wrap(plain(boxes).double(), like=boxes)
    # torchvision tells a rotated box by the order of its corners, which a mirroring turns round: it mirrors by itself.
    (xx, xy), (yx, yy) = matrix[:2, :2].tolist()
    mirrored = xx * yy < xy * yx
    rest = matrix * matrix.new_tensor([-1, 1, 1]) if mirrored else matrix
    coefficients = perspective_coefficients(rest, size, out_size if swap else size)
    if swap:  # on a canvas that holds both, so that nothing is clamped to the one it comes from
        moved = tv_tensors.wrap(plain(moved), like=boxes, canvas_size=(max(out_size),) * 2)
    moved = F.perspective(moved, None, None, coefficients=coefficients)
    moved = tv_tensors.wrap(plain(moved), like=boxes, canvas_size=out_size) if swap else moved
    moved = F.horizontal_flip(moved) if mirrored else moved
    return _like(plain(moved if swap or out_size == size else F.resize(moved, list(out_size))), boxes, out_size)


def _canvas(height: int, width: int, size: tuple[int, int] | None, swap: bool) -> tuple[tuple[int, int], bool]:
    """(height, width) of the result, and whether the sides change places."""
    if size is not None:
        return tuple(size), False
    return ((width, height), True) if swap else ((height, width), False)


def pixel_matrix(matrix: Tensor, size: tuple[int, int], out_size: tuple[int, int]) -> Tensor:
    """Out→in ``(…, 3, 3)`` in [−1, 1] coordinates to in→out in pixel-edge coordinates, float64 on the CPU."""

    def to_pixels(height: int, width: int) -> Tensor:
        return torch.tensor([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]], dtype=torch.float64)

    inverse = torch.linalg.inv(matrix.detach().double().cpu())
    return to_pixels(*out_size) @ inverse @ to_pixels(*size).inverse()


def perspective_coefficients(matrix: Tensor, size: tuple[int, int], out_size: tuple[int, int]) -> list[float]:
    """A (3, 3) out→in matrix in [−1, 1] coordinates to torchvision's eight, in pixel-edge coordinates."""
    pixels = pixel_matrix(matrix, size, out_size).inverse()
    return [*pixels[:2].flatten().tolist(), 0.0, 0.0]


def _transform_boxes(boxes: tv_tensors.BoundingBoxes, matrix: Tensor, out_size: tuple[int, int]) -> Tensor:
    forward = pixel_matrix(matrix, boxes.canvas_size, out_size).to(boxes.device)
    xyxy = F.convert_bounding_box_format(plain(boxes).double(), boxes.format, tv_tensors.BoundingBoxFormat.XYXY)
    corners = xyxy[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (N, 4, 2), in turn
    corners = corners @ forward[:2, :2].T + forward[:2, 2]
    enclosing = torch.cat([corners.amin(1), corners.amax(1)], 1)
    moved = enclosing if boxes.clamping_mode is None else _visible(corners, enclosing, out_size)
    moved = F.convert_bounding_box_format(moved, tv_tensors.BoundingBoxFormat.XYXY, boxes.format)
    return _like(moved, boxes, out_size)


def _visible(corners: Tensor, enclosing: Tensor, size: tuple[int, int]) -> Tensor:
    """The box around the part inside the canvas of each parallelogram ``(N, 4, 2)``; clamped where there is none.

    The extremes of that part are corners of the parallelogram inside the canvas, corners of the canvas inside the
    parallelogram, or places where an edge of one crosses an edge of the other.
    """
    height, width = size
    limit = corners.new_tensor([width, height])
    frame = corners.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])  # (4, 2)
    edges = corners.roll(-1, 1) - corners  # (N, 4, 2)
    offset = frame[None, None] - corners[:, :, None]  # (N, 4 edges, 4 points, 2)
    side = edges[:, :, None, 0] * offset[..., 1] - edges[:, :, None, 1] * offset[..., 0]
    solid = (edges.abs().sum(-1) > 0).all(1, keepdim=True)  # a line covers no corner
    covered = ((side >= 0).all(1) | (side <= 0).all(1)) & solid
    lines = corners.new_tensor([[0, 0], [width, height]])  # (2 ends, 2 axes): x = 0, W; y = 0, H
    step = torch.where(edges == 0, torch.nan, edges)
    t = (lines[None, None] - corners[:, :, None]) / step[:, :, None]  # (N, 4, 2 ends, 2 axes)
    crossing = corners[:, :, None, None] + t[..., None] * edges[:, :, None, None]  # (N, 4, 2, 2, 2)
    between = (t >= 0) & (t <= 1)
    places = torch.cat([corners, frame.expand(len(corners), -1, -1), crossing.flatten(1, 3)], 1)  # (N, 24, 2)
    slack = 1e-9 * (height + width)
    inside = ((places >= -slack) & (places <= limit + slack)).all(-1)
    valid = inside & torch.cat([torch.ones_like(covered), covered, between.flatten(1)], 1)
    low = torch.where(valid[..., None], places, torch.inf).amin(1)
    high = torch.where(valid[..., None], places, -torch.inf).amax(1)
    visible = valid.any(1, keepdim=True)
    tight = torch.cat([low, high], 1)
    clamped = torch.minimum(enclosing.clamp(min=0), limit.repeat(2))
    return torch.where(visible, torch.minimum(tight.clamp(min=0), limit.repeat(2)), clamped)
