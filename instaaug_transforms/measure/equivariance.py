"""Equivariance: do embeddings move together, do feature maps move with the image?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

from ..utils.errors import InstaAugError
from .distances import distance, mean_to_others, relative, unit
from .embed import flat
from .images import NormalizationArgument, prepare
from .probe import Probe, Step, probing
from .stats import mean_interval
from .tables import Row, Table
from .transformations import Transformation, choose
from .warp import Fill, check_fill, fill_name, warp

DERANGEMENTS = 20


@dataclass(frozen=True)
class EquivarianceReport(Table):
    """Rows of one kind of equivariance.

    Attributes:
        kind: ``"alignment"`` or ``"feature map"``.
        layer: what was embedded.
        values: a row per transformation, fill and magnitude.
    """

    kind: str
    layer: str
    values: tuple[Row, ...]

    def rows(self) -> list[Row]:
        return [dict(row) for row in self.values]

    def summary(self) -> str:
        """The mean over magnitudes, a line per transformation and fill."""
        keys = list(dict.fromkeys((row["transformation"], row["fill"]) for row in self.values))
        numbers = [key for key, value in self.values[0].items() if isinstance(value, float) and key != "magnitude"]
        lines = []
        for key in keys:
            of_key = [row for row in self.values if (row["transformation"], row["fill"]) == key]
            lines.append([*key, *(f"{np.mean([row[number] for row in of_key]):+.3f}" for number in numbers)])
        table = tabulate(lines, ["transformation", "outside", *numbers], tablefmt="github", disable_numparse=True)
        return f"{self.kind} of {self.layer}; means over magnitudes.\n\n{table}"


def displacement_alignment(
    model: nn.Module,
    data: Any,
    max_images: int | None = None,
    *,
    transformations: Sequence[str | Transformation] | None = None,
    fills: Sequence[Fill] = (0.0,),
    layer: str | None = None,
    normalization: NormalizationArgument = None,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> EquivarianceReport:
    """Do embeddings of different images move the same way under t? Arguments as `measure_invariance`.

    Rows give, for every magnitude but the identity: ``alignment``, see `alignment`, with its interval over images;
    ``shuffled``, the same with displacements to *another* image's transformed embedding, which any map that depends on
    t at all can have; ``above_shuffled``, their difference (Bouchacourt et al., NeurIPS 2021, compare with
    shuffled displacements likewise).
    """
    images = prepare(data, max_images, normalization, seed, progress)
    chosen = choose(transformations, images.images.shape[1])
    with probing(model, images, layer, batch_size=batch_size, amp=amp, progress=progress) as probe:
        collector = AlignmentCollector(probe, seed)
        for step in probe.steps(chosen, fills):
            collector.take(step)
        return collector.report()


class AlignmentCollector:
    """Makes `displacement_alignment`'s report of the steps of one pass."""

    def __init__(self, probe: Probe, seed: int) -> None:
        self.probe, self.seed, self._rows = probe, seed, []

    def take(self, step: Step) -> None:
        """One magnitude; nothing moves at the identity."""
        if step.magnitude != step.transformation.identity:
            self._rows.append(alignment_row(self.probe, step, self.seed))

    def report(self) -> EquivarianceReport:
        """What was taken."""
        return EquivarianceReport("displacement alignment", self.probe.layer, tuple(self._rows))


def alignment_row(probe: Probe, step: Step, seed: int) -> Row:
    """One magnitude of `displacement_alignment`."""
    own = alignment(step.z - probe.z)
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
    z, transformed = probe.z[order], step.z[order]
    shifts = range(1, min(DERANGEMENTS, len(own) - 1) + 1)
    # Cyclic shifts of a random order: permutations that leave no image in its place.
    shuffled = torch.stack([alignment(transformed.roll(k, 0) - z).mean() for k in shifts]).mean()
    found = mean_interval(own.numpy(), seed)
    return {
        "transformation": step.transformation.name,
        "fill": step.fill,
        "magnitude": step.magnitude,
        "alignment": found.estimate,
        "low": found.low,
        "high": found.high,
        "shuffled": float(shuffled),
        "above_shuffled": found.estimate - float(shuffled),
    }


