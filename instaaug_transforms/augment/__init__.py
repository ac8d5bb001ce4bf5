"""`LearnedAugment`: a torchvision transform whose strength is learned per image."""

from ..augment_distribution import SELECTIONS
from .transform import INTERPOLATIONS, LearnedAugment

__all__ = ["INTERPOLATIONS", "SELECTIONS", "LearnedAugment"]
