"""Learned views of a frozen classifier against input-free ones, at equal numbers of views."""

from .compare import evaluate, tune, views_nll
from .report import ArmResult, Evaluation, paired_interval

__all__ = ["ArmResult", "Evaluation", "evaluate", "paired_interval", "tune", "views_nll"]
