"""Several measurements from the forwards of one pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from .equivariance import AlignmentCollector, EquivarianceReport
from .factors import FactorCollector, FactorReport, within_class_pairs
from .images import NormalizationArgument, prepare
from .invariance import Chosen, InvarianceReport, assemble
from .probe import probing
from .sweep import SweepCollector
from .transformations import choose
from .warp import Fill, check_fills, fill_name


class Survey(NamedTuple):
    """Reports on the same images; ``factors`` is None where no class has two of them."""

    invariance: InvarianceReport
    alignment: EquivarianceReport
    factors: FactorReport | None


def survey(
    model: nn.Module,
    data: Any,
    max_images: int | None = None,
    *,
    transformations: Chosen = None,
    fills: Sequence[Fill] = (0.0, "reflection"),
    metric: str = "cosine",
    layer: str | None = None,
    normalization: NormalizationArgument = None,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> Survey:
    """`measure_invariance`, `displacement_alignment` and `factors_of_variation` for the forwards of the first alone.

    Arguments are theirs. Alignment and factors are measured under the first fill.

    Example:
        >>> found = survey(model, dataset, max_images=500)
        >>> print(found.factors.summary(), found.factors.alignment(found.invariance))
    """
    fills = check_fills(fills)
    images = prepare(data, max_images, normalization, seed, progress)
    chosen = choose(transformations, images.images.shape[1])
    paired = images.labelled and int(images.targets.unique(return_counts=True)[1].max()) > 1
    with probing(model, images, layer, batch_size=batch_size, amp=amp, progress=progress) as probe:
        sweeps, alignment = SweepCollector(probe), AlignmentCollector(probe, seed)
        first_only = [alignment]
        if paired:
            factors = FactorCollector(probe, chosen, within_class_pairs(images, None, seed), metric, seed)
            first_only.append(factors)
        for step in probe.steps(chosen, fills):
            sweeps.take(step)
            if step.fill in ("", fill_name(fills[0])):
                for collector in first_only:
                    collector.take(step)
        invariance = assemble(sweeps, model, seed)
        return Survey(invariance, alignment.report(), factors.report() if paired else None)
