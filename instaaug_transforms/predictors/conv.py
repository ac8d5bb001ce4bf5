"""An invariance module φ of convolutions over a small copy of the image."""

from collections.abc import Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec
from ..functional.inputs import as_floats
from ..utils.modes import first_weight
from .base import register_predictor
from .copies import SUMMARY_CHANNELS, SUMMARY_GRID, CopyPredictor, check_multiple

CHUNK = 32  # images at a time on the CPU


@register_predictor("conv")
class ConvPredictor(CopyPredictor):
    """A few convolutions to a map of the image, and a head per family.

    It looks at an antialiased copy of ``image_size`` × ``image_size`` pixels whatever the image's size, so a module
    trained on small images serves large ones. GroupNorm and not BatchNorm: what an image gets must not depend on the
    rest of its batch, in training as in evaluation. `PatchPredictor` takes a third of the multiplications.

    Args:
        image_size: side of the copy, pixels; a multiple of 16.
        width: channels of the first layer, a multiple of 4; the others have twice as many.
    """

    def __init__(self, image_size: int = 64, width: int = 32) -> None:
        super().__init__(image_size, 16)
        check_multiple("width", width, 4)
        self.width = width

    def _build(self, families: Sequence[Family]) -> None:
        in_channels, width = self.in_channels, self.width
        wide = 2 * width
        self.trunk = nn.Sequential(
            *(nn.Conv2d(in_channels, width, 4, stride=4), nn.GroupNorm(4, width), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, wide, 3, stride=2, padding=1), nn.GroupNorm(4, wide), nn.ReLU(inplace=True)),
        )
        self.mix = nn.Sequential(
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide), nn.Conv2d(wide, wide, 1), nn.ReLU(inplace=True)
        )
        self.summary = nn.Conv2d(wide, SUMMARY_CHANNELS, 1)
        # Unit variance per image: without it images differ by so little that heads learn one range for all of them.
        self.norm = nn.LayerNorm(SUMMARY_CHANNELS * SUMMARY_GRID**2)
        super()._build(families)

    def spec(self) -> FeatureSpec:
        side = self.image_size // 8
        return FeatureSpec(2 * self.width, (side, side), SUMMARY_CHANNELS * SUMMARY_GRID**2)

    def decode(self, copies: Tensor) -> dict[str, Tensor]:
        """Copies, uint8 or float in [0, 1], to raw outputs ``(B, R)`` per family, fp32."""
        if copies.device.type == "cpu" and not torch.compiler.is_exporting() and len(copies) > CHUNK:
            # Activations of a part stay in the processor's cache, and memory does not grow with the batch.
            parts = [self.decode(part) for part in copies.split(CHUNK)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return super().decode(copies)

    def features(self, copies: Tensor) -> Features:
        maps = self._stem(as_floats(copies, first_weight(self).dtype))
        for layer in islice(self.trunk, 1, None):
            maps = layer(maps)
        maps = maps + self.mix(maps)
        return Features(maps, self.norm(F.adaptive_avg_pool2d(self.summary(maps), SUMMARY_GRID).flatten(1)))

    def _stem(self, copies: Tensor) -> Tensor:
        """The first convolution of ``(copies − 0.5) / 0.25``: it pads nothing, so that its weights can do the scaling."""
        first = self.trunk[0]
        bias = first.bias - 2 * first.weight.sum((1, 2, 3))
        return F.conv2d(copies, 4 * first.weight, bias, first.stride)
