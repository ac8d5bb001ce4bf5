"""What a model is invariant to, how far, for which images — and whether the learned ranges agree.

`Probe` takes a model, any data and the transformations, and has a method per measurement; every method gives a report
with ``rows()``, ``summary()``, ``to_csv()``, ``to_pandas()`` and a place on the page of `write_page`. Measurements follow
Bouchacourt, Ibrahim & Morcos, *Grounding Inductive Biases in Natural Images* (NeurIPS 2021), from its text.
"""

from .agreement import LearnedReport, kept_interval
from .crops import CropStatistics, GainRecovered, RandomResizedCropPart, crop_statistics, gain_recovered
from .equivariance import EquivarianceReport
from .factors import FactorReport, within_class_pairs
from .images import prepare
from .invariance import MEASURES, Comparison, InvarianceReport, Sweep, compare
from .lie import GENERATORS, LieReport
from .page import write_page
from .probe import Probe, Survey, measure_invariance
from .transformations import STANDARD, Transformation
from .warp import FILLS, warp

__all__ = [
    "FILLS",
    "GENERATORS",
    "MEASURES",
    "STANDARD",
    "Comparison",
    "CropStatistics",
    "EquivarianceReport",
    "FactorReport",
    "GainRecovered",
    "InvarianceReport",
    "LearnedReport",
    "LieReport",
    "Probe",
    "RandomResizedCropPart",
    "Survey",
    "Sweep",
    "Transformation",
    "compare",
    "crop_statistics",
    "gain_recovered",
    "kept_interval",
    "measure_invariance",
    "prepare",
    "warp",
    "within_class_pairs",
    "write_page",
]
