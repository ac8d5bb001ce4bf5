"""Learned against measured: does the learned range of each image end where the model's answer begins to change?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import functional
from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..families import Family, UniformFamily
from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_whole
from ..utils.modes import frozen, permutation
from ..utils.outputs import check_logits
from ..utils.report import Report, Row, Section
from ..utils.stats import Interval, mean_interval, rank_correlation, spearman
from . import plots
from .invariance import against_labels
from .session import Session


@dataclass(frozen=True)
class Ranges:
    """One field's ranges of every image.

    Attributes:
        identity: the value that changes nothing.
        grid: ``(M,)`` values tried, ascending, from bound to bound.
        kept: ``(M, N)`` bool, whether the answer is that of the image as it is.
        measured: ``(N, 2)`` lo, hi of the interval around the identity over which it is kept.
        learned: ``(N, 2)`` lo, hi.
    """

    identity: float
    grid: Tensor
    kept: Tensor
    measured: Tensor
    learned: Tensor

    def scores(self) -> dict[str, np.ndarray]:
        """``(N,)`` each: ``iou``, intersection over union; ``over_reach``, share of the learned range outside the
        measured one; ``coverage``, share of the measured range inside the learned one; widths of both."""
        (lo, hi), (low, high) = self.learned.T.numpy(), self.measured.T.numpy()
        shared, learned, measured = np.maximum(np.minimum(hi, high) - np.maximum(lo, low), 0), hi - lo, high - low
        return {
            "iou": shared / (learned + measured - shared),
            "over_reach": 1 - shared / learned,
            "coverage": shared / measured,
            "learned_width": learned,
            "measured_width": measured,
        }


@dataclass(frozen=True, repr=False)
class LearnedReport(Report):
    """Learned ranges against measured ones, and learned candidates against what the model makes of them.

    Attributes:
        ranges: by field of a uniform family.
        ranks: by family with a table of candidates, ``(N,)``: the rank correlation, over candidates, of learned
            probability with p(true class). Empty without labels.
        ranks_shuffled: the same, with another image's probabilities: what a table that does not look at the image gets.
        n: images.
        seed: of intervals.
    """

    ranges: dict[str, Ranges]
    ranks: dict[str, np.ndarray]
    ranks_shuffled: dict[str, np.ndarray]
    n: int
    seed: int
    picture = plots.learned_against_measured

    def records(self) -> list[Row]:
        """A row per field and figure, with its interval over images."""
        figures: dict[tuple[str, str], Interval] = {}
        for field, ranges in self.ranges.items():
            scores = ranges.scores()
            figures |= {(field, name): mean_interval(values, self.seed) for name, values in scores.items()}
            widths = rank_correlation(scores["learned_width"], scores["measured_width"], self.seed)
            figures[field, "width_rank_correlation"] = widths
        for family, own in self.ranks.items():
            other = self.ranks_shuffled[family]
            named = {"rank_correlation": own, "rank_correlation_shuffled": other, "above_shuffled": own - other}
            figures |= {(family, name): mean_interval(values, self.seed) for name, values in named.items()}
        return [{"field": field, "figure": name, "mean": mean} for (field, name), mean in figures.items()]

    def per_image(self) -> list[Row]:
        """A row per image and field: both ranges and their scores."""
        rows = []
        for field, ranges in self.ranges.items():
            columns = dict(zip(("measured_lo", "measured_hi"), ranges.measured.T, strict=True))
            columns |= dict(zip(("learned_lo", "learned_hi"), ranges.learned.T, strict=True)) | ranges.scores()
            for i in range(self.n):
                rows.append({"image": i, "field": field} | {name: float(values[i]) for name, values in columns.items()})
        return rows

    def sections(self) -> list[Section]:
        text = (
            f"n = {self.n} images; intervals over images. The measured range is the interval around the identity over which "
            "the model keeps its answer. Over-reach: share of the learned range outside it. Coverage: share of it inside the "
            "learned range. Candidates: Spearman's ρ, over the candidates of an image, of learned probability with p(true "
            "class); “shuffled” takes the probabilities of another image."
        )
        labels, figures = {"field": "field", "figure": "figure"}, {"mean [95 %]": ("mean", "+.3f", 1)}
        return [Section("Learned against measured", text, self.records(), labels, figures, self.picture)]


def learned_ranges(session: Session, aug: LearnedAugment, steps: int) -> LearnedReport:
    """Every field of ``aug``'s uniform families, every candidate of the others; see `Probe.learned`."""
    check_whole("steps", steps, 3)
    aug, channels = check_aug(aug), session.images.images.shape[1]
    check_logits(session.outputs, "model")
    if aug.in_channels != channels:
        raise InstaAugError(f"aug: expected one for images of {channels} channel(s), got one for {aug.in_channels}")
    aug._check_device(session.device)
    uniform = [family for family in aug.families if isinstance(family, UniformFamily)]
    tables = aug.anchor_families
    if not uniform and not tables:
        raise InstaAugError(f"aug: expected a range or a table of candidates, got {[f.name for f in aug.families]}")
    with torch.no_grad(), frozen(aug):
        parts = [aug.predict(x).parts for x in session.batches()]
    ranges: dict[str, Ranges] = {}
    for family in uniform:
        for field in family.fields:
            intervals = [part[family.name].fields[field] for part in parts]
            learned = torch.cat([torch.stack([interval.lo, interval.hi], 1) for interval in intervals]).cpu()
            ranges[field] = _ranges(session, family, field, learned, steps, aug.fill)
    ranks, shuffled = {}, {}
    for family in tables if session.images.labelled else []:
        probs = torch.cat([part[family.name].categorical.probs for part in parts]).cpu().numpy()
        outputs = _outputs(session, family, family.candidates(), aug.fill)
        p_true = np.stack([against_labels(each, session)["p_true"].numpy() for each in outputs], 1)
        order = permutation(len(probs), session.seed)
        other = order.roll(1)[order.argsort()].numpy()  # a random permutation that leaves no image with its own
        ranks[family.name], shuffled[family.name] = (spearman(p, p_true, axis=1) for p in (probs, probs[other]))
    return LearnedReport(ranges, ranks, shuffled, len(session.images), session.seed)


