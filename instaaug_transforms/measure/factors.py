"""Factors of variation: which transformation of one image brings it closest to another of its class?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.stats.contingency import association
from tabulate import tabulate
from torch import Tensor, nn

from ..utils.errors import InstaAugError
from . import plots
from .distances import check_metric, distance
from .images import MeasuredImages, NormalizationArgument, prepare
from .invariance import InvarianceReport
from .probe import Probe, Step, probing
from .stats import Interval, Permutation, correlation_test, mean_interval
from .tables import Row, Table
from .transformations import Transformation, choose
from .warp import Fill

NONE = "none"


@dataclass(frozen=True)
class FactorReport(Table):
    """Within-class pairs and what each transformation does to their distance.

    Every transformation counts once, at the magnitude that helps a pair most; the identity, which all have in common,
    counts as `NONE`, so no factor is listed twice and none that changes nothing.

    Attributes:
        transformations: ``(T,)``.
        images: what the pairs are of.
        pairs: ``(P, 2)`` indices: first is transformed, second is approached. No image is in two pairs.
        before: ``(P,)`` distances of the pairs as they are.
        after: ``(P, T)`` the smallest distance over a transformation's magnitudes but the identity.
        magnitude: ``(P, T)`` where that was.
        seed: of intervals and tests.
    """

    transformations: tuple[Transformation, ...]
    images: MeasuredImages
    pairs: Tensor
    before: np.ndarray
    after: np.ndarray
    magnitude: np.ndarray
    seed: int

    @property
    def names(self) -> list[str]:
        """``(T,)``."""
        return [t.name for t in self.transformations]

    @property
    def targets(self) -> np.ndarray:
        """``(P,)`` class of each pair."""
        return self.images.targets[self.pairs[:, 0]].cpu().numpy()

    @property
    def gain(self) -> np.ndarray:
        """``(P, T)``: share of a pair's distance that the transformation takes away, 1 − after/before, at most 1."""
        return 1 - self.after / np.maximum(self.before, np.finfo(np.float32).tiny)[:, None]

    @property
    def best(self) -> np.ndarray:
        """``(P,)``: index of the transformation that brings the pair closest, −1 where none brings it closer."""
        gain = self.gain
        return np.where(gain.max(1) > 0, gain.argmax(1), -1)

    def ranking(self, target: int | None = None) -> list[Row]:
        """Factors of one class (all where None), strongest first: share of pairs it is best for, then mean gain.

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

    def rows(self) -> list[Row]:
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
        best, targets = self.best, self.targets
        table = np.zeros((targets.max() + 1, len(self.names) + 1), int)
        np.add.at(table, (targets, best), 1)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        if min(table.shape) < 2:
            return Permutation(np.nan, np.nan)
        method = stats.PermutationMethod(n_resamples=resamples, batch=100, rng=np.random.default_rng(self.seed))
        p_value = stats.chi2_contingency(table, correction=False, method=method).pvalue
        return Permutation(float(association(table, method="cramer")), float(p_value))

    def alignment(self, report: InvarianceReport, measure: str = "relative_cosine") -> Permutation:
        """Is the model more invariant to the stronger factors? Spearman's ρ, over transformations, of mean gain and
        measured invariance, with a permutation test over transformations.

        Args:
            report: of the model, with the same transformations; the first fill of each is taken.
            measure: of the report.
        """
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
        gain = np.stack([self.gain[self.targets == c].mean(0) for c in classes])
        values = np.stack([report.sweep(name).per_image(measure) for name in self.names], 1)
        gain, invariance = _centred(gain), _centred(np.stack([values[labels == c].mean(0) for c in classes]))
        scale = np.linalg.norm(gain) * np.linalg.norm(invariance)
        if not scale > 0:
            return Permutation(np.nan, np.nan)

        def correlation(order: np.ndarray) -> float:
            return float((gain[order] * invariance).sum() / scale)

        found = stats.permutation_test(
            (np.arange(len(classes)),),
            correlation,
            permutation_type="pairings",
            vectorized=False,
            n_resamples=resamples,
            rng=np.random.default_rng(self.seed),
        )
        return Permutation(float(found.statistic), float(found.pvalue))

    def summary(self) -> str:
        lines = [
            [row["rank"], row["factor"], row["kind"], f"{100 * row['share']:.1f}", f"{row['gain']:+.3f}"]
            for row in self.ranking()
        ]
        headers = ["rank", "factor", "kind", "best for % of pairs", "mean gain"]
        table = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
        share, chance = self.appearance()
        specific = self.specificity()
        n_classes = len(np.unique(self.targets))
        return (
            f"Factors of variation, {len(self.before)} within-class pairs of {n_classes} classes. Gain: share of a "
            f"pair's distance that the factor takes away.\n\n{table}\n\nAppearance: {share.text('.0f', 100)} % of pairs "
            f"({100 * chance:.0f} % of the transformations tried). Class specificity: Cramér's V {specific.text()}."
        )

    def plot(self, path: Any = None) -> Any:
        """Shares by factor, and by class; written to ``path`` where given. Returns the figure."""
        return plots.finish(plots.factors(self), path)


def _centred(matrix: np.ndarray) -> np.ndarray:
    return matrix - matrix.mean(0) - matrix.mean(1, keepdims=True) + matrix.mean()


def within_class_pairs(images: MeasuredImages, per_class: int | None = None, seed: int = 0) -> Tensor:
    """Random disjoint pairs of images with the same label, ``(P, 2)`` indices; ``per_class`` of each at most.

    Disjoint, so that pairs are independent and tests over them are valid.

    Raises:
        InstaAugError: images without labels, or no class with two images.
    """
    if not images.labelled:
        raise InstaAugError("data: factors of variation need labels; give (images, labels) or a Dataset of pairs")
    generator = torch.Generator().manual_seed(seed)
    targets, pairs = images.targets.cpu(), []
    for target in targets.unique():
        members = (targets == target).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        n = len(members) // 2 if per_class is None else min(per_class, len(members) // 2)
        pairs.append(members[: 2 * n].reshape(n, 2))
    found = torch.cat(pairs)
    if not len(found):
        raise InstaAugError(
            f"data: no class has two images among the {len(images)} given; give more, or more per class"
        )
    return found


def factors_of_variation(
    model: nn.Module,
    data: Any,
    max_images: int | None = None,
    *,
    transformations: Sequence[str | Transformation] | None = None,
    fill: Fill = 0.0,
    pairs_per_class: int | None = None,
    metric: str = "cosine",
    layer: str | None = None,
    normalization: NormalizationArgument = None,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> FactorReport:
    """Which transformations do the images of a class differ by, as ``model`` sees them?

    For a pair (x, x') of one class, each t is scored by min over magnitudes of dist(f(t(x)), f(x')) (after
    Bouchacourt et al., NeurIPS 2021, who characterise ImageNet by the transformations that bring pairs closest). A
    transformation with more, or farther, magnitudes has more chances: compare like ranges.

    Args:
        fill: one fill, so that no transformation is there twice.
        pairs_per_class: at most this many disjoint pairs of each class; all where None.
        metric: ``"cosine"`` or ``"l2"``.
        model, data, max_images, transformations, layer, normalization, batch_size, amp, seed, progress: as in
            `measure_invariance`.

    Raises:
        InstaAugError: images without labels, or no class with two images.
    """
    images = prepare(data, max_images, normalization, seed, progress)
    chosen = choose(transformations, images.images.shape[1])
    pairs = within_class_pairs(images, pairs_per_class, seed)
    with probing(model, images, layer, batch_size=batch_size, amp=amp, progress=progress) as probe:
        collector = FactorCollector(probe, chosen, pairs, metric, seed)
        for step in probe.steps(chosen, [fill]):
            collector.take(step)
        return collector.report()


class FactorCollector:
    """Makes a `FactorReport` of the steps of one pass under one fill."""

    def __init__(
        self, probe: Probe, transformations: Sequence[Transformation], pairs: Tensor, metric: str, seed: int
    ) -> None:
        self.probe, self.transformations, self.pairs, self.seed = probe, tuple(transformations), pairs, seed
        self._metric = check_metric(metric)
        self._column = {t.name: k for k, t in enumerate(self.transformations)}
        self._after = torch.full((len(pairs), len(self._column)), torch.inf)
        self._magnitude = torch.full_like(self._after, torch.nan)

    def take(self, step: Step) -> None:
        """One magnitude; the identity is what pairs start from."""
        if step.magnitude == step.transformation.identity:
            return
        k = self._column[step.transformation.name]
        d = distance(step.z[self.pairs[:, 0]], self.probe.z[self.pairs[:, 1]], self._metric)
        self._magnitude[:, k] = torch.where(d < self._after[:, k], step.magnitude, self._magnitude[:, k])
        self._after[:, k] = torch.minimum(d, self._after[:, k])

    def report(self) -> FactorReport:
        """What was taken."""
        before = distance(self.probe.z[self.pairs[:, 0]], self.probe.z[self.pairs[:, 1]], self._metric)
        after, magnitude = self._after.numpy(), self._magnitude.numpy()
        return FactorReport(
            self.transformations, self.probe.images, self.pairs, before.numpy(), after, magnitude, self.seed
        )
