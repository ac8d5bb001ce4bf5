"""Gradient estimators of E_p[L] for families whose samples carry no gradient (crop anchors and the like).

Each gives a term per image, ``(B,)``, whose gradient in φ estimates ∇ Σ_a p_a·L_a without bias; its value is zero or
meaningless. Losses come detached: the classifier has learned from them already, in the same pass.
"""

import torch
from torch import Tensor

ESTIMATORS = ("rloo", "reinforce", "critic", "exact")


def reinforce(losses: Tensor, log_prob: Tensor, baseline: float | Tensor) -> Tensor:
    """Score function with a constant baseline (Williams 1992): mean over views of (L − b)·∇ log p.

    Args:
        losses: ``(n, B)``, detached.
        log_prob: ``(n, B)``, of what was sampled.
        baseline: any number that does not depend on these samples, e.g. an average of earlier losses.
    """
    return ((losses - baseline) * log_prob).mean(0)


def rloo(losses: Tensor, log_prob: Tensor, mean: Tensor | None = None, count: int | None = None) -> Tensor:
    """Score function with a leave-one-out baseline (Kool et al. 2019, eq. 8); the arguments are `leave_one_out`'s."""
    return ((losses - leave_one_out(losses, mean, count)) * log_prob).mean(0)


def leave_one_out(losses: Tensor, mean: Tensor | None = None, count: int | None = None) -> Tensor:
    """Each view's baseline, ``(n, B)``: the mean loss of the image's other views.

    With one view per image (n = 1) the others are those of the rest of the batch, and of a batch of one there are
    none (baseline 0).

    Args:
        losses: ``(n, B)``, detached; views drawn independently of each other.
        mean, count: mean loss and number of images over all processes, for n = 1; by default those of ``losses``.
    """
    n, batch = losses.shape
    if n > 1:
        return (losses.sum(0) - losses) / (n - 1)
    count = batch if count is None else count
    total = (losses.mean() if mean is None else mean) * count
    return (total - losses) / (count - 1) if count > 1 else torch.zeros_like(losses)


def critic(losses: Tensor, log_prob: Tensor, index: Tensor, log_p: Tensor, predicted: Tensor) -> Tensor:
    """All-action term Σ_a p_a·c_a plus the score function of the residual L − c_a.

    Unbiased whatever c predicts (it is a control variate whose expectation is added back exactly); without variance
    where c is right. The idea is that of Q-Prop (Gu et al. 2017), with a finite sum in place of its Taylor expansion.

    Args:
        losses: ``(n, B)``, detached.
        log_prob: ``(n, B)``, of the anchors drawn.
        index: ``(n, B)``, the anchors drawn.
        log_p: ``(B, A)``, of all anchors.
        predicted: ``(B, A)``, the critic's loss of every anchor; detached here.
    """
    predicted = predicted.detach()
    residual = losses - predicted.gather(1, index.T).T
    return (log_p.exp() * predicted).sum(-1) + (residual * log_prob).mean(0)


def exact(losses: Tensor, log_p: Tensor) -> Tensor:
    """Σ_a p_a·L_a itself, every anchor enumerated. Losses need not be detached: the model then learns from it too.

    Args:
        losses: ``(A, B)``.
        log_p: ``(B, A)``.
    """
    return (log_p.exp().T * losses).sum(0)


def only_gradient(value: Tensor) -> Tensor:
    """Zero, with the gradient of ``value``."""
    return value - value.detach()
