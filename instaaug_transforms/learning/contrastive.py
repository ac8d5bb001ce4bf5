"""Per-view losses of contrastive learning, and what each view has a part in."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InstaAugError
from ..utils.modes import without_autocast


def contrastive_losses(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent (Chen et al., SimCLR, ICML 2020, eq. 1) of two views per image, as a loss per view.

    Each view has the mean of both directional losses of its pair, ℓ(first → second) and ℓ(second → first). The model
    learns from them; `contrastive_credit` is what the views' augmentation learns from.

    Args:
        first, second: ``(B, D)`` embeddings of the two views of each image, B ≥ 2.
        temperature: of the softmax.

    Returns:
        ``(2·B,)``, view-major: entries b and B + b are equal.
    """
    similarity, partner = _similarity(first, second, temperature)
    directional = F.cross_entropy(similarity, partner, reduction="none")  # (2·B,)
    return (directional + directional[partner]) / 2


@torch.no_grad()
def contrastive_credit(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """What each view adds to all losses of the batch: ``credit`` of `InstaAugObjective`, exact for the score function.

    A view decides both directional losses of its pair, and it is a negative in those of every other pair. A loss ℓ_i in
    which view v is a negative is −log(1 − P_iv) above what it would be without v, P_iv being v's share of ℓ_i's
    denominator; the rest does not depend on v and drops out of the expected gradient.

    Args:
        first, second, temperature: as `contrastive_losses`.

    Returns:
        ``(2·B,)``, view-major, detached.
    """
    similarity, partner = _similarity(first, second, temperature)
    log_p = similarity.log_softmax(1)  # (2·B, 2·B): row i is ℓ_i's denominator
    directional = -log_p.gather(1, partner[:, None])[:, 0]
    own = torch.arange(len(partner), device=partner.device)
    as_negative = -torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
    as_negative[own, own] = as_negative[own, partner] = 0.0
    return directional + directional[partner] + as_negative.sum(0)


def _similarity(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``(2·B, 2·B)`` cosine similarities over the temperature, −∞ with oneself; and each view's partner."""
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise InstaAugError(
            f"first, second: expected two (B, D) batches with B ≥ 2, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    n = len(first)
    with without_autocast(first.device):  # a credit sums the rounding of 2·B similarities
        z = F.normalize(torch.cat([first, second]).float(), dim=-1)
        similarity = z @ z.T / temperature
    diagonal = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    return similarity.masked_fill(diagonal, float("-inf")), torch.arange(2 * n, device=z.device).roll(n)
