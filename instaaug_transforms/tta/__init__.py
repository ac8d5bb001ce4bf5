"""Test time: models that average learned views, and what such views are compared with."""

from typing import Any

from ..utils.stats import mean_interval as paired_interval
from .classification import TTAModel
from .inverse import invert_maps, invert_points
from .segmentation import SegmentationTTA
from .views import choose_views

__all__ = [
    "ArmResult",
    "Evaluation",
    "SegmentationTTA",
    "TTAModel",
    "choose_views",
    "evaluate",
    "invert_maps",
    "invert_points",
    "paired_interval",
    "tune",
    "views_nll",
]

_LAZY = {  # they import SciPy
    "ArmResult": "report",
    "Evaluation": "report",
    "evaluate": "compare",
    "tune": "compare",
    "views_nll": "compare",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
