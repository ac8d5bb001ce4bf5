"""Temperature and calibration of predicted probabilities."""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import binned_statistic
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def best_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature in [e⁻², e²] by which ``(N, K)`` logits are divided for the lowest NLL (Guo et al. 2017)."""
    minimum = minimize_scalar(
        lambda log_t: F.cross_entropy(logits / math.exp(log_t), targets).item(), bounds=(-2, 2), method="bounded"
    )
    return math.exp(minimum.x)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error in [0, 1], fifteen equal bins of confidence (Guo et al. 2017, equation 3).

    Args:
        confidence: ``(N,)``, the probability of the predicted class.
        correct: ``(N,)``, whether it is the true one.
    """
    gap = correct.astype(float) - confidence.astype(float)
    sums = binned_statistic(confidence, gap, "sum", bins=BINS, range=(0, 1)).statistic
    return float(np.abs(sums).sum() / len(gap))
