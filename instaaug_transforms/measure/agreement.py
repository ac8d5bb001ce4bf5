"""Learned against measured: does the learned range of each image end where the model's answer begins to change?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from .. import functional
from ..augment import LearnedAugment
from ..families.crop import Crop
from ..families.uniform import UniformFamily
from ..learning.loss_table import build_loss_table
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from ..utils.modes import frozen
from . import plots
from .images import NormalizationArgument, prepare
from .probe import Probe, probing
from .stats import Interval, mean_interval, rank_correlation
from .tables import Row, Table


@dataclass(frozen=True)
class Ranges:
    """One field's ranges of every image.

    Attributes:
        field: e.g. ``"angle"``.
        identity: its value.
        grid: ``(M,)`` values tried, ascending, from bound to bound.
        kept: ``(M, N)`` bool, whether the answer is that of the image as it is.
        measured: ``(N, 2)`` lo, hi of the interval around the identity over which it is kept.
        learned: ``(N, 2)`` lo, hi.
    """

    field: str
    identity: float
    grid: Tensor
    kept: Tensor
    measured: Tensor
    learned: Tensor

    def scores(self) -> dict[str, np.ndarray]:
        """``(N,)`` each: ``iou``, intersection over union; ``over_reach``, share of the learned range outside the
        measured one; ``coverage``, share of the measured range inside the learned one; widths of both."""
        lo = torch.maximum(self.learned[:, 0], self.measured[:, 0])
        hi = torch.minimum(self.learned[:, 1], self.measured[:, 1])
        shared = (hi - lo).clamp(min=0)
        learned, measured = (ends[:, 1] - ends[:, 0] for ends in (self.learned, self.measured))
        found = {
            "iou": shared / (learned + measured - shared),
            "over_reach": 1 - shared / learned,
            "coverage": shared / measured,
            "learned_width": learned,
            "measured_width": measured,
        }
        return {name: value.numpy() for name, value in found.items()}


@dataclass(frozen=True)
class LearnedReport(Table):
    """Learned ranges against measured ones, and learned crops against what the model makes of them.

    Attributes:
        ranges: by field.
        crop: ``(N,)`` rank correlation, over anchors, of learned probability with p(true class); empty without crops.
        crop_shuffled: ``(N,)``, each image's p(true) with another image's probabilities: what an input-free table gets.
        n: images; seed: of intervals.
    """

    ranges: dict[str, Ranges]
    crop: np.ndarray
    crop_shuffled: np.ndarray
    n: int
    seed: int

    def rows(self) -> list[Row]:
        """A row per field and figure, with its interval over images."""
        rows = []
        for field, ranges in self.ranges.items():
            scores = ranges.scores()
            for name in ("iou", "over_reach", "coverage", "learned_width", "measured_width"):
                rows.append(self._row(field, name, mean_interval(scores[name], self.seed)))
            widths = rank_correlation(scores["learned_width"], scores["measured_width"], self.seed)
            rows.append(self._row(field, "width_rank_correlation", widths))
        if self.crop.size:
            rows.append(self._row("crop", "rank_correlation", mean_interval(self.crop, self.seed)))
            rows.append(self._row("crop", "rank_correlation_shuffled", mean_interval(self.crop_shuffled, self.seed)))
            above = mean_interval(self.crop - self.crop_shuffled, self.seed)
            rows.append(self._row("crop", "above_shuffled", above))
        return rows

    def per_image(self) -> list[Row]:
        """A row per image and field: both ranges and their scores."""
        rows = []
        for field, ranges in self.ranges.items():
            scores = ranges.scores()
            for i in range(self.n):
                (low, high), (lo, hi) = ranges.measured[i].tolist(), ranges.learned[i].tolist()
                row = {"image": i, "field": field, "measured_lo": low, "measured_hi": high}
                row |= {"learned_lo": lo, "learned_hi": hi}
                rows.append(row | {name: float(values[i]) for name, values in scores.items()})
        return rows

    def summary(self) -> str:
        lines = [
            [row["field"], row["figure"].replace("_", " "), Interval(row["mean"], row["low"], row["high"]).text("+.3f")]
            for row in self.rows()
        ]
        table = tabulate(lines, ["field", "figure", "mean [95 %]"], tablefmt="github", disable_numparse=True)
        return f"Learned against measured, n = {self.n} images; intervals over images.\n\n{table}"

    def plot(self, path: Any = None) -> Any:
        """Learned and measured ranges, image by image; written to ``path`` where given. Returns the figure."""
        return plots.finish(plots.learned_against_measured(self), path)

    @staticmethod
    def _row(field: str, figure: str, found: Interval) -> Row:
        return {"field": field, "figure": figure, "mean": found.estimate, "low": found.low, "high": found.high}


def learned_against_measured(
    model: nn.Module,
    aug: LearnedAugment,
    data: Any,
    max_images: int | None = None,
    *,
    steps: int = 41,
    normalization: NormalizationArgument = None,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> LearnedReport:
    """Compare what ``aug`` learned with what ``model`` bears, image by image.

    Every field of a uniform family (angle, hue, saturation, value, …) is swept alone over its bounds, by the family's
    own operation. The measured range is the interval around the identity over which argmax stays what it is untouched;
    its ends lie half-way between the last value kept and the first lost, so they are right to half a step. Crops:
    Spearman's ρ, over the anchors of each image, between learned probability and p(true class); needs labels.

    Args:
        model, data, max_images, normalization, batch_size, amp, seed, progress: as in `measure_invariance`.
        aug: a fitted transform; it is given [0, 1] images.
        steps: values per field, at least 3; the identity is tried besides.

    Raises:
        InstaAugError: a transform without uniform family or crop, or fewer than 3 steps.
    """
    if not isinstance(steps, int) or steps < 3:
        raise InstaAugError(f"steps: expected a whole number ≥ 3, got {steps!r}")
    images = prepare(data, max_images, normalization, seed, progress)
    uniform = [family for family in aug.families if isinstance(family, UniformFamily)]
    crop = next((family for family in aug.families if isinstance(family, Crop)), None)
    if not uniform and crop is None:
        raise InstaAugError(f"aug: expected a uniform family or crop, got {[f.name for f in aug.families]}")
    ranges: dict[str, Ranges] = {}
    correlation, shuffled = np.empty(0), np.empty(0)
    with probing(model, images, batch_size=batch_size, amp=amp, progress=progress) as probe:
        with torch.no_grad(), frozen(aug):
            parts = [aug.distribution(x).parts for x in probe.batches()]
        for family in uniform:
            for field in family.fields:
                learned = [
                    torch.stack([part[family.name].fields[field].lo, part[family.name].fields[field].hi], 1)
                    for part in parts
                ]
                ranges[field] = _ranges(probe, family, field, torch.cat(learned).cpu(), steps, aug.fill, progress)
        if crop is not None and images.labelled:
            probs = torch.cat([part["crop"].anchors.probs for part in parts]).cpu()
            losses = build_loss_table(
                _Redone(model, images),
                images,
                crop,
                batch_size=batch_size,
                amp=amp,
                device=probe.device,
                progress=progress,
            )
            correlation = _per_image_rank(probs, -losses)
            other = torch.randperm(len(probs), generator=torch.Generator().manual_seed(seed))
            place = torch.empty_like(other)
            place[other] = other.roll(1)  # a random permutation that leaves no image with its own
            shuffled = _per_image_rank(probs[place], -losses)
    return LearnedReport(ranges, correlation, shuffled, len(images), seed)


class _Redone(nn.Module):
    """A model of normalised images as one of [0, 1] images."""

    def __init__(self, model: nn.Module, images: Any) -> None:
        super().__init__()
        self.model, self.images = model, images

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.images.to_model(x))


def _ranges(
    probe: Probe,
    family: UniformFamily,
    field: str,
    learned: Tensor,
    steps: int,
    fill: float,
    progress: bool | None,
) -> Ranges:
    """One field swept alone; the family's other fields stay at the identity."""
    low, high = family.bounds[field]
    identity = family.identity()
    grid = torch.cat([torch.linspace(low, high, steps), torch.tensor([identity[field]])]).unique()
    answers = probe.outputs.argmax(-1)
    kept = torch.empty(len(grid), len(answers), dtype=torch.bool)
    disable = None if progress is None else not progress
    for m, value in enumerate(tqdm(grid.tolist(), desc=f"measured {field}", disable=disable, leave=False)):
        values = {**identity, field: value}

        def change(x: Tensor, values: dict[str, float] = values) -> Tensor:
            params = {name: torch.full((len(x),), v, device=x.device) for name, v in values.items()}
            return functional.apply(x, AugmentParams(**params), [family], None, fill)

        kept[m] = answers == probe.run(change)[1].argmax(-1) if value != identity[field] else True
    measured = kept_interval(grid, kept, int((grid == identity[field]).nonzero()))
    return Ranges(field, identity[field], grid, kept, measured, learned)


def kept_interval(grid: Tensor, kept: Tensor, identity: int) -> Tensor:
    """The interval around the identity over which the answer is kept.

    Args:
        grid: ``(M,)``, ascending. kept: ``(M, N)`` bool, true at the identity. identity: its index.

    Returns:
        ``(N, 2)`` lo and hi: half-way to the first value lost, the grid's end where none is.
    """
    upward = kept[identity:].long().cumprod(0).sum(0) - 1 + identity  # the last kept above, (N,)
    downward = identity - (kept[: identity + 1].flip(0).long().cumprod(0).sum(0) - 1)
    above, below = (upward + 1).clamp(max=len(grid) - 1), (downward - 1).clamp(min=0)
    return torch.stack([(grid[downward] + grid[below]) / 2, (grid[upward] + grid[above]) / 2], 1)


def _per_image_rank(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's ρ of each row of ``(N, A)`` and ``(N, A)``; NaN for a constant row."""
    a, b = (rankdata(x.numpy(), axis=1) for x in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), size, out=np.full(len(a), np.nan), where=size > 0)
