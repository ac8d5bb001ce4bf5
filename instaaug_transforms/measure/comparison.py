"""Before and after: two or more models on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from ..utils.errors import InstaAugError
from . import plots
from .invariance import InvarianceReport
from .stats import Interval, mean_interval
from .sweep import MEASURES
from .tables import Row, Table


@dataclass(frozen=True)
class Comparison(Table):
    """Paired differences to the first of several reports.

    Attributes:
        reports: by name; the first is what the others are compared with.
    """

    reports: Mapping[str, InvarianceReport]

    def difference(self, name: str, transformation: str, fill: str, measure: str) -> np.ndarray:
        """``(N,)``: of each image, ``name`` − first, mean over all magnitudes but the identity."""
        first = next(iter(self.reports.values()))
        pair = [report.sweep(transformation, fill).per_image(measure) for report in (self.reports[name], first)]
        # Both NaN (no labels, or embeddings without a scale) stays NaN; equal arrays give exactly 0.
        return np.where(pair[0] == pair[1], 0.0, pair[0] - pair[1])

    def interval(self, name: str, transformation: str, fill: str, measure: str) -> Interval:
        """The mean of `difference` and its paired 95 % interval over images."""
        if measure not in MEASURES:
            raise InstaAugError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}")
        return mean_interval(self.difference(name, transformation, fill, measure), self._first.seed)

    @property
    def _first(self) -> InvarianceReport:
        return next(iter(self.reports.values()))

    def rows(self) -> list[Row]:
        """A row per model but the first, transformation, fill and measure."""
        rows = []
        for name in list(self.reports)[1:]:
            for sweep in self._first.sweeps:
                t = sweep.transformation
                for measure in MEASURES:
                    found = self.interval(name, t.name, sweep.fill, measure)
                    row = {"model": name, "against": next(iter(self.reports)), "transformation": t.name}
                    row |= {"fill": sweep.fill, "measure": measure, "difference": found.estimate}
                    rows.append(row | {"low": found.low, "high": found.high})
        return rows

    def summary(self) -> str:
        lines = []
        for name in list(self.reports)[1:]:
            for sweep in self._first.sweeps:
                t = sweep.transformation
                texts = [
                    self.interval(name, t.name, sweep.fill, measure).text(form, scale)
                    for measure, form, scale in (
                        ("relative_cosine", "+.3f", 1),
                        ("d_cosine", "+.3f", 1),
                        ("agreement", "+.1f", 100),
                        ("accuracy", "+.1f", 100),
                    )
                ]
                lines.append([name, t.name, sweep.fill, *texts])
        headers = ["model", "transformation", "outside", "Δ invariance, cosine", "Δ d cos", "Δ same answer, points"]
        table = tabulate(lines, [*headers, "Δ top-1, points"], tablefmt="github", disable_numparse=True)
        n = len(self._first.images)
        return (
            f"Differences to {next(iter(self.reports))!r} on the same {n} images; 95 % paired intervals over images.\n\n"
            f"{table}"
        )

    def plot(self, path: Any = None) -> Any:
        """Differences with intervals, a row per transformation; written to ``path`` where given. Returns the figure."""
        return plots.finish(plots.comparison(self), path)


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
    for name, report in others:
        if report.images.fingerprint() != first.images.fingerprint():
            raise InstaAugError(
                f"reports: {name!r} was measured on other images than {first_name!r} ({len(report.images)} and "
                f"{len(first.images)}); give both measure_invariance calls the same data, max_images and seed"
            )
        swept = [[(s.transformation.name, s.fill, s.magnitudes) for s in r.sweeps] for r in (first, report)]
        if swept[0] != swept[1]:
            raise InstaAugError(
                f"reports: {name!r} has other transformations, magnitudes or fills than {first_name!r}; measure both alike"
            )
    return Comparison(dict(reports))
