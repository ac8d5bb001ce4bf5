"""Temperature and calibration of predicted probabilities."""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import binned_statistic
from torch import Tensor
from torch.nn import functional as F

BINS = 15
# Of log temperature: where it is sought, and where next if it lies at the upper end of that.
USUAL, BEYOND = (-2.0, 2.0), (2.0, 14.0)


def best_temperature(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> float:
    """The temperature, e⁻² or more, by which ``(N, K)`` logits are divided for the lowest NLL (Guo et al. 2017), ``(N,)`` weighted.

    Of a classifier that is sure of wrong answers it is as high as it takes: capped, its NLL would be above that of guessing,
    and any average of views that is less sure would seem better. Where all of some images are right, no temperature would be low
    enough for them, and ruinous for others.
    """
    logits = logits.double()
    weights = 1.0 if weights is None else weights.double()
    targets = targets.double() if targets.is_floating_point() else targets

    def nll(log_t: float) -> float:
        return (weights * F.cross_entropy(logits / math.exp(log_t), targets, reduction="none")).mean().item()

    log_t = float(minimize_scalar(nll, bounds=USUAL, method="bounded").x)
    if USUAL[1] - log_t < 0.01:
        log_t = float(minimize_scalar(nll, bounds=BEYOND, method="bounded").x)
    return math.exp(log_t)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error in [0, 1], fifteen equal bins of confidence (Guo et al. 2017, equation 3).

    Args:
        confidence: ``(N,)``, the probability of the predicted class.
        correct: ``(N,)``, whether it is the true one.
    """
    gap = correct.astype(float) - confidence.astype(float)
    sums = binned_statistic(confidence, gap, "sum", bins=BINS, range=(0, 1)).statistic
    return float(np.abs(sums).sum() / len(gap))
