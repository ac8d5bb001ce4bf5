"""From the logits of several views to those of their average."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_number, check_one_of

AGGREGATIONS = ("mean_prob", "mean_logit", "geometric_mean", "power", "confident", "weighted", "probability")
COMPARABLE = AGGREGATIONS[:-1]  # "probability" is φ's own, which other arms have not
# Between the sides of a crop table's scales; the last bin is the whole image.
SCALE_EDGES = (0.3, 0.5, 0.7, 0.85, 0.98)


def check_aggregation(how: str, name: str = "aggregate", known: Sequence[str] = AGGREGATIONS) -> None:
    """Raise unless ``how`` is one of ``known``."""
    check_one_of(name, how, known)


def aggregate(
    logits: Tensor,
    how: str = "mean_prob",
    *,
    power: float = 0.5,
    log_weights: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Logits of the average; softmax of it is the prediction. Of one view they are its own, whatever they mean.

    Args:
        logits: ``(n, B, K)`` of n views.
        how: ``"mean_prob"``, the log of the mean probability; ``"mean_logit"``; ``"geometric_mean"`` of the
            probabilities, which after softmax is the same prediction as the mean logit; ``"power"``, the mean of p^γ
            (γ = ``power``: between the arithmetic mean at 1 and the geometric one as it goes to 0), taken to the power
            1/γ; ``"confident"``, probabilities weighted by exp(−entropy) of each view; ``"weighted"``, probabilities
            weighted by ``log_weights``; ``"probability"``, the same, the weights being φ's.
        power: γ > 0 of ``"power"``.
        log_weights: ``(n, B)`` or ``(n, 1)`` logarithms of weights, of any sum, for ``"weighted"``.
        temperature: by which logits are divided first, and the average multiplied last: what probabilities are averaged, at the
            scale of the logits.

    Returns:
        ``(B, K)``, float32.
    """
    check_aggregation(how)
    check_number("temperature", temperature, "(0, ∞)")
    if temperature != 1:
        return temperature * aggregate(logits.float() / temperature, how, power=power, log_weights=log_weights)
    # Finite: what is −∞ in one view and not in another would leave 0/0, and sums of the largest numbers overflow.
    logits = logits.float().clamp(-1e30, 1e30)
    if how == "mean_logit" or len(logits) == 1:
        return logits.mean(0)
    log_p = torch.log_softmax(logits, -1)
    if how == "geometric_mean":
        return log_p.mean(0)
    if how == "power":
        check_number("power", power, "(0, ∞)")
        return log_mean(power * log_p, 0) / power
    if how == "mean_prob":
        return log_mean(log_p, 0)
    if how == "confident":
        # Classes that are ruled out have probability 0, and 0 · −∞ is not a number.
        log_weights = -torch.special.entr(log_p.exp()).sum(-1)
    if log_weights is None:
        raise InstaAugError(f"log_weights: {how!r} needs them, (n, B) or (n, 1); got None")
    return log_mean(log_p, 0, log_weights.float().unsqueeze(-1))


def log_mean(log_p: Tensor, dim: int, log_weights: Tensor | None = None) -> Tensor:
    """Log of the mean of exp(``log_p``) along ``dim``; weighted, where ``log_weights``, of any sum, are given."""
    if log_weights is None:
        return torch.logsumexp(log_p, dim) - math.log(log_p.shape[dim])
    return torch.logsumexp(log_p + log_weights.log_softmax(dim), dim)


def scale_bins(params: AugmentParams) -> Tensor:
    """``(n, B)``: which bin of crop sides, 0 … 5, each view falls into; views without a crop are whole images."""
    if "w" not in params:
        field = next(iter(params.values()))
        return torch.full(params.batch_shape, len(SCALE_EDGES), device=field.device)
    return torch.bucketize((params.w * params.h).sqrt(), torch.tensor(SCALE_EDGES, device=params.w.device))
