"""One transformation's sweep: every measure for every magnitude and image."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .distances import METRICS, distance, mean_to_others, relative
from .probe import Probe, Step
from .transformations import Transformation

DISTANCES = ("relative", "b", "d")
PREDICTIONS = ("agreement", "accuracy", "p_true")
MEASURES = tuple(f"{kind}_{metric}" for metric in METRICS for kind in DISTANCES) + PREDICTIONS
"""``relative_cosine``, ``b_cosine``, ``d_cosine``, the same for ``l2``, ``agreement``, ``accuracy``, ``p_true``."""


@dataclass(frozen=True)
class Sweep:
    """One transformation under one fill.

    Attributes:
        transformation: what was swept.
        fill: what lay outside; "" where nothing outside is seen.
        values: measure to ``(M, N)`` float32, M magnitudes, N images. ``agreement``, ``accuracy``: 0 or 1. Without
            labels ``accuracy`` and ``p_true`` are NaN; where the model's outputs are no logits, they mean nothing.
    """

    transformation: Transformation
    fill: str
    values: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """Transformation and fill, e.g. ``"rotate"`` or ``"rotate, reflection"``."""
        return self.transformation.name + (f", {self.fill}" if self.fill not in ("", "black") else "")

    @property
    def magnitudes(self) -> tuple[float, ...]:
        """``(M,)``."""
        return self.transformation.magnitudes

    @property
    def identity(self) -> int:
        """Row of the identity."""
        return self.magnitudes.index(self.transformation.identity)

    def per_image(self, measure: str) -> np.ndarray:
        """``(N,)``: the mean over all magnitudes but the identity."""
        return np.delete(self.values[measure], self.identity, axis=0).mean(0)


def measured(probe: Probe, step: Step) -> dict[str, np.ndarray]:
    """Every measure of one step, ``(N,)`` each.

    With z = f(x), z_t = f(t(x)): d = dist(z, z_t); b, the mean distance from z to the transformed embeddings of other
    images; relative invariance (b − d) / b (Bouchacourt et al., NeurIPS 2021), per image.
    """
    values: dict[str, Tensor] = {}
    for metric in METRICS:
        d = distance(probe.z, step.z, metric)
        b = mean_to_others(probe.z, step.z, metric)
        values |= {f"relative_{metric}": relative(b, d), f"b_{metric}": b, f"d_{metric}": d}
    answer = step.outputs.argmax(-1)
    values["agreement"] = answer == probe.outputs.argmax(-1)
    values |= truths(step.outputs, probe)
    return {name: values[name].float().numpy() for name in MEASURES}


def truths(outputs: Tensor, probe: Probe) -> dict[str, Tensor]:
    """``accuracy`` and ``p_true`` of ``(N, classes)`` outputs, ``(N,)`` each; NaN where there are no such labels."""
    targets = probe.images.targets.cpu()
    if not probe.images.labelled or outputs.ndim != 2 or int(targets.max()) >= outputs.shape[-1]:
        unknown = torch.full((len(outputs),), torch.nan)
        return {"accuracy": unknown, "p_true": unknown}
    p = outputs.softmax(-1).gather(1, targets[:, None])[:, 0]
    return {"accuracy": (outputs.argmax(-1) == targets).float(), "p_true": p}


class SweepCollector:
    """Makes sweeps of the steps of one pass, in the order of `Probe.steps`."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.sweeps = probe, []
        self._rows: list[dict[str, np.ndarray]] = []

    def take(self, step: Step) -> None:
        """One magnitude."""
        self._rows.append(measured(self.probe, step))
        if len(self._rows) == len(step.transformation.magnitudes):
            values = {name: np.stack([row[name] for row in self._rows]) for name in MEASURES}
            self.sweeps.append(Sweep(step.transformation, step.fill, values))
            self._rows = []
