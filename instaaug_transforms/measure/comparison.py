"""Before and after: two or more models on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..utils.errors import InstaAugError
from ..utils.report import Report, Row, Section
from ..utils.stats import Interval, mean_interval
from . import plots
from .invariance import MEASURES, InvarianceReport


@dataclass(frozen=True)
class Comparison(Report):
    """Paired differences to the first of several ``reports``, by name."""

    reports: Mapping[str, InvarianceReport]
    picture = plots.comparison

    @property
    def baseline(self) -> str:
        return next(iter(self.reports))

    def difference(self, name: str, transformation: str, fill: str, measure: str) -> np.ndarray:
        """``(N,)``: of each image, ``name`` − first, mean over all magnitudes but the identity."""
        after, before = (self.reports[n].sweep(transformation, fill).per_image(measure) for n in (name, self.baseline))
        return after - before  # NaN where there are no labels, or embeddings have no scale

    def interval(self, name: str, transformation: str, fill: str, measure: str) -> Interval:
        """The mean of `difference` and its paired 95 % interval over images."""
        return mean_interval(self.difference(name, transformation, fill, measure), self.reports[self.baseline].seed)

    @cached_property
    def _by_sweep(self) -> list[Row]:
        """For every model but the first and every sweep, the interval of every measure."""
        return [
            {"model": name, "against": self.baseline, "transformation": sweep.transformation.name, "fill": sweep.fill}
            | {each: self.interval(name, sweep.transformation.name, sweep.fill, each) for each in MEASURES}
            for name in list(self.reports)[1:]
            for sweep in self.reports[self.baseline].sweeps
        ]

    def records(self) -> list[Row]:
        """A row per model but the first, transformation, fill and measure."""
        keys = ("model", "against", "transformation", "fill")
        pairs = [(sweep, measure) for sweep in self._by_sweep for measure in MEASURES]
        return [{k: sweep[k] for k in keys} | {"measure": each, "difference": sweep[each]} for sweep, each in pairs]

    def sections(self) -> list[Section]:
        n = len(self.reports[self.baseline].images)
        text = f"Differences to {self.baseline!r} on the same {n} images; 95 % paired intervals over images."
        labels = {"model": "model", "transformation": "transformation", "outside": "fill"}
        figures = {
            "Δ invariance, cosine": ("relative_cosine", "+.3f", 1),
            "Δ d, cosine": ("d_cosine", "+.3f", 1),
            "Δ same answer, points": ("agreement", "+.1f", 100),
            "Δ top-1, points": ("accuracy", "+.1f", 100),
        }
        return [Section("Before and after", text, self._by_sweep, labels, figures, self.picture)]


def compare(reports: Mapping[str, InvarianceReport]) -> Comparison:
    """Compare invariance reports that were measured alike on the same images.

    Args:
        reports: name to report, two or more; differences are to the first.

    Raises:
        InstaAugError: fewer than two, other images, or other sweeps.

    Example:
        >>> print(compare({"before": before, "after": after}).summary())
    """
    kinds = [type(each).__name__ for each in (reports.values() if isinstance(reports, Mapping) else [reports])]
    if len(kinds) < 2 or set(kinds) != {InvarianceReport.__name__}:
        raise InstaAugError(
            f"reports: expected names of two or more invariance reports, got {', '.join(kinds) or 'none'}"
        )
    (first_name, first), *others = reports.items()
    pixels = first.images.fingerprint()
    for name, report in others:
        if report.images.fingerprint() != pixels:
            raise InstaAugError(
                f"reports: {name!r} was measured on other images than {first_name!r} ({len(report.images)} and "
                f"{len(first.images)}); give both probes the same data, max_images and seed"
            )
        swept = [[(s.transformation.name, s.fill, s.magnitudes) for s in each.sweeps] for each in (first, report)]
        if swept[0] != swept[1]:
            raise InstaAugError(
                f"reports: {name!r} has other transformations, magnitudes or fills than {first_name!r}; measure both alike"
            )
    return Comparison(dict(reports))
