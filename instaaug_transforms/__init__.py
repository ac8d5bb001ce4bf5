"""A torchvision transform whose strength is learned per image (InstaAug, ICML 2023).

A name is imported when it is first asked for (PEP 562), so that ``instaaug --version`` waits for no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import measure as measure
    from . import viz as viz
    from .augment import LearnedAugment
    from .augment.collate import collate
    from .augment_distribution import AugmentDistribution, AugmentSample
    from .families import AnchorFamily, Family, UniformFamily, register
    from .integrations import kornia as kornia
    from .integrations import timm as timm
    from .integrations.export import TopViews, export_onnx
    from .learning import (
        EntropyConfig,
        EntropyController,
        FitConfig,
        FitResult,
        InstaAugObjective,
        build_loss_table,
        fit,
        recommend,
    )
    from .measure import measure_invariance
    from .params import AugmentParams
    from .predictors import (
        ConvPredictor,
        EquivariantPredictor,
        FeaturesPredictor,
        PatchPredictor,
        Predictor,
        register_predictor,
    )
    from .tta import SegmentationTTA, TTAModel, invert_maps, invert_points
    from .utils.errors import InstaAugError
    from .utils.weights import list_weights

__version__ = "0.1.0"

__all__ = [
    "AnchorFamily",
    "AugmentDistribution",
    "AugmentParams",
    "AugmentSample",
    "ConvPredictor",
    "EntropyConfig",
    "EntropyController",
    "EquivariantPredictor",
    "Family",
    "FeaturesPredictor",
    "FitConfig",
    "FitResult",
    "InstaAugError",
    "InstaAugObjective",
    "LearnedAugment",
    "PatchPredictor",
    "Predictor",
    "SegmentationTTA",
    "TTAModel",
    "TopViews",
    "UniformFamily",
    "build_loss_table",
    "collate",
    "export_onnx",
    "fit",
    "invert_maps",
    "invert_points",
    "list_weights",
    "measure_invariance",
    "recommend",
    "register",
    "register_predictor",
]

# The same as above, by module.
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
