"""Learned against measured: does the learned range of each image end where the model's answer begins to change?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import functional
from ..augment import LearnedAugment
from ..families import Family
from ..families.crop import Crop
from ..families.uniform import UniformFamily
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from ..utils.modes import frozen
from ..utils.stats import Interval, mean_interval, rank_correlation, spearman
from . import plots
from .report import Report, Row, Section
from .session import Session
from .sweep import against_labels


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
        scores = {
            "iou": shared / (learned + measured - shared),
            "over_reach": 1 - shared / learned,
            "coverage": shared / measured,
            "learned_width": learned,
            "measured_width": measured,
        }
        return {name: value.numpy() for name, value in scores.items()}


@dataclass(frozen=True)
class LearnedReport(Report):
    """Learned ranges against measured ones, and learned candidates against what the model makes of them.

    Attributes:
        ranges: by field of a uniform family.
        ranks: by family with a table of candidates, ``(N,)``: the rank correlation, over candidates, of learned
            probability with p(true class). Empty without labels.
        ranks_shuffled: the same, each image's p(true class) with another image's probabilities: what a table that does
            not look at the image gets.
        n: images.
        seed: of intervals.
    """

    ranges: dict[str, Ranges]
    ranks: dict[str, np.ndarray]
    ranks_shuffled: dict[str, np.ndarray]
    n: int
    seed: int

    def records(self) -> list[Row]:
        """A row per field and figure, with its interval over images."""
        figures: list[tuple[str, str, Interval]] = []
        for field, ranges in self.ranges.items():
            scores = ranges.scores()
            figures += [(field, name, mean_interval(values, self.seed)) for name, values in scores.items()]
            widths = rank_correlation(scores["learned_width"], scores["measured_width"], self.seed)
            figures.append((field, "width_rank_correlation", widths))
        for family, own in self.ranks.items():
            other = self.ranks_shuffled[family]
            named = {"rank_correlation": own, "rank_correlation_shuffled": other, "above_shuffled": own - other}
            figures += [(family, name, mean_interval(values, self.seed)) for name, values in named.items()]
        return [{"field": field, "figure": name, "mean": mean} for field, name, mean in figures]

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

    def sections(self) -> list[Section]:
        """A line per field and figure."""
        text = (
            f"n = {self.n} images; intervals over images. The measured range is the interval around the identity over which "
            "the model keeps its answer. Over-reach: share of the learned range outside it. Coverage: share of it inside the "
            "learned range. Candidates: Spearman's ρ, over the candidates of an image, of learned probability with p(true "
            "class); “shuffled” takes the probabilities of another image."
        )
        labels, figures = {"field": "field", "figure": "figure"}, {"mean [95 %]": ("mean", "+.3f", 1)}
        return [Section("Learned against measured", text, self.records(), labels, figures, draw=self.draw)]

    def draw(self) -> Any:
        """Learned and measured ranges, image by image."""
        return plots.learned_against_measured(self)


def learned_ranges(session: Session, aug: LearnedAugment, steps: int) -> LearnedReport:
    """Every field of ``aug``'s uniform families, every candidate of the others; see `Probe.learned`."""
    if not isinstance(steps, int) or steps < 3:
        raise InstaAugError(f"steps: expected a whole number ≥ 3, got {steps!r}")
    uniform = [family for family in aug.families if isinstance(family, UniformFamily)]
    tables = [family for family in aug.families if isinstance(family, Crop)]
    if not uniform and not tables:
        raise InstaAugError(f"aug: expected a uniform family or crop, got {[f.name for f in aug.families]}")
    with torch.no_grad(), frozen(aug):
        parts = [aug.distribution(x).parts for x in session.batches()]
    ranges: dict[str, Ranges] = {}
    for family in uniform:
        for field in family.fields:
            learned = [part[family.name].fields[field] for part in parts]
            ends = torch.cat([torch.stack([interval.lo, interval.hi], 1) for interval in learned]).cpu()
            ranges[field] = _ranges(session, family, field, learned[0].bounds, ends, steps, aug.fill)
    ranks, shuffled = {}, {}
    for family in tables if session.images.labelled else []:
        probs = torch.cat([part[family.name].anchors.probs for part in parts]).cpu().numpy()
        p_true = _p_true(session, family, aug.fill)
        order = torch.randperm(len(probs), generator=torch.Generator().manual_seed(session.seed)).numpy()
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)  # a random permutation that leaves no image with its own
        ranks[family.name], shuffled[family.name] = (spearman(p, p_true, axis=1) for p in (probs, probs[other]))
    return LearnedReport(ranges, ranks, shuffled, len(session.images), session.seed)


def _apply(images: Tensor, family: Family, fields: dict[str, float], fill: Any) -> Tensor:
    """The family's own operation with the same parameters for every image."""
    params = {name: torch.full((len(images),), value, device=images.device) for name, value in fields.items()}
    return functional.apply(images, AugmentParams(**params), [family], None, fill)


def _ranges(
    session: Session,
    family: UniformFamily,
    field: str,
    bounds: tuple[float, float],
    learned: Tensor,
    steps: int,
    fill: Any,
) -> Ranges:
    """One field swept alone; the family's other fields stay at the identity."""
    rest = family.identity()
    identity = rest[field]
    grid = torch.cat([torch.linspace(*bounds, steps), torch.tensor([identity])]).unique()
    answers = session.outputs.argmax(-1)
    kept = torch.ones(len(grid), len(answers), dtype=torch.bool)
    with session.bar(f"measured {field}", len(grid) * len(answers)) as bar:
        for m, value in enumerate(grid.tolist()):
            if value != identity:
                fields = {**rest, field: value}
                kept[m] = session.run(lambda x, at=fields: _apply(x, family, at, fill))[1].argmax(-1) == answers
            bar.update(len(answers))
    measured = kept_interval(grid, kept, int((grid == identity).nonzero()))
    return Ranges(field, identity, grid, kept, measured, learned)


def _p_true(session: Session, family: Crop, fill: Any) -> np.ndarray:
    """``(N, A)``: p(true class) of every image through every candidate."""
    candidates, columns = family.anchor_params(), []
    with session.bar(f"measured {family.name}", family.n_anchors * len(session.images)) as bar:
        for a in range(family.n_anchors):
            at = {name: field[a].item() for name, field in candidates.items()}
            outputs = session.run(lambda x, at=at: _apply(x, family, at, fill))[1]
            columns.append(against_labels(outputs, session)["p_true"].numpy())
            bar.update(len(session.images))
    return np.stack(columns, 1)


def kept_interval(grid: Tensor, kept: Tensor, identity: int) -> Tensor:
    """The interval around the identity over which the answer is kept.

    Args:
        grid: ``(M,)``, ascending.
        kept: ``(M, N)`` bool, true at the identity.
        identity: index of the identity.

    Returns:
        ``(N, 2)`` lo and hi: half-way to the first value lost, the grid's end if none is.
    """
    upward = kept[identity:].long().cumprod(0).sum(0) - 1 + identity  # the last kept above, (N,)
    downward = identity - (kept[: identity + 1].flip(0).long().cumprod(0).sum(0) - 1)
    above, below = (upward + 1).clamp(max=len(grid) - 1), (downward - 1).clamp(min=0)
    return torch.stack([(grid[downward] + grid[below]) / 2, (grid[upward] + grid[above]) / 2], 1)
