"""What a model is invariant to, how far, for which images — and whether the learned ranges agree.

Measurements follow Bouchacourt, Ibrahim & Morcos, *Grounding Inductive Biases in Natural Images* (NeurIPS 2021), from
its text; every function takes a model, any data that `measure_invariance` takes, and gives a report with ``rows()``,
``summary()``, ``to_csv()`` and ``to_pandas()``.
"""

from .agreement import LearnedReport, kept_interval, learned_against_measured
from .comparison import Comparison, compare
from .crops import CropStatistics, GainRecovered, RandomResizedCropPart, crop_statistics, gain_recovered
from .equivariance import EquivarianceReport, displacement_alignment, feature_map_equivariance
from .factors import FactorReport, factors_of_variation, within_class_pairs
from .invariance import InvarianceReport, measure_invariance
from .lie import LieReport, lie_derivative
from .page import write_page
from .survey import Survey, survey
from .sweep import MEASURES, Sweep
from .transformations import STANDARD, Transformation
from .warp import FILLS, warp

__all__ = [
    "FILLS",
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
    "RandomResizedCropPart",
    "Survey",
    "Sweep",
    "Transformation",
    "compare",
    "crop_statistics",
    "displacement_alignment",
    "factors_of_variation",
    "feature_map_equivariance",
    "gain_recovered",
    "kept_interval",
    "learned_against_measured",
    "lie_derivative",
    "measure_invariance",
    "survey",
    "warp",
    "within_class_pairs",
    "write_page",
]
