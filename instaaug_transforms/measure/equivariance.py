"""Equivariance: do embeddings move together, do feature maps move with the image?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import InstaAugError
from ..utils.modes import permutation
from ..utils.report import Report, Row, Section
from ..utils.stats import mean_interval
from .distances import distance, mean_to_others, relative, unit
from .session import Session, Step
from .transformations import Transformation
from .warp import Outside, warp

DERANGEMENTS = 20


@dataclass(frozen=True, repr=False)
class EquivarianceReport(Report):
    """Rows of one kind of equivariance.

    Attributes:
        kind: what was measured, the heading of its section.
        layer: what was embedded.
        about: what the figures mean.
        values: a row per transformation, fill and magnitude.
    """

    kind: str
    layer: str
    about: str
    values: list[Row]

    def sections(self) -> list[Section]:
        """The mean over magnitudes, a line per transformation and fill."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows():
            groups.setdefault((row["transformation"], row["fill"]), []).append(row)
        keys = [key for key in self.values[0] if key not in ("transformation", "fill", "magnitude")]
        means = [
            {"transformation": name, "fill": fill} | {key: np.mean([row[key] for row in rows]) for key in keys}
            for (name, fill), rows in groups.items()
        ]
        text = f"Layer: {self.layer}. Means over magnitudes. {self.about}"
        figures = {key: (key, ".3f" if key in ("b", "d") else "+.3f", 1) for key in keys}
        return [Section(self.kind, text, means, {"transformation": "transformation", "outside": "fill"}, figures)]


class AlignmentCollector:
    """`alignment` of displacements, from the steps of one pass; ``shuffled`` is what any map that depends on t at all can have."""

    about = (
        "Mean cosine between the displacements of different images: 1, all embeddings move the same way; 0, each its own. "
        "Shuffled: displacements to another image's transformed embedding."
    )

    def __init__(self, session: Session) -> None:
        self.session, self._rows = session, []

    def take(self, step: Step) -> None:
        if step.at_identity:  # nothing moves
            return
        own, seed = alignment(step.z - self.session.z), self.session.seed
        order = permutation(len(own), seed)
        z, transformed = self.session.z[order], step.z[order]
        shifts = range(1, min(DERANGEMENTS, len(own) - 1) + 1)
        # Cyclic shifts of a random order: permutations that leave no image in its place.
        shuffled = float(torch.stack([alignment(transformed.roll(k, 0) - z).mean() for k in shifts]).mean())
        mean = mean_interval(own.numpy(), seed)
        figures = {"alignment": mean, "shuffled": shuffled, "above_shuffled": mean.estimate - shuffled}
        self._rows.append(step.about | figures)

    def report(self) -> EquivarianceReport:
        return EquivarianceReport("Displacement alignment", self.session.layer, self.about, self._rows)


def alignment(displacements: Tensor) -> Tensor:
    """``(N, D)`` displacements f(t(x)) − f(x) to ``(N,)``: the mean cosine of each with all others, in [−1, 1].

    A displacement of zero has no direction and counts as cosine 0.
    """
    v = unit(displacements.double())
    return ((v @ v.sum(0) - v.square().sum(-1)) / (len(v) - 1)).float()


def feature_maps(
    session: Session, transformations: Sequence[Transformation], fill: Outside, metric: str
) -> EquivarianceReport:
    """F(t(x)) against t(F(x)) for the maps F of the session's layer; see `Probe.equivariance`."""
    with torch.no_grad():
        example, _ = session.forward(next(session.batches())[:1])
    session.check_maps(example)
    shape, rows = example.shape[1:], []
    maps, around = session.z.unflatten(1, shape), "wrap" if fill == "wrap" else 0.0
    for step in session.steps(transformations, [fill]):
        matrix = step.transformation.matrix(step.magnitude, shape[2] / shape[1])
        inside = warp(torch.ones(1, 1, *shape[1:]), matrix, around) > 0.999
        if step.at_identity or not inside.any():
            continue
        layers = warp(maps, matrix, around), step.z.unflatten(1, shape), maps
        moved, observed, still = ((layer * inside).flatten(1) for layer in layers)
        d, b = distance(observed, moved, metric), mean_to_others(observed, moved, metric)
        unmoved = relative(mean_to_others(observed, still, metric), distance(observed, still, metric))
        figures = {"relative": mean_interval(relative(b, d).numpy(), session.seed)}
        figures |= {"b": float(b.mean()), "d": float(d.mean())}
        rows.append(step.about | figures | {"relative_unmoved": float(unmoved[unmoved.isfinite()].double().mean())})
    if not rows:
        given = f"{session.layer!r} gives maps of {shape[1]} × {shape[2]}, of which nothing stays inside"
        raise InstaAugError(f"layer: {given}; name an earlier layer, or give smaller magnitudes")
    about = (
        "Relative: (b − d)/b of F(t(x)) against t(F(x)); 1, the map moves as the image does. Relative unmoved: against F(x) "
        "left in its place."
    )
    return EquivarianceReport(f"Feature-map equivariance ({metric})", session.layer, about, rows)
