"""PIL images as they are: bytes for φ to look at, and crops by PIL's own resize, without a float copy of the image between."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError
from .compose import Transformation, complete, geometry_matrix

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CUT = ("L", "RGB")  # of the others PIL's resize weighs colours by alpha, which ours does not
ROUNDING = 1e-5  # of a side: how far float32 boxes that touch an edge may reach beyond it
LARGE = 64  # pixels along each side, from which on a box is as good with its edges on whole pixels


def check_mode(image: Image.Image, channels: int) -> None:
    """Raise unless the image has the mode of that many channels, and pixels."""
    mode = MODES.get(channels)
    if image.mode != mode:
        fix = f"convert it first with img.convert({mode!r})"
        if image.mode in ("1", "L", "P"):  # as data sets of segmentation give them
            fix += ", or, if it is a mask, give tv_tensors.Mask(v2.functional.pil_to_tensor(img))"
        if mode is None:
            fix = "give a tensor with these channels: v2.functional.to_image(img)"
        if image.mode[0] in "IF":  # PIL's convert cuts off what is above 255
            fix = "give a tensor in [0, 1] with these channels: of 16 bits v2.functional.to_image(img).float() / 65535"
        raise InstaAugError(
            f"image: this transform was made for {channels} channel(s), got a PIL image of mode {image.mode!r}; {fix}"
        )
    if not image.width * image.height:
        raise InstaAugError(f"image: it has no pixels (width {image.width}, height {image.height}); leave it out")


def pixels(image: Image.Image, channels: int) -> Tensor:
    """The image's bytes, ``(1, C, H, W)``, channels last in memory.

    Raises:
        InstaAugError: an image of another mode, or without pixels.
    """
    check_mode(image, channels)
    written = torch.frombuffer(
        bytearray(image.tobytes()), dtype=torch.uint8
    )  # through NumPy a small image takes half as long again
    return written.view(1, image.height, image.width, channels).permute(0, 3, 1, 2)


def picture(image: Tensor) -> Image.Image:
    """Bytes ``(C, H, W)`` as a PIL image."""
    rows = image.permute(1, 2, 0).contiguous().numpy()  # as PIL keeps them: `F.to_pil_image` takes twice as long
    height, width, channels = rows.shape
    return Image.frombytes(MODES[channels], (width, height), rows.tobytes())


def cut(
    image: Image.Image,
    params: AugmentParams,
    families: Sequence[Transformation],
    channels: int,
    output_size: tuple[int, int] | None,
    mode: str,
    known: Tensor | None = None,
    alone: bool | None = False,
) -> Image.Image | None:
    """What ``(1,)`` parameters make of the image, where that is no more than a box inside it, scaled and maybe mirrored.

    PIL's resize of a box, antialiased: the kernel behind torchvision's RandomResizedCrop of PIL images. Of an image ``alone`` a large
    box is moved to whole pixels, as there, and resized by PyTorch's version of that kernel, in a third of the time.

    Args:
        known: its `pixels`, where somebody has them.
        alone: whether there are no masks, boxes or points that half a pixel would move it away from.

    Returns:
        The view; None where more is asked for.

    Raises:
        InstaAugError: an image of another mode than that of so many ``channels``.
    """
    check_mode(image, channels)
    params = complete(families, params)
    acting = [family for family in families if family.fields[0] in params]
    if mode != "bilinear" or image.mode not in CUT or any(family.stage != "geometry" for family in acting):
        return None
    width, height = image.size
    box = acting[0].box(params) if len(acting) == 1 else None
    if box is None:
        box = _box(geometry_matrix(acting, params, height, width))
    if box is None:
        return None
    left, top, right, bottom, mirrored = box
    if min(left, top) < -ROUNDING or max(right, bottom) > 1 + ROUNDING:
        return None
    size = image.size if output_size is None else output_size[::-1]
    corners = (max(left, 0) * width, max(top, 0) * height, min(right, 1) * width, min(bottom, 1) * height)
    left, top, right, bottom = whole = tuple(map(round, corners))
    everything = corners == (0, 0, width, height)
    if everything and size == image.size:
        view = image.copy()
    elif everything or (alone and min(right - left, bottom - top) >= LARGE):
        part = pixels(image.crop(whole), channels) if known is None else known[..., top:bottom, left:right]
        view = picture(F.interpolate(part, size=size[::-1], mode="bilinear", antialias=True)[0])
    else:
        view = _resized(image, size, corners)
    return ImageOps.mirror(view) if mirrored else view


def _resized(image: Image.Image, size: tuple[int, int], corners: tuple[float, float, float, float]) -> Image.Image:
    """A box of the image at ``size`` (width, height)."""
    left, top, right, bottom = corners
    # PIL resizes small images faster than small boxes of large ones: first cut out what its filter reaches.
    across, down = (max((high - low) / n, 1) + 1 for low, high, n in zip(corners[:2], corners[2:], size, strict=True))
    x, y = max(math.floor(left - across), 0), max(math.floor(top - down), 0)
    reached = (x, y, min(math.ceil(right + across), image.width), min(math.ceil(bottom + down), image.height))
    return image.crop(reached).resize(size, Image.BILINEAR, (left - x, top - y, right - x, bottom - y))


def _box(matrix: Tensor | None) -> tuple[float, float, float, float, bool] | None:
    """What an out→in matrix ``(1, 3, 3)`` shows, as `Family.box` has it; None where that is no box."""
    if matrix is None:
        return 0.0, 0.0, 1.0, 1.0, False
    (xx, xy, x), (yx, yy, y), _ = matrix[0].tolist()
    if xy or yx or yy <= 0 or not xx:
        return None
    mirrored, xx = xx < 0, abs(xx)
    return (x - xx + 1) / 2, (y - yy + 1) / 2, (x + xx + 1) / 2, (y + yy + 1) / 2, mirrored
