"""Pixels: concrete parameters to transformed images, masks, boxes and points. No learning, no randomness."""

from .backends import BACKENDS
from .compose import Transformation, apply, colours, complete, geometry_matrix
from .resample import resample, resample_labels
from .warp import Fill

__all__ = [
    "BACKENDS",
    "Fill",
    "Transformation",
    "apply",
    "colours",
    "complete",
    "geometry_matrix",
    "resample",
    "resample_labels",
]
