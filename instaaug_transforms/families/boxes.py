"""Boxes on a grid, and the head that gives each one a logit from the part of the image it covers.

This is the location-related parameterisation (LRP; Miao et al., ICML 2023, algorithm 1). It is not about crops: any
operation with a place can take these boxes and this head.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InstaAugError, check_number, check_whole, several
from .base import GAIN, Features, FeatureSpec

HIDDEN = 32
MAX_BOXES = 2**16


def check_grids(name: str, scales: Sequence[float], grids: Sequence[int]) -> None:
    """Raise unless every scale is a side in (0, 1] with a grid of at least one centre per axis."""
    scales, grids = several(f"{name}: scales", scales), several(f"{name}: grids", grids)
    if len(scales) != len(grids):
        raise InstaAugError(
            f"{name}: scales and grids must have one entry per scale, got {tuple(scales)}, {tuple(grids)}"
        )
    for side, grid in zip(scales, grids, strict=True):
        check_number(f"{name}: scales", side, "(0, 1]")
        check_whole(f"{name}: grids", grid)
    if sum(grid * grid for grid in grids) > MAX_BOXES:
        raise InstaAugError(f"{name}: grids {tuple(grids)} have more than {MAX_BOXES} boxes")


def grid_boxes(scales: Sequence[float], grids: Sequence[int]) -> Tensor:
    """``(A, 4)``, columns cx, cy, w, h: scales in the given order, rows left to right, all inside the image."""
    rows = [
        (cx, cy, side, side)
        for side, grid in zip(scales, grids, strict=True)
        for cy in _line(side, grid)
        for cx in _line(side, grid)
    ]
    return torch.tensor(rows, dtype=torch.float64).float()


def half_cells(scales: Sequence[float], grids: Sequence[int]) -> Tensor:
    """``(A,)``: half the distance to the next centre, so that the cells of one scale are disjoint."""
    half = [(1 - side) / (grid - 1) / 2 if grid > 1 else 0.0 for side, grid in zip(scales, grids, strict=True)]
    each = [h for h, grid in zip(half, grids, strict=True) for _ in range(grid * grid)]
    return torch.tensor(each, dtype=torch.float32)


def _line(side: float, grid: int) -> list[float]:
    """Centres along one axis; the outermost boxes touch the image's edges."""
    return [0.5] if grid == 1 else [side / 2 + (1 - side) * k / (grid - 1) for k in range(grid)]


