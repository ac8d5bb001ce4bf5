"""Images by the thousand: where they come from, what is done to them, and their way through a frozen model."""

from .data import Images, LabelledImages, load
from .nuisance import Nuisance
from .rows import Rows, compute_rows
from .splits import hold_out

__all__ = ["Images", "LabelledImages", "Nuisance", "Rows", "compute_rows", "hold_out", "load"]
