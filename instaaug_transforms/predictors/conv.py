"""An invariance module φ that looks at a small copy of the image."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec
from ..utils.errors import InstaAugError

SUMMARY_GRID = 4
SUMMARY_CHANNELS = 16
CHUNK = 32  # images at a time on the CPU


class ConvPredictor(nn.Module):
    """Three strided convolutions and a head per family.

    It looks at an antialiased copy of ``image_size`` × ``image_size`` pixels whatever the image's size, so a module
    trained on small images serves large ones. GroupNorm and not BatchNorm: what an image gets must not depend on the
    rest of its batch, in training as in evaluation.

    Args:
        families: families whose heads are built.
        in_channels: channels of the images.
        image_size: side of the copy, pixels; a multiple of 16.
        width: channels of the first layer; the others have twice as many.
    """

    def __init__(self, families: Sequence[Family], in_channels: int = 3, image_size: int = 64, width: int = 32) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise InstaAugError(f"image_size of the predictor must be a multiple of 16, got {image_size}")
        self.in_channels, self.image_size, self.width = in_channels, image_size, width
        wide = 2 * width
        self.trunk = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, stride=4),
            nn.GroupNorm(4, width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, wide, 3, stride=2, padding=1),
            nn.GroupNorm(4, wide),
            nn.ReLU(inplace=True),
        )
        self.mix = nn.Sequential(
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide), nn.Conv2d(wide, wide, 1), nn.ReLU(inplace=True)
        )
        self.summary = nn.Conv2d(wide, SUMMARY_CHANNELS, 1)
        # Unit variance per image: without it images differ by so little that heads learn one range for all of them.
        self.norm = nn.LayerNorm(SUMMARY_CHANNELS * SUMMARY_GRID**2)
        spec = FeatureSpec(wide, (image_size // 8, image_size // 8), SUMMARY_CHANNELS * SUMMARY_GRID**2)
        self.heads = nn.ModuleDict({family.name: family.head(spec) for family in families})

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the families, as JSON values."""
        return {"in_channels": self.in_channels, "image_size": self.image_size, "width": self.width}

    def look(self, images: Tensor) -> tuple[Tensor, ...]:
        """What φ sees of ``(B, C, H, W)`` images whatever its weights, small enough to keep: uint8 copies."""
        return (shrink(images, self.image_size).mul(255).round_().clamp_(0, 255).to(torch.uint8),)

    def read(self, copies: Tensor) -> dict[str, Tensor]:
        """What `look` gave to raw outputs ``(B, R)`` per family, fp32."""
        return self._read(copies.to(next(self.parameters()).dtype) / 255)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, C, H, W)`` in [0, 1] to raw outputs ``(B, R)`` per family, fp32."""
        return self._read(shrink(images.to(next(self.parameters()).dtype), self.image_size))

    def _read(self, copies: Tensor) -> dict[str, Tensor]:
        if copies.device.type == "cpu" and len(copies) > CHUNK:
            # Activations of a part stay in the processor's cache, and memory does not grow with the batch.
            parts = [self._read(part) for part in copies.split(CHUNK)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        with torch.autocast(copies.device.type, enabled=False):
            maps = self._stem(copies)
            for layer in islice(self.trunk, 1, None):
                maps = layer(maps)
            maps = maps + self.mix(maps)
            vector = self.norm(F.adaptive_avg_pool2d(self.summary(maps), SUMMARY_GRID).flatten(1))
            return {name: head(Features(maps, vector)) for name, head in self.heads.items()}

    def _stem(self, copies: Tensor) -> Tensor:
        """The first convolution of ``(copies − 0.5) / 0.25``: it pads nothing, so that its weights can do the scaling."""
        first = self.trunk[0]
        bias = first.bias - 2 * first.weight.sum((1, 2, 3))
        return F.conv2d(copies, 4 * first.weight, bias, first.stride)


def shrink(images: Tensor, side: int) -> Tensor:
    """The copy φ looks at: ``(B, C, H, W)`` to ``(B, C, side, side)``, antialiased."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
