"""What a model is invariant to, how far, and for which images."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..utils.errors import InstaAugError
from ..utils.stats import Interval, mean_interval
from . import plots
from .distances import METRICS
from .images import MeasuredImages
from .report import Report, Row, Section, flatten
from .session import Session, Step
from .sweep import MEASURES, Sweep, against_labels, measure_step


@dataclass(frozen=True)
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

    def sweep(self, transformation: str, fill: str | None = None) -> Sweep:
        """The sweep of a transformation; of several fills, the first unless one is named.

        Raises:
            InstaAugError: there is none.
        """
        for sweep in self.sweeps:
            if sweep.transformation.name == transformation and fill in (None, sweep.fill):
                return sweep
        known = ", ".join(f"{s.transformation.name!r} ({s.fill or 'no fill'})" for s in self.sweeps)
        raise InstaAugError(f"transformation: no sweep of {transformation!r} with fill {fill!r}; there are {known}")

    def records(self) -> list[Row]:
        """A row per transformation, fill and magnitude: the mean over images of every measure."""
        return [
            self._about(sweep)
            | {"magnitude": magnitude, "unit": sweep.transformation.unit, "n": len(self.images)}
            | {measure: float(sweep.values[measure][m].mean()) for measure in MEASURES}
            for sweep in self.sweeps
            for m, magnitude in enumerate(sweep.magnitudes)
        ]

    def per_class(self) -> list[Row]:
        """A row per transformation, fill and class: means over its images and all magnitudes but the identity."""
        labels = self.images.targets.cpu().numpy()
        members = {label: labels == label for label in np.unique(labels).tolist() if self.images.labelled}
        return self._means(
            ({"class": self.images.class_name(label), "n": int(which.sum())}, which) for label, which in members.items()
        )

    def per_image(self) -> list[Row]:
        """A row per transformation, fill and image: means over all magnitudes but the identity."""
        images = self.images
        labels = [images.class_name(target) if images.labelled else "" for target in images.targets.tolist()]
        index = images.index.tolist()
        return self._means(({"image": index[i], "class": label}, i) for i, label in enumerate(labels))

    def _means(self, groups: Iterable[tuple[Row, Any]]) -> list[Row]:
        """A row per sweep and group, which is what to call it and an index of its images."""
        rows, groups = [], list(groups)
        for sweep in self.sweeps:
            values = {measure: sweep.per_image(measure) for measure in MEASURES}
            for about, which in groups:
                rows.append(self._about(sweep) | about | {name: float(v[which].mean()) for name, v in values.items()})
        return rows

    def interval(self, sweep: Sweep, measure: str) -> Interval:
        """The mean of a measure over images and all magnitudes but the identity, 95 % interval over images."""
        if measure not in MEASURES:
            raise InstaAugError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}")
        return mean_interval(sweep.per_image(measure), self.seed)

    @property
    def noise(self) -> float:
        """The largest L2 distance between two forwards of the same image: 0 for a deterministic model."""
        return max(float(sweep.values["d_l2"][sweep.identity].max()) for sweep in self.sweeps)

    @cached_property
    def _by_sweep(self) -> list[Row]:
        """For every sweep, the interval of every measure."""
        return [
            self._about(sweep)
            | {"range": f"{sweep.magnitudes[0]:g} … {sweep.magnitudes[-1]:g}"}
            | {measure: self.interval(sweep, measure) for measure in MEASURES}
            for sweep in self.sweeps
        ]

    def summary_rows(self) -> list[Row]:
        """A row per sweep: mean over images and magnitudes without the identity, and intervals over images."""
        return [flatten(record) for record in self._by_sweep]

    def sections(self) -> list[Section]:
        """Relative invariance and answers; raw distances; classes."""
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
            Section("Invariance", text, self._by_sweep, labels, answers, self.draw, curves),
            Section("Raw distances", raw_text, self._by_sweep, labels, raw, lambda: plots.raw_distances(self), means),
            Section("Classes", draw=lambda: plots.per_class(self), caption=by_class),
        ]
        return sections if self.images.labelled else sections[:2]

    def draw(self) -> Any:
        """Curves over magnitude, a panel per transformation."""
        return plots.invariance(self)

    @staticmethod
    def _about(sweep: Sweep) -> Row:
        t = sweep.transformation
        return {"transformation": t.name, "kind": t.kind, "fill": sweep.fill}


class InvarianceCollector:
    """An `InvarianceReport` from the steps of one pass, in the order of `Session.steps`."""

    def __init__(self, session: Session) -> None:
        self.session, self._sweeps, self._measured = session, [], []

    def take(self, step: Step) -> None:
        """One magnitude."""
        self._measured.append(measure_step(self.session, step))
        if len(self._measured) == len(step.transformation.magnitudes):
            values = {name: np.stack([values[name] for values in self._measured]) for name in MEASURES}
            self._sweeps.append(Sweep(step.transformation, step.fill, values))
            self._measured = []

    def report(self) -> InvarianceReport:
        """The pass was taken to its end."""
        session = self.session
        name = type(getattr(session.model, "model", session.model)).__name__
        accuracy = against_labels(session.outputs, session)["accuracy"].numpy()
        return InvarianceReport(tuple(self._sweeps), session.images, session.layer, name, accuracy, session.seed)
