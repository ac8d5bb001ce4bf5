"""Factors of variation: which transformation of one image brings it closest to another of its class?"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import InstaAugError, check_whole
from ..utils.report import Report, Row, Section
from ..utils.stats import UNTESTED, Interval, Permutation, correlation_test, mean_interval, permutation_test
from . import plots
from .distances import distance
from .images import MeasuredImages
from .invariance import InvarianceReport
from .session import Session, Step
from .transformations import Transformation

logger = logging.getLogger(__name__)

NONE = "none"
SAME = 1e-5  # of the mean distance of pairs: nearer, they differ by rounding


@dataclass(frozen=True, repr=False)
class FactorReport(Report):
    """Within-class pairs and what each transformation does to their distance.

    Every transformation counts once, at the magnitude that helps a pair most; the identity, which all have in common,
    counts as `NONE`, so no factor is listed twice and none that changes nothing.

    Attributes:
        transformations: ``(T,)``.
        images: what the pairs are of.
        pairs: ``(P, 2)`` indices: first is transformed, second is approached. No image is in two pairs.
        before: ``(P,)`` distances of the pairs as they are.
        after: ``(P, T)`` the smallest distance over a transformation's magnitudes but the identity.
        magnitude: ``(P, T)``, the magnitude of that distance.
        seed: of intervals and tests.
        invariance: the model's, if it was measured in the same pass; `sections` compares with it.
    """

    transformations: tuple[Transformation, ...]
    images: MeasuredImages
    pairs: Tensor
    before: np.ndarray
    after: np.ndarray
    magnitude: np.ndarray
    seed: int
    invariance: InvarianceReport | None = None
    picture = plots.factors

    @property
    def names(self) -> list[str]:
        return [t.name for t in self.transformations]

    @property
    def targets(self) -> np.ndarray:
        """``(P,)`` class of each pair."""
        return self.images.targets[self.pairs[:, 0]].cpu().numpy()

    @property
    def gain(self) -> np.ndarray:
        """``(P, T)``: share of a pair's distance that the transformation takes away, 1 − after/before, at most 1."""
        return 1 - self.after / self.before[:, None]

    @property
    def best(self) -> np.ndarray:
        """``(P,)``: index of the transformation that brings the pair closest, −1 if none brings it closer."""
        gain = self.gain
        return np.where(gain.max(1) > 0, gain.argmax(1), -1)

    def ranking(self, target: int | None = None) -> list[Row]:
        """Factors of one class, or of all, strongest first: share of pairs it is best for, then mean gain.

        Ends with `NONE`, the share of pairs that nothing brings closer.
        """
        of_class = np.ones(len(self.before), bool) if target is None else self.targets == target
        if not of_class.any():
            raise InstaAugError(f"target: no pair of class {target!r}; there are {np.unique(self.targets).tolist()}")
        best, gain = self.best[of_class], self.gain[of_class]
        rows = [
            {"factor": t.name, "kind": t.kind, "share": float((best == k).mean()), "gain": float(gain[:, k].mean())}
            for k, t in enumerate(self.transformations)
        ]
        rows.sort(key=lambda row: (-row["share"], -row["gain"]))
        rows.append({"factor": NONE, "kind": "", "share": float((best < 0).mean()), "gain": 0.0})
        return [{"rank": rank, **row, "pairs": int(of_class.sum())} for rank, row in enumerate(rows, 1)]

    def records(self) -> list[Row]:
        """A row per class and factor, ranked."""
        return [
            {"class": self.images.class_name(int(target)), **row}
            for target in np.unique(self.targets)
            for row in self.ranking(int(target))
        ]

    def appearance(self) -> tuple[Interval, float]:
        """Share of pairs whose best factor is appearance rather than geometry, with its interval over pairs, and the
        share of appearance among the transformations tried: what a choice at random would give."""
        is_appearance = np.array([t.kind == "appearance" for t in self.transformations])
        best = self.best
        return mean_interval(is_appearance[best[best >= 0]], self.seed), float(is_appearance.mean())

    def specificity(self, resamples: int = 999) -> Permutation:
        """Do classes differ in their factors? Cramér's V of class × best factor (0 alike, 1 determined by the class),
        and the p-value of its χ² when the pairs' factors are permuted among classes."""
        from scipy import stats

        counts = stats.contingency.crosstab(self.targets, self.best).count
        if min(counts.shape) < 2:
            return UNTESTED
        method = stats.PermutationMethod(n_resamples=resamples, batch=100, rng=np.random.default_rng(self.seed))
        p_value = stats.chi2_contingency(counts, correction=False, method=method).pvalue
        return Permutation(float(stats.contingency.association(counts, method="cramer")), float(p_value))

    def alignment(self, report: InvarianceReport, measure: str = "relative_cosine") -> Permutation:
        """Is the model more invariant to the stronger factors? Spearman's ρ, over transformations, of mean gain and the
        ``measure`` of its ``report`` under the first fill of each, with a permutation test over transformations."""
        invariance = [report.interval(report.sweep(name), measure).estimate for name in self.names]
        return correlation_test(self.gain.mean(0), np.array(invariance), self.seed)

    def class_alignment(
        self, report: InvarianceReport, measure: str = "relative_cosine", resamples: int = 999
    ) -> Permutation:
        """Is the model more invariant to a factor for just those classes that vary by it? Correlation of gain and
        invariance over class × transformation once the means of classes and of transformations are taken out; the
        permutation test shuffles classes. The report must be on images of the same classes."""
        labels = report.images.targets.cpu().numpy()
        classes = [c for c in np.unique(self.targets) if (labels == c).any()]
        if len(classes) < 3:
            raise InstaAugError(f"report: expected at least 3 classes in common with the pairs, got {len(classes)}")
        values = np.stack([report.sweep(name).per_image(measure) for name in self.names], 1)
        gain = _centred(np.stack([self.gain[self.targets == c].mean(0) for c in classes]))
        invariance = _centred(np.stack([values[labels == c].mean(0) for c in classes]))
        scale = np.linalg.norm(gain) * np.linalg.norm(invariance)
        if not scale > 0:
            return UNTESTED

        def correlation(order: np.ndarray, axis: int = -1) -> np.ndarray:
            return (gain[order] * invariance).sum((-2, -1)) / scale

        return permutation_test(np.arange(len(classes)), correlation, self.seed, resamples)

    def sections(self) -> list[Section]:
        share, chance = self.appearance()
        text = (
            f"{len(self.before)} within-class pairs of {len(np.unique(self.targets))} classes. Which transformation of the "
            "first image brings it closest to the second, and what share of their distance does it take away (gain)?\n"
            f"Appearance is best for {share.text('.0f', 100)} % of pairs; it is {100 * chance:.0f} % of the transformations "
            f"tried. Do classes differ in their factors? Cramér's V {self.specificity().text()} (permutation test)."
        )
        if self.invariance is not None and len(self.names) > 2:
            rho = self.alignment(self.invariance).text()
            text += f"\nOver transformations, gain against measured invariance: Spearman's ρ {rho}."
            if len(np.unique(self.targets)) > 2:
                text += f" Within classes: r {self.class_alignment(self.invariance).text()}."
        labels = {name: name for name in ("rank", "factor", "kind")}
        figures = {"best for % of pairs": ("share", ".1f", 100), "mean gain": ("gain", "+.3f", 1)}
        return [Section("Factors of variation", text, self.ranking(), labels, figures, self.picture)]


