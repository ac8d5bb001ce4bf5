"""Per-view losses of contrastive learning, credited to both views of a pair."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InstaAugError


def contrastive_losses(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent (Chen et al., SimCLR, ICML 2020, eq. 1) of two views per image, as a loss per view.

    The crop of either view decides both directional losses, ℓ(first → second) and ℓ(second → first): each view is
    credited with their mean. Credited with its own direction alone, the score-function gradient is biased. Their sum is
    what `InstaAugObjective` wants as ``credit=2 * losses``.

    Args:
        first, second: ``(B, D)`` embeddings of the two views of each image, B ≥ 2.
        temperature: of the softmax.

    Returns:
        ``(2·B,)``, view-major: entries b and B + b are equal.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise InstaAugError(
            f"first, second: expected two (B, D) batches with B ≥ 2, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    n = len(first)
    z = F.normalize(torch.cat([first, second]).float(), dim=-1)
    similarity = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), float("-inf"))
    partner = torch.arange(2 * n, device=z.device).roll(n)
    directional = F.cross_entropy(similarity, partner, reduction="none")  # (2·B,)
    return (directional + directional[partner]) / 2
