"""Crops by the location-related parameterisation (LRP; Miao et al., ICML 2023, algorithm 1).

A table of crop boxes ("anchors"), all inside the image; φ gives each one a logit from the part of its feature map that
the box covers, plus a learned bias per scale.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributions import AnchorCategorical
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from . import register
from .base import GAIN, Family, FamilyDistribution, Features, FeatureSpec

HIDDEN = 32
ASPECT = math.log(4 / 3)

# Anchor tables of the paper, by name: (scales, grids).
TABLES = {
    "paper_64px": ((1.0, 0.75, 0.375), (1, 8, 16)),  # 321 anchors, Tiny-ImageNet
    "paper_224px": ((1.0, 0.8, 0.6, 0.4), (1, 2, 3, 4)),  # 30 anchors, ImageNet
}


@register
class Crop(Family):
    """Cut out a box ``cx, cy, w, h`` (fractions of the image, pixel-edge coordinates), mirrored where ``flip`` is 1.

    Args:
        scales: side of the boxes of each scale, fractions in (0, 1]; or the name of a table of the paper, which says the
            grids too: ``"paper_64px"`` (321 anchors) or ``"paper_224px"`` (30, the default).
        grids: how many centres per axis each scale has; the outermost lie at s/2 and 1 − s/2.
        flips: also offer every anchor mirrored left to right.
        jitter: move sampled boxes inside their cell of the grid and change their aspect by 3/4 … 4/3, area kept. The
            whole image stays as it is. ``log_prob`` is that of the anchor.
        initial_identity: p(whole image) before any fit.
        prior_area: ``(smallest, 1)``: measure density and entropy relative to what a RandomResizedCrop of that range of
            areas would choose, so that ``entropy`` is −KL(p ‖ prior), at most 0. Plain entropy, the default, rewards
            many small overlapping crops.

    Attributes:
        anchors: ``(A, 5)``, columns cx, cy, w, h, flip; scales in the given order, rows left to right, then mirrored.
    """

    name = "crop"
    fields = ("cx", "cy", "w", "h", "flip", "anchor")
    stage = "geometry"
    order = 0
    stays_inside = True

    def __init__(
        self,
        scales: tuple[float, ...] | str = (1.0, 0.8, 0.6, 0.4),
        grids: tuple[int, ...] = (1, 2, 3, 4),
        flips: bool = False,
        jitter: bool = False,
        initial_identity: float = 0.9,
        prior_area: tuple[float, float] | None = None,
    ) -> None:
        if isinstance(scales, str):
            if scales not in TABLES:
                raise InstaAugError(f"crop: scales must be numbers or one of {', '.join(TABLES)}, got {scales!r}")
            scales, grids = TABLES[scales]
        if len(scales) != len(grids) or not scales or scales[0] != 1.0 or grids[0] != 1:
            raise InstaAugError(
                f"crop: scales and grids must have one entry per scale and start with the whole image (1.0 and 1), got "
                f"scales={tuple(scales)}, grids={tuple(grids)}"
            )
        if not all(0 < side <= 1 for side in scales) or not all(isinstance(g, int) and g >= 1 for g in grids):
            raise InstaAugError(
                f"crop: scales must lie in (0, 1] and grids be ≥ 1, got {tuple(scales)}, {tuple(grids)}"
            )
        if not 0 < initial_identity < 1:
            raise InstaAugError(f"crop: initial_identity must lie in (0, 1), got {initial_identity}")
        self.scales, self.grids = tuple(float(side) for side in scales), tuple(grids)
        self.flips, self.jitter, self.initial_identity = bool(flips), bool(jitter), initial_identity
        boxes = [
            (*centre, side, side) for side, g in zip(self.scales, grids, strict=True) for centre in _centres(side, g)
        ]
        plain = torch.tensor(boxes, dtype=torch.float64)
        mirrored = [
            torch.cat([plain, torch.full((len(plain), 1), flip)], 1) for flip in ((0.0, 1.0) if flips else (0.0,))
        ]
        self.anchors = torch.cat(mirrored).float()
        # Half the distance to the next centre: the cells of one scale are disjoint.
        half = [(1 - side) / (g - 1) / 2 if g > 1 else 0.0 for side, g in zip(self.scales, grids, strict=True)]
        per_box = [h for h, g in zip(half, grids, strict=True) for _ in range(g * g)]
        if prior_area is not None and not 0 < prior_area[0] < prior_area[1] <= 1:
            raise InstaAugError(f"crop: prior_area must be (smallest, largest) inside (0, 1], got {tuple(prior_area)}")
        self.prior_area = None if prior_area is None else tuple(prior_area)
        # log of the base measure's mass on each anchor: 1 each, or the prior's.
        self.log_base = torch.zeros(len(self.anchors)) if prior_area is None else self._prior().log()
        self.half_cell = torch.tensor(per_box * len(mirrored))

    @property
    def n_anchors(self) -> int:
        """A."""
        return len(self.anchors)

    def anchor_params(self) -> AugmentParams:
        """Every anchor once, as ``(A,)`` parameters."""
        return AugmentParams(**self._gather(torch.arange(self.n_anchors)))

    def every_anchor(self, batch_size: int, device: torch.device) -> dict[str, Tensor]:
        """Fields ``(A, B)``: each anchor once per image, unjittered."""
        index = torch.arange(self.n_anchors, device=device)
        return self._gather(index[:, None].expand(-1, batch_size))

    def nearest(self, params: AugmentParams) -> Tensor:
        """Index of the anchor nearest each box, for parameters that were made by hand."""
        box = torch.stack([params.cx, params.cy, params.w.log(), params.h.log()], -1)
        flip = params["flip"] if "flip" in params else torch.zeros_like(params.cx)
        anchors = self.anchors.to(box)
        table = torch.cat([anchors[:, :2], anchors[:, 2:4].log()], 1)
        distance = (box.unsqueeze(-2) - table).abs().sum(-1) + 10 * (flip.unsqueeze(-1) - anchors[:, 4]).abs()
        return distance.argmin(-1)

    def _prior(self) -> Tensor:
        """``(A,)``: areas uniform in ``prior_area``, each counted for the scale with the nearest side."""
        low, high = self.prior_area
        sides = (low + (high - low) * (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000).sqrt()
        levels = torch.tensor(sorted(set(self.scales)), dtype=torch.float64)
        share = torch.bincount((sides[:, None] - levels).abs().argmin(1), minlength=len(levels)) / len(sides)
        level = (self.anchors[:, 2].double()[:, None] - levels).abs().argmin(1)  # (A,)
        mass = share[level] / torch.bincount(level, minlength=len(levels))[level]
        # A scale that the prior never takes would have entropy −∞: one in a thousand instead.
        mass = mass.clamp_min(1e-3 / len(mass))
        return (mass / mass.sum()).float()

    def mirror_index(self) -> Tensor:
        """``(A,)``: anchor a of a mirrored image shows what anchor ``mirror_index[a]`` of the image shows (flips only)."""
        mirrored = self.anchors * torch.tensor([-1.0, 1, 1, 1, -1]) + torch.tensor([1.0, 0, 0, 0, 1])
        return (mirrored[:, None] - self.anchors).abs().sum(-1).argmin(-1)

    def identity(self) -> dict[str, float]:
        return {"cx": 0.5, "cy": 0.5, "w": 1.0, "h": 1.0, "flip": 0.0, "anchor": 0}

    def head(self, spec: FeatureSpec) -> nn.Module:
        return CropHead(self, spec)

    def distribution(self, raw: Tensor) -> "CropDistribution":
        return CropDistribution(self, raw)

    def entropy_band(self) -> tuple[float, float]:
        return (0.52, 0.61) if self.prior_area is None else (-0.5, -0.2)

    def entropy_scale(self) -> float:
        return math.log(self.n_anchors) if self.prior_area is None else 1.0

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        cx, cy, w, h = (params[name].float() for name in ("cx", "cy", "w", "h"))
        mirrored = w * (1 - 2 * params.flip.float()) if "flip" in params else w
        zero, one = torch.zeros_like(w), torch.ones_like(w)
        rows = [mirrored, zero, 2 * cx - 1, zero, h, 2 * cy - 1, zero, zero, one]
        return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))

    def frame_aspect(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        return aspect * params.w / params.h

    def _gather(self, index: Tensor) -> dict[str, Tensor]:
        columns = self.anchors.to(index.device)[index].unbind(-1)
        return {**dict(zip(self.fields, columns, strict=False)), "anchor": index}

    def jittered(self, fields: dict[str, Tensor], uniform: Tensor) -> dict[str, Tensor]:
        """Fields moved by ``(*, B, 3)`` uniforms: across, down, aspect. The box stays inside the image."""
        anchor = fields["anchor"]
        move = (2 * uniform[..., :2] - 1) * self.half_cell.to(uniform)[anchor].unsqueeze(-1)
        smaller = fields["w"] < 1
        stretch = torch.where(smaller, ((2 * uniform[..., 2] - 1) * ASPECT / 2).exp(), 1.0)
        w, h = (fields["w"] * stretch).clamp(max=1), (fields["h"] / stretch).clamp(max=1)
        cx = torch.minimum(torch.maximum(fields["cx"] + move[..., 0], w / 2), 1 - w / 2)
        cy = torch.minimum(torch.maximum(fields["cy"] + move[..., 1], h / 2), 1 - h / 2)
        return {**fields, "cx": cx, "cy": cy, "w": w, "h": h}


def _centres(side: float, grid: int) -> list[tuple[float, float]]:
    if grid == 1:
        return [(0.5, 0.5)]
    line = [side / 2 + (1 - side) * k / (grid - 1) for k in range(grid)]
    return [(cx, cy) for cy in line for cx in line]


class CropDistribution(FamilyDistribution):
    """Categorical over the anchors; the only randomness besides is the jitter."""

    has_rsample = False
    index_field = "anchor"  # the field that holds which anchor was taken

    def __init__(self, family: Crop, logits: Tensor) -> None:
        self.family = family
        self.anchors = AnchorCategorical(logits, validate_args=False)
        self.n_uniforms = 4 if family.jitter else 1

    def from_uniform(self, uniform: Tensor) -> dict[str, Tensor]:
        fields = self.family._gather(self.anchors.icdf(uniform[..., 0]))
        return self.family.jittered(fields, uniform[..., 1:]) if self.family.jitter else fields

    def log_prob(self, params: AugmentParams) -> Tensor:
        anchor = params.anchor if "anchor" in params else self.family.nearest(params)
        return self.anchors.log_prob(anchor) - self.family.log_base.to(anchor.device)[anchor]

    def entropy(self) -> Tensor:
        base = self.family.log_base.to(self.anchors.logits)
        return self.anchors.entropy() + (self.anchors.probs * base).sum(-1)

    def mode(self) -> dict[str, Tensor]:
        return self.family._gather(self.anchors.mode)

    def top(self, k: int) -> dict[str, Tensor]:
        return self.family._gather(self.anchors.top(k))


class CropHead(nn.Module):
    """`Features` to one logit per anchor, ``(B, A)``.

    Each anchor pools the feature map under a window that peaks at the anchor's own centre (cos², as wide as the box),
    so an anchor answers most to what lies in its middle; a hidden layer shared by all anchors sees that and the
    summary of the image; a weight vector and a bias per scale give the logit.
    """

    def __init__(self, family: Crop, spec: FeatureSpec) -> None:
        super().__init__()
        n_boxes = sum(g * g for g in family.grids)
        self.register_buffer("windows", _windows(family.anchors[:n_boxes], spec.map_size), persistent=False)
        scale = torch.tensor([k for k, g in enumerate(family.grids) for _ in range(g * g)])
        self.register_buffer("scale", scale, persistent=False)
        self.local = nn.Linear(spec.map_channels, HIDDEN)
        self.context = nn.Linear(spec.vector_size, HIDDEN, bias=False)
        n_flips = 2 if family.flips else 1
        self.weight = nn.Parameter(torch.randn(n_flips, len(family.grids), HIDDEN) * 0.01 / GAIN)
        # log p(scale, flip) at the start, spread evenly over the anchors of that scale.
        rest = (1 - family.initial_identity) / max(n_flips * len(family.grids) - 1, 1)
        bias = torch.full((n_flips, len(family.grids)), math.log(rest))
        bias[0, 0] = math.log(family.initial_identity)
        self.bias = nn.Parameter(bias)
        self.register_buffer("log_n", torch.tensor([float(g * g) for g in family.grids]).log(), persistent=False)

    def forward(self, features: Features) -> Tensor:
        # Windows sum to 1: the shared layer comes first, on fewer numbers, and anchors stay last in memory.
        local = F.conv2d(features.map, self.local.weight[..., None, None], self.local.bias).flatten(2)  # (B, H, h·w)
        context = self.context(features.vector).unsqueeze(2)  # (B, H, 1)
        hidden = torch.baddbmm(context, local, self.windows.expand(len(local), -1, -1)).relu_()  # (B, H, A)
        per_anchor = GAIN * self.weight.transpose(1, 2)[..., self.scale]  # (n_flips, H, A)
        logits = (hidden.unsqueeze(1) * per_anchor).sum(2) + (self.bias - self.log_n)[:, self.scale]
        return logits.flatten(1)  # (B, n_flips·A)


def _windows(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """cos² windows over the anchors, ``(h·w, A)``, each summing to 1."""

    def along(centre: Tensor, side: Tensor, n: int) -> Tensor:
        fine = (torch.arange(n * 16) + 0.5) / (n * 16)  # finer than the map: small boxes need their true weights
        offset = (fine - centre[:, None]) / side[:, None]
        weight = torch.where(offset.abs() < 0.5, (math.pi * offset).cos() ** 2, 0.0)
        return weight.unflatten(1, (n, 16)).sum(2)  # (A, n)

    height, width = size
    rows, columns = along(anchors[:, 1], anchors[:, 3], height), along(anchors[:, 0], anchors[:, 2], width)
    window = rows[:, :, None] * columns[:, None, :]
    return (window / window.sum((1, 2), keepdim=True)).flatten(1).T.contiguous()