def alignment(displacements: Tensor) -> Tensor:
    """``(N, D)`` displacements to ``(N,)``: the mean cosine of each with all others, in [−1, 1].

    a_i = 1/(N − 1) · Σ_{j ≠ i} cos(v_i, v_j), v = f(t(x)) − f(x). A displacement of zero has no direction and counts
    as cosine 0.
    """
    v = unit(displacements.double())
    return ((v @ v.sum(0) - v.square().sum(-1)) / (len(v) - 1)).float()


def feature_map_equivariance(
    model: nn.Module,
    data: Any,
    layer: str,
    max_images: int | None = None,
    *,
    transformations: Sequence[str | Transformation] | None = None,
    fill: Fill = 0.0,
    metric: str = "l2",
    normalization: NormalizationArgument = None,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> EquivarianceReport:
    """Does a layer's map move as the image does? For geometric t, F(t(x)) against t(F(x)).

    Compared where t(F(x)) shows the inside of the map alone (everywhere for ``fill="wrap"``). Relative equivariance is
    (b − d)/b with d = dist(F(t x), t F(x)) and b the mean distance from F(t x) to t F(x') of other images: 1 is
    equivariant. ``relative_unmoved`` leaves F(x) where it is — what an invariant map would have — and tells
    equivariance from insensitivity. (After Lenc & Vedaldi, *Understanding image representations by measuring their
    equivariance and equivalence*, CVPR 2015, with t itself in place of a learned map.)

    Args:
        layer: a name of ``model.named_modules()`` whose output is ``(B, C, h, w)``.
        transformations: geometric ones; all of them where None.
        fill: one fill, for images; maps are continued by 0 outside, or wrap with the image.
        metric: ``"l2"`` or ``"cosine"``.

    Raises:
        InstaAugError: a transformation that moves nothing, or a layer that gives no maps.
    """
    images = prepare(data, max_images, normalization, seed, progress)
    chosen = choose(transformations, images.images.shape[1])
    if transformations is None:
        chosen = [t for t in chosen if t.kind == "geometry"]
    for t in chosen:
        if t.kind != "geometry":
            raise InstaAugError(f"transformations: {t.name!r} moves no pixels; feature maps need geometric ones")
    check_fill(fill)
    around = "wrap" if fill == "wrap" else 0.0
    rows: list[Row] = []
    with probing(model, images, layer, batch_size=batch_size, amp=amp, progress=progress) as probe:
        with torch.no_grad():
            example, _ = probe.forward(next(iter(probe.batches()))[:1])
        if example.ndim != 4:
            raise InstaAugError(
                f"layer: {layer!r} gives {tuple(example.shape)}, maps (B, C, h, w) are needed; name an earlier layer"
            )
        shape = example.shape[1:]
        unmoved = probe.z
        for step in probe.steps(chosen, [fill]):
            t, maps = step.transformation, unmoved.unflatten(1, shape)
            if step.magnitude == t.identity:
                continue
            moved = warp(maps, *t.matrix(step.magnitude), fill=around)
            inside = warp(torch.ones(1, 1, *shape[1:]), *t.matrix(step.magnitude), fill=around) > 0.999
            if not inside.any():
                continue
            target, found, still = (flat(m * inside) for m in (moved, step.z.unflatten(1, shape), maps))
            row = {
                "transformation": t.name,
                "fill": fill_name(fill) if t.uses_fill else "",
                "magnitude": step.magnitude,
            }
            rows.append(
                row | _against(found, target, metric, "", seed) | _against(found, still, metric, "_unmoved", seed)
            )
    return EquivarianceReport(f"feature-map equivariance ({metric})", layer, tuple(rows))


def _against(found: Tensor, target: Tensor, metric: str, suffix: str, seed: int) -> Row:
    d, b = distance(found, target, metric), mean_to_others(found, target, metric)
    share = mean_interval(relative(b, d).numpy(), seed)
    row = {f"relative{suffix}": share.estimate}
    if not suffix:
        row |= {"low": share.low, "high": share.high, "b": float(b.mean()), "d": float(d.mean())}
    return row