class BoxHead(nn.Module):
    """`Features` to one logit per box, ``(B, A)``.

    Each box pools the feature map under a window that peaks at its own centre (cos², as wide as the box), so a box
    answers most to what lies in its middle; a hidden layer shared by all boxes sees that and the summary of the image; a
    weight vector and a bias per scale give the logit.

    Args:
        boxes: ``(N, 4)`` of `grid_boxes`.
        grids: centres per axis of each scale.
        spec: sizes of the features.
        initial_identity: p(first box, not mirrored) before any fit; the other scales share the rest.
        mirrored: indices of the boxes that are offered mirrored too, after all others; none where empty.
    """

    def __init__(
        self,
        boxes: Tensor,
        grids: Sequence[int],
        spec: FeatureSpec,
        initial_identity: float,
        mirrored: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("windows", box_windows(boxes, spec.map_size), persistent=False)
        scale = torch.tensor([k for k, grid in enumerate(grids) for _ in range(grid * grid)])
        mirrored = torch.tensor(mirrored, dtype=torch.long)
        every = [torch.arange(len(boxes))] + ([mirrored] if len(mirrored) else [])
        box = torch.cat(every)
        flip = torch.cat([torch.full_like(index, k) for k, index in enumerate(every)])
        # Row of the weights that each logit takes: its flip and its scale.
        self.register_buffer("row", flip * len(grids) + scale[box], persistent=False)
        self.local = nn.Linear(spec.map_channels, HIDDEN)
        self.context = nn.Linear(spec.vector_size, HIDDEN, bias=False)
        self.weight = nn.Parameter(torch.randn(len(every), len(grids), HIDDEN) * 0.01 / GAIN)
        # log p(scale, flip) at the start, spread evenly over the boxes of that scale.
        # Where among the numbers of all boxes, a row each, that logit is.
        self.register_buffer("place", box * len(every) * len(grids) + self.row, persistent=False)
        used = len(self.row.unique())
        bias = torch.full((len(every), len(grids)), math.log((1 - initial_identity) / max(used - 1, 1)))
        bias[0, 0] = math.log(initial_identity)
        self.bias = nn.Parameter(bias)
        # What a policy that does not look at the image says of each box: a scale's bias cannot tell its boxes apart.
        self.offset = nn.Parameter(torch.zeros(len(box)))
        log_n = torch.bincount(self.row, minlength=bias.numel()).clamp(min=1).float().log()
        self.register_buffer("log_n", log_n.unflatten(0, bias.shape), persistent=False)

    def forward(self, features: Features) -> Tensor:
        # Windows sum to 1: the shared layer comes first, on fewer numbers.
        units = features.map.flatten(2).transpose(1, 2)  # (B, h·w, C): no copy where channels lie last
        # Not `F.linear`: what that rounds depends on whether its weights are being trained (torch 2.14).
        rows = torch.addmm(self.local.bias, units.flatten(0, 1), self.local.weight.T)
        local = rows.view(-1, units.shape[1], HIDDEN)  # (B, h·w, H)
        context = F.linear(features.vector, self.context.weight).unsqueeze(1)  # (B, 1, H)
        hidden = torch.baddbmm(context, self.windows.T.expand(local.shape[0], -1, -1), local).relu_()  # (B, N, H)
        # Every box by the weights of every row, which is one product, and of these numbers the box's own.
        start = (self.bias - self.log_n).flatten()
        every = torch.addmm(start, hidden.flatten(0, 1), self.weight.flatten(0, 1).T, alpha=GAIN)  # (B·N, rows)
        return every.view(local.shape[0], -1).index_select(1, self.place) + self.offset

    def _constant(self) -> Tensor:
        """``(A,)``: log-probabilities by scale alone, spread evenly over its boxes."""
        return (self.bias - self.log_n).flatten().index_select(0, self.row)

    @torch.no_grad()
    def shrink_(self, strength: float, mean: Tensor) -> None:
        """Let the image move the logits by ``strength`` times as much about their ``mean`` (A,) over images."""
        self.weight.mul_(strength)
        rest = (mean.to(self.offset) - self._constant()) * (1 - strength)
        self.offset.mul_(strength).add_(rest)

    @torch.no_grad()
    def shift_(self, by: Tensor) -> None:
        """Add ``by`` (A,) to the logits of every image."""
        self.offset.add_(by)

    @torch.no_grad()
    def zero_(self) -> None:
        """Leave nothing but what the image says: logits start at 0, as the predicted losses of a critic should."""
        self.bias.copy_(self.log_n)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        state_dict.setdefault(f"{prefix}offset", torch.zeros_like(self.offset))  # files of 0.1 have none
        super()._load_from_state_dict(state_dict, prefix, *args)


def box_windows(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """cos² windows over the boxes, ``(h·w, N)``, each summing to 1."""

    def along(centre: Tensor, side: Tensor, n: int) -> Tensor:
        fine = (torch.arange(n * 16) + 0.5) / (n * 16)  # finer than the map: small boxes need their true weights
        offset = (fine - centre[:, None]) / side[:, None]
        weight = torch.where(offset.abs() < 0.5, (math.pi * offset).cos() ** 2, 0.0)
        return weight.unflatten(1, (n, 16)).sum(2)  # (N, n)

    height, width = size
    rows, columns = along(boxes[:, 1], boxes[:, 3], height), along(boxes[:, 0], boxes[:, 2], width)
    window = rows[:, :, None] * columns[:, None, :]
    return (window / window.sum((1, 2), keepdim=True)).flatten(1).T.contiguous()
