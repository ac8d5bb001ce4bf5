"""Learned weights of views by the size of their crop."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .aggregation import SCALE_EDGES, aggregate


def fit_scale_weights(logits: Tensor, bins: Tensor, targets: Tensor) -> Tensor:
    """Log-weight of every bin, ``(6,)``, with the lowest NLL of the weighted mean probability.

    Args:
        logits: ``(n, N, K)`` of the views of images that are not reported on.
        bins: ``(n, N)`` from `instaaug_transforms.tta.aggregation.scale_bins`.
        targets: ``(N,)``.
    """
    weights = torch.zeros(len(SCALE_EDGES) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        averaged = aggregate(logits, "weighted", log_weights=weights[bins])
        # A pull towards equal weights: a bin that no view falls into keeps weight 1.
        value = F.cross_entropy(averaged, targets) + 1e-3 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()
