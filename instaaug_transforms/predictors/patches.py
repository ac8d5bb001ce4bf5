"""A small invariance module φ: the patches of a small copy of the image, each through the same few layers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec
from .base import register_predictor
from .copies import SUMMARY_CHANNELS, SUMMARY_GRID, CopyPredictor, check_multiple

GRID = 8  # patches along each side
FEW = 4  # images


@register_predictor("patches")
class PatchPredictor(CopyPredictor):
    """Patches of a copy of the image, a linear layer to ``width`` numbers each, two more layers, and a head per family.

    All of it is products of matrices, over patches and images at once: 0.6 million multiplications an image, and few
    calls, which is what one image at a time in a DataLoader's worker pays for. What an image gets does not depend on the rest
    of its batch.

    Args:
        image_size: side of the antialiased copy, pixels; a multiple of 16.
        width: numbers per patch, a multiple of 4.
    """

    def __init__(self, image_size: int = 32, width: int = 40) -> None:
        super().__init__(image_size, 16)
        check_multiple("width", width, 4)
        self.width = width

    def _build(self, families: Sequence[Family]) -> None:
        side = self.image_size // GRID
        self.embed = nn.Linear(self.in_channels * side * side, self.width)
        self.scale, self.shift = nn.Parameter(torch.ones(self.width)), nn.Parameter(torch.zeros(self.width))
        # Every patch sees the others, as far as this tells; nothing at first.
        self.around = nn.Parameter(torch.zeros(GRID**2, GRID**2))
        self.mix = nn.Linear(self.width, self.width)
        self.summary = nn.Linear(self.width, SUMMARY_CHANNELS)
        # Unit variance per image: without it images differ by so little that heads learn one range for all of them.
        self.norm = nn.LayerNorm(SUMMARY_CHANNELS * SUMMARY_GRID**2)
        super()._build(families)

    def spec(self) -> FeatureSpec:
        return FeatureSpec(self.width, (GRID, GRID), SUMMARY_CHANNELS * SUMMARY_GRID**2)

    def features(self, copies: Tensor) -> Features:
        side, weight, bias = self.image_size // GRID, self.embed.weight, self.embed.bias
        highest = 255.0 if copies.dtype == torch.uint8 else 1.0  # to (copies − 0.5) · 4
        if torch.compiler.is_compiling() or len(copies) > FEW:  # by the weights: fewer numbers than pixels
            kernel = (4 / highest * weight).unflatten(1, (self.in_channels, side, side))
            units = F.conv2d(copies.to(weight.dtype), kernel, bias - 2 * weight.sum(1), side).flatten(2).transpose(1, 2)
        else:  # the same, without what a convolution costs before it starts
            patches = copies.reshape(-1, self.in_channels, GRID, side, GRID, side).permute(0, 2, 4, 1, 3, 5)
            patches = (patches.reshape(len(copies) * GRID**2, -1) - highest / 2).to(weight.dtype)
            units = torch.addmm(bias, patches, weight.T, alpha=4 / highest).view(len(copies), GRID**2, -1)
        units = F.layer_norm(units, units.shape[1:])  # (B, 64, width)
        units = torch.addcmul(self.shift, units, self.scale).relu_()
        mixed = torch.baddbmm(units, self.around.expand(units.shape[0], -1, -1), units).flatten(0, 1)
        units = units.flatten(0, 1) + torch.addmm(self.mix.bias, mixed, self.mix.weight.T).relu_()  # (B·64, width)
        summary = torch.addmm(self.summary.bias, units, self.summary.weight.T)
        cells = F.avg_pool2d(_as_map(summary), GRID // SUMMARY_GRID)  # (B, 16, 4, 4)
        return Features(_as_map(units), self.norm(cells.flatten(1)))


def _as_map(units: Tensor) -> Tensor:
    """``(B·64, N)`` to ``(B, N, 8, 8)``, channels last in memory."""
    return units.view(-1, GRID, GRID, units.shape[1]).permute(0, 3, 1, 2)
