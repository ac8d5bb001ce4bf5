"""What a model is invariant to: the report and the function that makes it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate
from torch import nn

from ..utils.errors import InstaAugError
from . import plots
from .images import MeasuredImages, NormalizationArgument, prepare
from .probe import probing
from .stats import Interval, mean_interval
from .sweep import MEASURES, Sweep, SweepCollector, truths
from .tables import Row, Table
from .transformations import Transformation, choose
from .warp import Fill, check_fills

Chosen = Sequence[str | Transformation] | None


@dataclass(frozen=True)
class InvarianceReport(Table):
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
        """The sweep of a transformation, under the first fill measured where None.

        Raises:
            InstaAugError: there is none.
        """
        for sweep in self.sweeps:
            if sweep.transformation.name == transformation and fill in (None, sweep.fill):
                return sweep
        known = ", ".join(f"{s.transformation.name!r} ({s.fill or 'no fill'})" for s in self.sweeps)
        raise InstaAugError(f"transformation: no sweep of {transformation!r} with fill {fill!r}; there are {known}")

    def rows(self) -> list[Row]:
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
        targets = self.images.targets.cpu().numpy()
        rows = []
        for sweep in self.sweeps:
            values = {measure: sweep.per_image(measure) for measure in MEASURES}
            for label in np.unique(targets) if self.images.labelled else []:
                of_class = targets == label
                means = {measure: float(v[of_class].mean()) for measure, v in values.items()}
                about = {"class": self.images.class_name(int(label)), "n": int(of_class.sum())}
                rows.append(self._about(sweep) | about | means)
        return rows

    def per_image(self) -> list[Row]:
        """A row per transformation, fill and image: means over all magnitudes but the identity."""
        targets, index = self.images.targets.tolist(), self.images.index.tolist()
        rows = []
        for sweep in self.sweeps:
            values = {measure: sweep.per_image(measure) for measure in MEASURES}
            for i, target in enumerate(targets):
                label = self.images.class_name(target) if self.images.labelled else ""
                means = {measure: float(v[i]) for measure, v in values.items()}
                rows.append(self._about(sweep) | {"image": index[i], "class": label} | means)
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

    def summary_rows(self) -> list[Row]:
        """A row per sweep: mean over images and magnitudes without the identity, and intervals over images."""
        rows = []
        for sweep in self.sweeps:
            row = self._about(sweep) | {"range": f"{sweep.magnitudes[0]:g} … {sweep.magnitudes[-1]:g}"}
            for measure in MEASURES:
                found = self.interval(sweep, measure)
                row |= {measure: found.estimate, f"{measure}_low": found.low, f"{measure}_high": found.high}
            rows.append(row)
        return rows

    def summary(self) -> str:
        """A Markdown table: relative invariance, raw distances, agreement and accuracy per transformation."""
        lines = []
        for sweep in self.sweeps:
            cosine, l2, agree = (
                self.interval(sweep, measure) for measure in ("relative_cosine", "relative_l2", "agreement")
            )
            b, d, accuracy = (sweep.per_image(measure).mean() for measure in ("b_cosine", "d_cosine", "accuracy"))
            lines.append(
                [
                    sweep.transformation.name,
                    sweep.fill,
                    f"{sweep.magnitudes[0]:g} … {sweep.magnitudes[-1]:g}",
                    cosine.text("+.2f"),
                    l2.text("+.2f"),
                    f"{b:.3f}",
                    f"{d:.3f}",
                    agree.text(".1f", 100),
                    "" if np.isnan(accuracy) else f"{100 * accuracy:.1f}",
                ]
            )
        headers = ["transformation", "outside", "range", "invariance, cosine", "invariance, L2", "b cos", "d cos"]
        table = tabulate(lines, [*headers, "same answer %", "top-1 %"], tablefmt="github", disable_numparse=True)
        known = "" if np.isnan(self.accuracy).all() else f", top-1 {100 * self.accuracy.mean():.1f} % untransformed"
        return (
            f"{self.model}, {self.layer}, n = {len(self.images)} images{known}. Relative invariance (b − d)/b: 1 is "
            "invariant, 0 as far as another image.\nMeans over all magnitudes but the identity; 95 % intervals over "
            f"images.\n\n{table}"
        )

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Curves over magnitude, a panel per transformation; written to ``path`` (.png, .svg, .pdf) where given.

        Returns:
            The matplotlib figure.
        """
        return plots.finish(plots.invariance(self), path)

    @staticmethod
    def _about(sweep: Sweep) -> Row:
        t = sweep.transformation
        return {"transformation": t.name, "kind": t.kind, "fill": sweep.fill}


def measure_invariance(
    model: nn.Module,
    data: Any,
    max_images: int | None = None,
    *,
    transformations: Chosen = None,
    fills: Sequence[Fill] = (0.0, "reflection"),
    layer: str | None = None,
    normalization: NormalizationArgument = None,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> InvarianceReport:
    """Measure what a model is invariant to (Bouchacourt et al., *Grounding Inductive Biases in Natural Images*, 2021).

    Args:
        model: images to outputs; [0, 1] images unless ``normalization`` is given. Held frozen in eval mode.
        data: see `prepare`.
        max_images: at most this many, drawn at random.
        transformations: names of `STANDARD` or `Transformation` objects; all that fit the images where None.
        fills: what lies outside the image, each measured: a grey value, ``"mean"``, ``"border"``, ``"reflection"`` or
            ``"wrap"``.
        layer: what is embedded: None for the penultimate layer, or any name of ``model.named_modules()``.
        normalization: ``(mean, std)`` where data arrive normalised, and the model wants them so.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        seed: of the draw of images and of every interval.
        progress: show bars; None where the output is a terminal.

    Raises:
        InstaAugError: see `prepare`, `choose`, `check_fills`, `embedding`; or fewer than two images.

    Example:
        >>> report = measure_invariance(model, dataset, max_images=500)
        >>> print(report.summary())
    """
    fills = check_fills(fills)
    images = prepare(data, max_images, normalization, seed, progress)
    chosen = choose(transformations, images.images.shape[1])
    with probing(model, images, layer, batch_size=batch_size, amp=amp, progress=progress) as probe:
        collector = SweepCollector(probe)
        for step in probe.steps(chosen, fills):
            collector.take(step)
        return assemble(collector, model, seed)


def assemble(collector: SweepCollector, model: nn.Module, seed: int) -> InvarianceReport:
    """The report of a pass that was taken to its end."""
    probe = collector.probe
    name = type(getattr(model, "model", model)).__name__
    accuracy = truths(probe.outputs, probe)["accuracy"].numpy()
    return InvarianceReport(tuple(collector.sweeps), probe.images, probe.layer, name, accuracy, seed)
