"""Invariance modules φ that look at a small copy of the image, and how such a copy is made."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.inputs import as_bytes
from ..utils.errors import InstaAugError
from ..utils.modes import without_autocast
from .base import Predictor

# Of the whole image: numbers in each cell of a coarse grid.
SUMMARY_GRID = 4
SUMMARY_CHANNELS = 16
SMALL = 128  # pixels a side: larger images PyTorch's kernel shrinks as fast as products of matrices do, or faster


class CopyPredictor(Predictor):
    """Looks at an antialiased copy of the image, so a module trained on small images serves large ones.

    A subclass has `spec` and `features` of copies ``(B, C, image_size, image_size)``, uint8 or float in [0, 1].

    Args:
        image_size: side of the copy, pixels, whatever the image's size; at most 1024.
        step: what it is a multiple of.
    """

    takes_bytes = True

    def __init__(self, image_size: int, step: int = 1) -> None:
        super().__init__()
        check_multiple("image_size", image_size, step)
        self.image_size = image_size

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 copies ``(B, C, image_size, image_size)``."""
        return (as_bytes(shrink(images, self.image_size)),)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, C, H, W)``, uint8 or in [0, 1], to raw outputs ``(B, R)`` per family, fp32."""
        return self.decode(shrink(images, self.image_size))  # what `encode` gives, without its rounding


def check_multiple(name: str, value: object, step: int) -> None:
    """Raise unless a size is a multiple of ``step`` up to 1024, which keeps a damaged file from asking for all of the memory."""
    if not isinstance(value, int) or not step <= value <= 1024 or value % step:
        raise InstaAugError(f"{name} of the predictor must be a multiple of {step} up to 1024, got {value!r}")


def shrink(images: Tensor, side: int) -> Tensor:
    """The copy φ looks at: ``(B, C, H, W)`` to ``(B, C, side, side)``, antialiased; of uint8 uint8, else fp32."""
    images = images if images.dtype == torch.uint8 else images.float()  # CPUs have no kernel for halves
    height, width = images.shape[-2:]
    if (height, width) == (side, side):
        return images
    floats = type(images) is Tensor and images.dtype != torch.uint8 and images.device.type == "cpu"
    if floats and max(height, width, side) <= SMALL and not torch.compiler.is_compiling():
        with without_autocast(images.device):
            return _to_side(height, side).T @ (images @ _to_side(width, side))
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


@lru_cache
def _to_side(n: int, side: int) -> Tensor:
    """What `F.interpolate` does to a row of ``n`` pixels, ``(n, side)``: two products with these take a third of its time."""
    with torch.inference_mode(False), torch.no_grad():
        pixels = torch.eye(n, dtype=torch.float32, device="cpu")
        return F.interpolate(pixels[None, None], (n, side), mode="bilinear", antialias=True)[0, 0]
