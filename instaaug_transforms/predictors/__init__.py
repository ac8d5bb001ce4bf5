"""Invariance modules φ: an image to the raw outputs of every family."""

from .by_name import make_predictor, recipe
from .conv import ConvPredictor
from .features import FeaturesPredictor
from .fixed import GlobalPredictor

__all__ = ["ConvPredictor", "FeaturesPredictor", "GlobalPredictor", "make_predictor", "recipe"]
