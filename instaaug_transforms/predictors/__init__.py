"""Invariance modules φ: an image to the raw outputs of every family."""

from .conv import ConvPredictor
from .features import FeaturesPredictor, check_classifier

__all__ = ["ConvPredictor", "FeaturesPredictor", "check_classifier"]
