"""Invariance modules φ: an image to the raw outputs of every family."""

from .base import Predictor, create_predictor, load_predictor, register_predictor
from .conv import ConvPredictor
from .copies import CopyPredictor
from .equivariant import EquivariantPredictor
from .features import FeaturesPredictor
from .fixed import ClassPredictor, GlobalPredictor, SymmetricPredictor
from .patches import PatchPredictor

__all__ = [
    "ClassPredictor",
    "ConvPredictor",
    "CopyPredictor",
    "EquivariantPredictor",
    "FeaturesPredictor",
    "GlobalPredictor",
    "PatchPredictor",
    "Predictor",
    "SymmetricPredictor",
    "create_predictor",
    "load_predictor",
    "register_predictor",
]
