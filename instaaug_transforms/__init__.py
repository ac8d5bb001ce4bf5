"""A torchvision transform whose strength is learned per image (InstaAug, ICML 2023)."""

from typing import Any

from .augment import LearnedAugment
from .augment_distribution import AugmentDistribution, AugmentSample
from .families import AnchorFamily, Family, UniformFamily, register
from .learning import EntropyController, FitConfig, FitResult, InstaAugObjective, build_loss_table, fit
from .params import AugmentParams
from .predictors import ConvPredictor, EquivariantPredictor, FeaturesPredictor, Predictor, register_predictor
from .tta.classification import TTAModel
from .tta.inverse import invert_maps, invert_points
from .tta.segmentation import SegmentationTTA
from .utils.errors import InstaAugError
from .utils.weights import list_weights

__version__ = "0.1.0"

__all__ = [
    "AnchorFamily",
    "AugmentDistribution",
    "AugmentParams",
    "AugmentSample",
    "ConvPredictor",
    "EntropyController",
    "EquivariantPredictor",
    "Family",
    "FeaturesPredictor",
    "FitConfig",
    "FitResult",
    "InstaAugError",
    "InstaAugObjective",
    "LearnedAugment",
    "Predictor",
    "SegmentationTTA",
    "TTAModel",
    "UniformFamily",
    "build_loss_table",
    "fit",
    "invert_maps",
    "invert_points",
    "list_weights",
    "measure_invariance",
    "register",
    "register_predictor",
]

_LAZY = {  # they import timm, Kornia, SciPy and matplotlib
    "kornia": "integrations.kornia",
    "measure": "measure",
    "timm": "integrations.timm",
    "viz": "viz",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"{__name__}.{_LAZY[name]}")
    if name == "measure_invariance":
        from .measure.invariance import measure_invariance

        return measure_invariance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