def _centred(matrix: np.ndarray) -> np.ndarray:
    return matrix - matrix.mean(0) - matrix.mean(1, keepdims=True) + matrix.mean()


def within_class_pairs(images: MeasuredImages, per_class: int | None = None, seed: int = 0) -> Tensor:
    """Random pairs of images with the same label, ``(P, 2)`` indices; at most ``per_class`` of each, disjoint and so independent."""
    check_whole("pairs_per_class", per_class, optional=True)
    if not images.labelled:
        raise InstaAugError("data: factors of variation need labels; give (images, labels) or a Dataset of pairs")
    generator = torch.Generator().manual_seed(seed)
    targets, pairs = images.targets.cpu(), []
    for target in targets.unique():
        members = (targets == target).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        n = len(members) // 2 if per_class is None else min(per_class, len(members) // 2)
        pairs.append(members[: 2 * n].reshape(n, 2))
    if not any(map(len, pairs)):
        raise InstaAugError(f"data: no class has two images among the {len(images)} given; give more per class")
    return torch.cat(pairs)


class FactorCollector:
    """A `FactorReport` from the steps of one pass that are under one fill."""

    def __init__(
        self, session: Session, transformations: Sequence[Transformation], fill: str, per_class: int | None, metric: str
    ) -> None:
        self.session, self.transformations, self._fill, self._metric = session, tuple(transformations), fill, metric
        self._pairs = within_class_pairs(session.images, per_class, session.seed)
        self._column = {t.name: k for k, t in enumerate(self.transformations)}
        self._after = torch.full((len(self._pairs), len(self._column)), torch.inf)
        self._magnitude = torch.full_like(self._after, torch.nan)

    def take(self, step: Step) -> None:
        if not step.at_identity and step.fill in ("", self._fill):
            k, d = self._column[step.transformation.name], self._distance(step.z)
            self._magnitude[:, k] = torch.where(d < self._after[:, k], step.magnitude, self._magnitude[:, k])
            self._after[:, k] = torch.minimum(d, self._after[:, k])

    def report(self) -> FactorReport | None:
        before = self._distance(self.session.z)
        apart = before > SAME * before.mean()
        if not apart.all():
            logger.warning("data: %d of %d pairs are the same to the model, left out", int(sum(~apart)), len(apart))
        if not apart.any():
            return None
        arrays = (part[apart].numpy() for part in (before, self._after, self._magnitude))
        return FactorReport(self.transformations, self.session.images, self._pairs[apart], *arrays, self.session.seed)

    def _distance(self, first: Tensor) -> Tensor:
        """``(P,)``: from the first of each pair, as given, to the second as it is."""
        return distance(first[self._pairs[:, 0]], self.session.z[self._pairs[:, 1]], self._metric)
