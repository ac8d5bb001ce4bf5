"""Image files to pixels: 8 bits per channel, upright, or an error that names the file."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from ..utils.errors import InstaAugError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

# What a file may be, whatever its suffix: some of Pillow's other readers start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# Sides longer than this many times the other would grow beyond memory where the shorter one is resized.
ASPECT = 1000


def is_image(path: str | os.PathLike) -> bool:
    """Whether the suffix is one of an image and nothing of the path is hidden; nothing is read.

    What is hidden is thumbnails, trash and resource forks: copies of images, and files that are none.

    Args:
        path: a name, or a path as it is below the folder that was asked for.
    """
    return str(path).lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in Path(path).parts)


def read_image(path: str | os.PathLike, option: str = "data", mode: str = "RGB") -> PIL.Image.Image:
    """An image file in ``mode``, turned upright as its EXIF entry says.

    Of an animation the first picture; of 16 bits per channel the upper eight; transparency is dropped, not blended.

    Args:
        path: the file.
        option: named in errors.
        mode: ``"RGB"`` or ``"L"``.

    Raises:
        InstaAugError: no image, a truncated one, too large a one (`PIL.Image.MAX_IMAGE_PIXELS`), or one whose values have no
            white: float or 32-bit integer.
    """
    try:
        with PIL.Image.open(path, formats=FORMATS) as file:
            file.load()
            image = _eight_bits(_upright(file), file.format).convert(mode)
        if max(image.size) > ASPECT * min(image.size):
            raise ValueError(f"{image.width} × {image.height} pixels: one side is over {ASPECT} times the other")
    except Exception as error:  # decoders raise anything, from struct.error to SyntaxError
        raise InstaAugError(f"{option}: {str(path)!r} cannot be read as an image ({error})") from error
    return image


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception:  # a broken entry says nothing about the pixels
        return image


def _eight_bits(image: PIL.Image.Image, kind: str | None) -> PIL.Image.Image:
    """Modes that Pillow would clip, or of which it would warn, in one that it converts as it should."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r}: it is not known which value is white; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image
