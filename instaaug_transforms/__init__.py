"""A torchvision transform whose strength is learned per image (InstaAug, ICML 2023).

A name is imported when it is first asked for (PEP 562), so that ``instaaug --version`` waits for no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import measure as measure
    from . import viz as viz
    from .augment import LearnedAugment as LearnedAugment
    from .augment.collate import collate as collate
    from .augment_distribution import AugmentDistribution as AugmentDistribution
    from .augment_distribution import AugmentSample as AugmentSample
    from .families import AnchorFamily as AnchorFamily
    from .families import Family as Family
    from .families import UniformFamily as UniformFamily
    from .families import register as register
    from .integrations import kornia as kornia
    from .integrations import timm as timm
    from .integrations.export import TopViews as TopViews
    from .integrations.export import export_onnx as export_onnx
    from .learning import EntropyConfig as EntropyConfig
    from .learning import EntropyController as EntropyController
    from .learning import FitConfig as FitConfig
    from .learning import FitResult as FitResult
    from .learning import InstaAugObjective as InstaAugObjective
    from .learning import build_loss_table as build_loss_table
    from .learning import fit as fit
    from .learning import recommend as recommend
    from .measure import measure_invariance as measure_invariance
    from .params import AugmentParams as AugmentParams
    from .predictors import ConvPredictor as ConvPredictor
    from .predictors import EquivariantPredictor as EquivariantPredictor
    from .predictors import FeaturesPredictor as FeaturesPredictor
    from .predictors import PatchPredictor as PatchPredictor
    from .predictors import Predictor as Predictor
    from .predictors import register_predictor as register_predictor
    from .tta import SegmentationTTA as SegmentationTTA
    from .tta import TTAModel as TTAModel
    from .tta import invert_maps as invert_maps
    from .tta import invert_points as invert_points
    from .utils.errors import InstaAugError as InstaAugError
    from .utils.weights import list_weights as list_weights

__version__ = "0.1.0"

# The public names, by module: those of the imports above.
_NAMES = {
    "augment": ["LearnedAugment"],
    "augment.collate": ["collate"],
    "integrations.export": ["TopViews", "export_onnx"],
    "augment_distribution": ["AugmentDistribution", "AugmentSample"],
    "families": ["AnchorFamily", "Family", "UniformFamily", "register"],
    "learning": [
        "EntropyConfig",
        "EntropyController",
        "FitConfig",
        "FitResult",
        "InstaAugObjective",
        "build_loss_table",
        "fit",
        "recommend",
    ],
    "measure": ["measure_invariance"],
    "params": ["AugmentParams"],
    "predictors": [
        "ConvPredictor",
        "EquivariantPredictor",
        "FeaturesPredictor",
        "PatchPredictor",
        "Predictor",
        "register_predictor",
    ],
    "tta": ["SegmentationTTA", "TTAModel", "invert_maps", "invert_points"],
    "utils.errors": ["InstaAugError"],
    "utils.weights": ["list_weights"],
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULE_OF)

# ``ia.timm`` and so on: modules by the name under which they are reached from here.
_ROOMS = ("augment", "distributions", "engine", "families", "functional", "learning", "measure", "params", "predictors")
_MODULES = {name: name for name in (*_ROOMS, "tta", "utils", "viz")}
_MODULES |= {"kornia": "integrations.kornia", "timm": "integrations.timm"}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
