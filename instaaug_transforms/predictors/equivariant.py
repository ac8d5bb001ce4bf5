"""An invariance module φ that knows what turning and mirroring a picture does to its features.

Convolutions whose weights are shared over the eight symmetries of the square (Cohen & Welling, *Group equivariant
convolutional networks*, ICML 2016). To tell which way up a picture is, such a network learns from one picture what an
ordinary one learns from eight, with an eighth of the weights at equal cost.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..families import Features, FeatureSpec
from ..functional.inputs import as_floats
from ..utils.errors import InstaAugError, several
from ..utils.modes import first_weight
from .base import register_predictor
from .copies import SUMMARY_GRID, CopyPredictor

POSES = 8
SUMMARY_FIELDS = 16
QUANTILES = (0.02, 0.1, 0.5, 0.9, 0.98)


def act(picture: Tensor, pose: int) -> Tensor:
    """A picture ``(…, h, w)`` in one of the eight poses: mirrored if ``pose`` ≥ 4, then turned by ``pose % 4`` quarters."""
    return torch.rot90(picture.flip(-1) if pose >= 4 else picture, pose % 4, (-2, -1))


def _relative_poses() -> list[list[int]]:
    """``[g][h]``: the pose that is h as seen from g, g⁻¹·h."""
    probe = torch.arange(16).view(4, 4)
    poses = [act(probe, pose) for pose in range(POSES)]

    def find(picture: Tensor) -> int:
        return next(pose for pose, other in enumerate(poses) if torch.equal(picture, other))

    product = [[find(act(poses[b], a)) for b in range(POSES)] for a in range(POSES)]
    return [[product[g].index(h) for h in range(POSES)] for g in range(POSES)]


class PoseConv(nn.Module):
    """A convolution from fields to fields, each with a channel per pose: channel = field · 8 + pose.

    Args:
        fields_in: fields, or, for the first layer, channels of the image.
        fields_out: fields.
        kernel, stride, padding: as `torch.nn.Conv2d`.
        lift: whether the input is the image.
        bias: one per field.
        gain: variance of what comes out, at the start, for an input of variance 1.
    """

    def __init__(
        self,
        fields_in: int,
        fields_out: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        lift: bool = False,
        bias: bool = False,
        gain: float = 2.0,
    ) -> None:
        super().__init__()
        poses_in, area = 1 if lift else POSES, kernel * kernel
        relative, place = _relative_poses(), torch.arange(area).view(kernel, kernel)
        # (8, poses_in, k, k): which of the free weights stands at each place of the full kernel.
        rows = [
            torch.stack([(0 if lift else relative[g][h]) * area + act(place, g) for h in range(poses_in)])
            for g in range(POSES)
        ]
        self.register_buffer("place", torch.stack(rows).flatten(), persistent=False)
        self.kernel, self.stride, self.padding, self.poses_in = kernel, stride, padding, poses_in
        scale = (gain / (area * fields_in * poses_in)) ** 0.5
        self.weight = nn.Parameter(torch.randn(poses_in * area, fields_out, fields_in) * scale)
        self.bias = nn.Parameter(torch.zeros(fields_out)) if bias else None

    def forward(self, maps: Tensor) -> Tensor:
        _, out, into = self.weight.shape
        full = self.weight.index_select(0, self.place).view(POSES, self.poses_in, self.kernel, self.kernel, out, into)
        full = full.permute(4, 0, 5, 1, 2, 3).reshape(out * POSES, into * self.poses_in, self.kernel, self.kernel)
        bias = None if self.bias is None else self.bias.repeat_interleave(POSES)
        return F.conv2d(maps, full, bias, self.stride, self.padding)


class PoseNorm(nn.Module):
    """GroupNorm with a scale and a shift per field."""

    def __init__(self, fields: int, scale: float = 1.0) -> None:
        super().__init__()
        self.groups = min(4, fields)
        self.weight, self.bias = nn.Parameter(torch.full((fields,), scale)), nn.Parameter(torch.zeros(fields))

    def forward(self, maps: Tensor) -> Tensor:
        weight, bias = (tensor.repeat_interleave(POSES).to(maps) for tensor in (self.weight, self.bias))
        return F.group_norm(maps, self.groups, weight, bias)


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.first, self.first_norm = PoseConv(fields, fields, 3, padding=1), PoseNorm(fields)
        self.second, self.second_norm = PoseConv(fields, fields, 3, padding=1), PoseNorm(fields, 0.3)

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(maps)))
        return torch.relu(maps + self.second_norm(self.second(inner)))


@register_predictor("equivariant")
class EquivariantPredictor(CopyPredictor):
    """Convolutions shared over turns and mirror images, and a head per family.

    For families that turn an image, or light it, and larger than `ConvPredictor`: 38 million multiplications an image at
    the default sizes, 0.2 million weights. The features turn with the image; heads are free to tell the turns apart.

    Args:
        image_size: side of the copy that φ looks at, pixels; a multiple of 64.
        channels: of the maps at 1/4, 1/8 and 1/16 of that side, multiples of 8.
        blocks: residual blocks at each of them.
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: tuple[int, int, int] = (64, 96, 192),
        blocks: tuple[int, int, int] = (0, 1, 2),
    ) -> None:
        super().__init__(image_size, 64)
        channels, blocks = several("channels", channels), several("blocks", blocks)
        wrong = any(not 8 <= c <= 1024 or c % 8 for c in channels) or any(not 0 <= b <= 64 or b % 1 for b in blocks)
        if len(channels) != 3 or len(blocks) != 3 or wrong:
            raise InstaAugError(
                "channels, blocks: expected three multiples of 8 up to 1024 and three whole numbers up to 64, got "
                f"{channels}, {blocks}"
            )
        self.channels, self.blocks = tuple(map(int, channels)), tuple(map(int, blocks))

    def _build(self, families) -> None:
        fields = [count // POSES for count in self.channels]
        before = [self.in_channels, *fields]
        convolutions = [
            PoseConv(before[0], fields[0], 8, stride=4, padding=2, lift=True),
            PoseConv(before[1], fields[1], 2, stride=2),
            PoseConv(before[2], fields[2], 2, stride=2),
        ]
        self.stages = nn.ModuleList(
            nn.Sequential(conv, PoseNorm(count), nn.ReLU(), *[Residual(count) for _ in range(depth)])
            for conv, count, depth in zip(convolutions, fields, self.blocks, strict=True)
        )
        self.summary = PoseConv(fields[2], SUMMARY_FIELDS, 1, bias=True, gain=1.0)
        super()._build(families)

    def spec(self) -> FeatureSpec:
        side = self.image_size // 8
        summary = SUMMARY_FIELDS * POSES * SUMMARY_GRID**2
        return FeatureSpec(self.channels[1], (side, side), summary + self.in_channels * len(QUANTILES))

    def features(self, copies: Tensor) -> Features:
        copies = as_floats(copies, first_weight(self).dtype)
        # How bright a picture is, and of what colour, norms take out of the maps.
        levels = _quantiles(copies.float().flatten(2)).flatten(1)  # (B, C·Q)
        maps = [(copies - 0.5) * 4]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        summary = self.summary(F.adaptive_avg_pool2d(maps[3], SUMMARY_GRID))
        vector = F.layer_norm(summary.float(), summary.shape[1:]).flatten(1)
        return Features(maps[2], torch.cat([vector, 2 * levels - 1], 1))


def _quantiles(values: Tensor) -> Tensor:
    """`QUANTILES` along the last dimension, as `torch.quantile` has them, which no batch of unknown size goes through in torch 2.11."""
    ordered, places = values.sort(-1).values, [q * (values.shape[-1] - 1) for q in QUANTILES]
    low, high = (ordered[..., [between(place) for place in places]] for between in (math.floor, math.ceil))
    return low.lerp(high, values.new_tensor([place % 1 for place in places]))