def _ranges(session: Session, family: UniformFamily, field: str, learned: Tensor, steps: int, fill: Any) -> Ranges:
    """One field swept alone; the family's other fields stay at the identity."""
    identity = family.identity()[field]
    grid = torch.cat([torch.linspace(*family.bounds[field], steps), torch.tensor([identity])]).unique()
    settings = AugmentParams.alike(family.identity(), len(grid)).replace(**{field: grid})
    outputs = _outputs(session, family, settings, fill)
    answer, at_identity = session.outputs.argmax(-1), grid == identity
    kept = torch.stack([each.argmax(-1) == answer for each in outputs]) | at_identity[:, None]
    return Ranges(identity, grid, kept, kept_interval(grid, kept, int(at_identity.nonzero())), learned)


def _outputs(session: Session, family: Family, settings: AugmentParams, fill: Any) -> Iterator[Tensor]:
    """``(N, classes)`` for each of ``(M,)`` parameters, the same for every image, by the family's own operation."""
    with session.progress_bar(f"measure {family.name}", settings.batch_shape[0] * len(session.images)) as bar:
        for m in range(settings.batch_shape[0]):
            one = settings.index(slice(m, m + 1)).to(session.device)
            _, outputs = session.run(
                lambda x, one=one: functional.apply(x, one.repeat_interleave(len(x)), [family], None, fill)
            )
            yield outputs
            bar.update(len(session.images))


def kept_interval(grid: Tensor, kept: Tensor, identity: int) -> Tensor:
    """The interval around the identity over which the answer is kept.

    Args:
        grid: ``(M,)``, ascending.
        kept: ``(M, N)`` bool, true at the index ``identity``.

    Returns:
        ``(N, 2)`` lo and hi: half-way to the first value lost, the grid's end if none is.
    """
    upward = kept[identity:].long().cumprod(0).sum(0) - 1 + identity  # the last kept above, (N,)
    downward = identity - (kept[: identity + 1].flip(0).long().cumprod(0).sum(0) - 1)
    above, below = (upward + 1).clamp(max=len(grid) - 1), (downward - 1).clamp(min=0)
    return torch.stack([(grid[downward] + grid[below]) / 2, (grid[upward] + grid[above]) / 2], 1)
