"""Before and after: two or more models on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..utils.errors import InstaAugError
from ..utils.hashing import fingerprint
from ..utils.stats import Interval, mean_interval
from . import plots
from .invariance import InvarianceReport
from .report import Report, Row, Section
from .sweep import MEASURES


@dataclass(frozen=True)
class Comparison(Report):
    """Paired differences to the first of several reports.

    Attributes:
        reports: by name; the first is what the others are compared with.
    """

    reports: Mapping[str, InvarianceReport]

    @property
    def baseline(self) -> str:
        """Name of the first report."""
        return next(iter(self.reports))

    def difference(self, name: str, transformation: str, fill: str, measure: str) -> np.ndarray:
        """``(N,)``: of each image, ``name`` − first, mean over all magnitudes but the identity."""
        after, before = (
            self.reports[each].sweep(transformation, fill).per_image(measure) for each in (name, self.baseline)
        )
        # Both NaN (no labels, or embeddings without a scale) stays NaN; equal arrays give exactly 0.
        return np.where(after == before, 0.0, after - before)

    def interval(self, name: str, transformation: str, fill: str, measure: str) -> Interval:
        """The mean of `difference` and its paired 95 % interval over images."""
        if measure not in MEASURES:
            raise InstaAugError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}")
        return mean_interval(self.difference(name, transformation, fill, measure), self.reports[self.baseline].seed)

    def records(self) -> list[Row]:
        """A row per model but the first, transformation, fill and measure."""
        return [
            {"model": sweep["model"], "against": self.baseline, "transformation": sweep["transformation"]}
            | {"fill": sweep["fill"], "measure": measure, "difference": sweep[measure]}
            for sweep in self._by_sweep
            for measure in MEASURES
        ]

    @cached_property
    def _by_sweep(self) -> list[Row]:
        """For every model but the first and every sweep, the interval of every measure."""
        sweeps = [(s.transformation.name, s.fill) for s in self.reports[self.baseline].sweeps]
        return [
            {"model": name, "transformation": transformation, "fill": fill}
            | {measure: self.interval(name, transformation, fill, measure) for measure in MEASURES}
            for name in list(self.reports)[1:]
            for transformation, fill in sweeps
        ]

    def sections(self) -> list[Section]:
        """A line per model and sweep."""
        n = len(self.reports[self.baseline].images)
        text = f"Differences to {self.baseline!r} on the same {n} images; 95 % paired intervals over images."
        labels = {"model": "model", "transformation": "transformation", "outside": "fill"}
        figures = {
            "Δ invariance, cosine": ("relative_cosine", "+.3f", 1),
            "Δ d, cosine": ("d_cosine", "+.3f", 1),
            "Δ same answer, points": ("agreement", "+.1f", 100),
            "Δ top-1, points": ("accuracy", "+.1f", 100),
        }
        return [Section("Before and after", text, self._by_sweep, labels, figures, draw=self.draw)]

    def draw(self) -> Any:
        """Differences with intervals, a row per transformation."""
        return plots.comparison(self)


def compare(reports: Mapping[str, InvarianceReport]) -> Comparison:
    """Compare invariance reports that were measured alike on the same images.

    Args:
        reports: name to report, two or more; differences are to the first.

    Raises:
        InstaAugError: fewer than two, other images, or other sweeps.

    Example:
        >>> print(compare({"before": before, "after": after}).summary())
    """
    if len(reports) < 2:
        raise InstaAugError(f"reports: expected two or more, got {len(reports)}")
    (first_name, first), *others = reports.items()
    pixels, swept = fingerprint(first.images.images, first.images.targets), _swept(first)
    for name, report in others:
        if fingerprint(report.images.images, report.images.targets) != pixels:
            raise InstaAugError(
                f"reports: {name!r} was measured on other images than {first_name!r} ({len(report.images)} and "
                f"{len(first.images)}); give both measure_invariance calls the same data, max_images and seed"
            )
        if _swept(report) != swept:
            raise InstaAugError(
                f"reports: {name!r} has other transformations, magnitudes or fills than {first_name!r}; measure both alike"
            )
    return Comparison(dict(reports))


def _swept(report: InvarianceReport) -> list[tuple]:
    return [(sweep.transformation.name, sweep.fill, sweep.magnitudes) for sweep in report.sweeps]
