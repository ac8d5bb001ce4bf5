"""A torchvision transform whose strength is learned per image (InstaAug, ICML 2023)."""

from typing import Any

from .augment import LearnedAugment
from .augment_distribution import AugmentDistribution
from .errors import InstaAugError
from .families import Family, register
from .inverse import invert_maps, invert_points
from .learning import EntropyController, FitConfig, FitResult, InstaAugObjective, build_loss_table, fit
from .params import AugmentParams
from .sample import AugmentSample
from .segmentation import SegmentationTTA
from .tta import TTAModel
from .weights import list_weights

__version__ = "0.1.0"

__all__ = [
    "AugmentDistribution",
    "AugmentParams",
    "AugmentSample",
    "EntropyController",
    "Family",
    "FitConfig",
    "FitResult",
    "InstaAugError",
    "InstaAugObjective",
    "LearnedAugment",
    "SegmentationTTA",
    "TTAModel",
    "build_loss_table",
    "fit",
    "invert_maps",
    "invert_points",
    "list_weights",
    "measure_invariance",
    "register",
]

_LAZY = ("evaluation", "kornia", "measure", "timm", "viz")  # they import timm, SciPy and matplotlib


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    if name == "measure_invariance":
        from .measure.invariance import measure_invariance

        return measure_invariance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
