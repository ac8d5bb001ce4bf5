"""Pixels: concrete parameters to transformed images, masks, boxes and points. No learning, no randomness."""

from .compose import Fill, Transformation, apply, colours, geometry_matrix, resample

__all__ = ["Fill", "Transformation", "apply", "colours", "geometry_matrix", "resample"]
