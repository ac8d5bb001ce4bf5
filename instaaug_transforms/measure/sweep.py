"""One transformation's sweep: every measure for every magnitude and image."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .distances import METRICS, distance, mean_to_others, relative
from .session import Session, Step
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
        fill: what lay outside; "" if nothing outside is seen.
        values: measure to ``(M, N)`` float32, M magnitudes, N images. ``agreement``, ``accuracy``: 0 or 1. Without
            labels ``accuracy`` and ``p_true`` are NaN; of outputs that are no logits they mean nothing.
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


def measure_step(session: Session, step: Step) -> dict[str, np.ndarray]:
    """Every measure of one step, ``(N,)`` each.

    With z = f(x), z_t = f(t(x)): d = dist(z, z_t); b, the mean distance from z to the transformed embeddings of other
    images; relative invariance (b − d) / b (Bouchacourt et al., NeurIPS 2021), per image.
    """
    values: dict[str, Tensor] = {}
    for metric in METRICS:
        d = distance(session.z, step.z, metric)
        b = mean_to_others(session.z, step.z, metric)
        values |= {f"relative_{metric}": relative(b, d), f"b_{metric}": b, f"d_{metric}": d}
    values["agreement"] = step.outputs.argmax(-1) == session.outputs.argmax(-1)
    values |= against_labels(step.outputs, session)
    return {name: values[name].float().numpy() for name in MEASURES}


def against_labels(outputs: Tensor, session: Session) -> dict[str, Tensor]:
    """``accuracy`` and ``p_true`` of ``(N, classes)`` outputs, ``(N,)`` each; NaN without labels for those outputs."""
    targets = session.images.targets.cpu()
    if not session.images.labelled or outputs.ndim != 2 or int(targets.max()) >= outputs.shape[-1]:
        unknown = torch.full((len(outputs),), torch.nan)
        return {"accuracy": unknown, "p_true": unknown}
    p = outputs.softmax(-1).gather(1, targets[:, None])[:, 0]
    return {"accuracy": (outputs.argmax(-1) == targets).float(), "p_true": p}
