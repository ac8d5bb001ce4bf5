"""What a model is invariant to, how far, and for which images; and in what others differ from it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import InstaAugError, check_one_of
from ..utils.outputs import probabilities
from ..utils.report import Report, Row, Section, flatten
from ..utils.stats import Interval, mean_interval
from . import plots
from .distances import METRICS, distance, mean_to_others, relative
from .images import MeasuredImages
from .session import Session, Step
from .transformations import Transformation

logger = logging.getLogger(__name__)
DISTANCES = tuple(f"{kind}_{metric}" for metric in METRICS for kind in ("relative", "b", "d"))
MEASURES = (*DISTANCES, "agreement", "accuracy", "p_true")
"""``relative_cosine``, ``b_cosine``, ``d_cosine``, the same for ``l2``, ``agreement``, ``accuracy``, ``p_true``."""


@dataclass(frozen=True)
class Sweep:
    """One transformation under one fill.

    Attributes:
        transformation: what was swept.
        fill: what lay outside; "" if nothing outside is seen.
        values: measure to ``(M, N)`` float32, M magnitudes, N images. ``agreement``, ``accuracy``: 0 or 1. Without
            labels ``accuracy`` and ``p_true`` are NaN; without outputs ``(N, 2 or more)`` all three are.
    """

    transformation: Transformation
    fill: str
    values: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """Transformation and fill, e.g. ``"rotate"`` or ``"rotate, reflection"``."""
        return self.transformation.name + (f", {self.fill}" if self.fill not in ("", "black") else "")

    @property
    def about(self) -> Row:
        return {"transformation": self.transformation.name, "kind": self.transformation.kind, "fill": self.fill}

    @property
    def magnitudes(self) -> tuple[float, ...]:
        """``(M,)``."""
        return self.transformation.magnitudes

    @property
    def identity(self) -> int:
        """Row of the identity."""
        return self.magnitudes.index(self.transformation.identity)

    def per_image(self, measure: str) -> np.ndarray:
        """``(N,)`` of one of `MEASURES`: the mean over all magnitudes but the identity."""
        check_one_of("measure", measure, MEASURES)
        return np.delete(self.values[measure], self.identity, axis=0).mean(0)


@dataclass(frozen=True, repr=False)
class InvarianceReport(Report):
    """How far transformations move a model's embeddings and answers, per image, class and magnitude.

    Attributes:
        sweeps: one per transformation and fill.
        images: what was measured on.
        layer: what was embedded, in words.
        model: name of the model's class.
        accuracy: ``(N,)`` 0 or 1 of the images as they are; NaN without labels.
        seed: of every interval.
    """

    sweeps: tuple[Sweep, ...]
    images: MeasuredImages
    layer: str
    model: str
    accuracy: np.ndarray
    seed: int
    picture = plots.invariance

    def sweep(self, transformation: str, fill: str | None = None) -> Sweep:
        """The sweep of a transformation; of several fills, the first unless one is named."""
        for sweep in self.sweeps:
            if sweep.transformation.name == transformation and fill in (None, sweep.fill):
                return sweep
        known = ", ".join(f"{s.transformation.name!r} ({s.fill or 'no fill'})" for s in self.sweeps)
        raise InstaAugError(f"transformation: no sweep of {transformation!r} with fill {fill!r}; there are {known}")

    def records(self) -> list[Row]:
        """A row per transformation, fill and magnitude: the mean over images of every measure."""
        return [
            sweep.about
            | {"magnitude": magnitude, "unit": sweep.transformation.unit, "n": len(self.images)}
            | {measure: float(sweep.values[measure][m].mean()) for measure in MEASURES}
            for sweep in self.sweeps
            for m, magnitude in enumerate(sweep.magnitudes)
        ]

    def per_class(self) -> list[Row]:
        """A row per transformation, fill and class: means over its images and all magnitudes but the identity."""
        images = self.images
        classes = images.targets.unique().tolist() if images.labelled else []
        members = [(c, (images.targets == c).numpy()) for c in classes]
        return self._means([({"class": images.class_name(c), "n": int(which.sum())}, which) for c, which in members])

    def per_image(self) -> list[Row]:
        """A row per transformation, fill and image: means over all magnitudes but the identity."""
        about = zip(self.images.index.tolist(), self.images.labels(), strict=True)
        return self._means([({"image": index, "class": label}, i) for i, (index, label) in enumerate(about)])

    def _means(self, groups: list[tuple[Row, Any]]) -> list[Row]:
        """A row per sweep and group: what to call the group, and an index of its images."""
        rows = []
        for sweep in self.sweeps:
            values = {measure: sweep.per_image(measure) for measure in MEASURES}
            for about, which in groups:
                rows.append(sweep.about | about | {name: float(v[which].mean()) for name, v in values.items()})
        return rows

    def interval(self, sweep: Sweep, measure: str) -> Interval:
        """The mean of `Sweep.per_image` and its 95 % interval over images."""
        return mean_interval(sweep.per_image(measure), self.seed)

    @property
    def noise(self) -> float:
        """The largest L2 distance between two forwards of the same image: 0 for a deterministic model."""
        return max(float(sweep.values["d_l2"][sweep.identity].max()) for sweep in self.sweeps)

    @cached_property
    def _by_sweep(self) -> list[Row]:
        """For every sweep, the interval of every measure."""
        return [
            sweep.about
            | {"range": f"{sweep.magnitudes[0]:g} … {sweep.magnitudes[-1]:g}"}
            | {measure: self.interval(sweep, measure) for measure in MEASURES}
            for sweep in self.sweeps
        ]

    def summary_rows(self) -> list[Row]:
        """A row per sweep: mean over images and magnitudes without the identity, and intervals over images."""
        return [flatten(record) for record in self._by_sweep]

    def sections(self) -> list[Section]:
        height, width = self.images.images.shape[-2:]
        known = "" if np.isnan(self.accuracy).all() else f", top-1 {100 * self.accuracy.mean():.1f} % untransformed"
        noise = f"two forwards of one image differ by up to {self.noise:.2g} (L2)" if self.noise else "deterministic"
        text = (
            f"{self.model}, {self.layer}, n = {len(self.images)} images of {height} × {width} pixels{known}; {noise}.\n"
            "Relative invariance (b − d)/b compares d, how far a transformation moves an image's embedding, with b, how far "
            "away the transformed embeddings of other images are: 1 is invariant, 0 is as far as another image. Means over "
            f"all magnitudes but the identity; 95 % intervals over images, seed {self.seed}."
        )
        raw_text = (
            "A high relative invariance can come from a small d or from a large b. An untrained network can seem less "
            "invariant than another merely because all of its embeddings lie close together."
        )
        labels = {"transformation": "transformation", "outside": "fill", "range": "range"}
        answers = {
            "invariance, cosine": ("relative_cosine", "+.2f", 1),
            "invariance, L2": ("relative_l2", "+.2f", 1),
            "same answer %": ("agreement", ".1f", 100),
            "top-1 %": ("accuracy", ".1f", 100),
            "p(true)": ("p_true", ".3f", 1),
        }
        raw = {f"{kind}, {metric}": (f"{kind}_{metric}", ".3f", 1) for metric in METRICS for kind in "bd"}
        curves = "Means over images, by magnitude. The grey upright line is the identity."
        means = "Means over images and all magnitudes but the identity."
        by_class = "Mean relative invariance (cosine); classes by their mean."
        sections = [
            Section("Invariance", text, self._by_sweep, labels, answers, self.picture, curves),
            Section("Raw distances", raw_text, self._by_sweep, labels, raw, partial(plots.raw_distances, self), means),
            Section("Classes", draw=partial(plots.per_class, self), caption=by_class),
        ]
        return sections if self.images.labelled else sections[:2]


class InvarianceCollector:
    """An `InvarianceReport` from the steps of one pass, in the order of `Session.steps`."""

    def __init__(self, session: Session) -> None:
        self.session, self._sweeps, self._steps = session, [], []

    def take(self, step: Step) -> None:
        session, values = self.session, against_labels(step.outputs, self.session)
        for metric in METRICS:
            d, b = distance(session.z, step.z, metric), mean_to_others(session.z, step.z, metric)
            values |= {f"relative_{metric}": relative(b, d), f"b_{metric}": b, f"d_{metric}": d}
        self._steps.append({name: value.float().numpy() for name, value in values.items()})
        if len(self._steps) == len(step.transformation.magnitudes):
            joined = {name: np.stack([values[name] for values in self._steps]) for name in MEASURES}
            self._sweeps.append(Sweep(step.transformation, step.fill, joined))
            self._steps = []

    def report(self) -> InvarianceReport:
        session = self.session
        name = type(getattr(session.model, "model", session.model)).__name__
        accuracy = (known := against_labels(session.outputs, session))["accuracy"].numpy()
        if session.images.labelled and np.isnan(accuracy).all() and not known["agreement"].isnan().all():
            largest, classes = session.images.targets.max(), session.outputs.shape[1]
            logger.warning("data: the largest label is %d, of %d classes: accuracy is not measured", largest, classes)
        return InvarianceReport(tuple(self._sweeps), session.images, session.layer, name, accuracy, session.seed)


def against_labels(outputs: Tensor, session: Session) -> dict[str, Tensor]:
    """``agreement``, ``accuracy`` and ``p_true``, ``(N,)`` each; NaN without labels, or, all three, without two classes."""
    targets, unknown = session.images.targets, torch.full((len(outputs),), torch.nan)
    values = {"agreement": unknown, "accuracy": unknown, "p_true": unknown}
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        values["agreement"] = (outputs.argmax(-1) == session.outputs.argmax(-1)).float()
        if targets is not None and int(targets.max()) < outputs.shape[1]:
            values["accuracy"] = (outputs.argmax(-1) == targets).float()
            values["p_true"] = probabilities(outputs, session.outputs).gather(1, targets[:, None])[:, 0]
    return values


@dataclass(frozen=True, repr=False)
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
