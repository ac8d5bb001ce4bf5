"""Distances between embeddings, and the mean distance to every other image."""

import torch
from torch import Tensor

from ..utils.errors import InstaAugError

METRICS = ("cosine", "l2")


def check_metric(metric: str) -> str:
    """One of `METRICS`."""
    if metric not in METRICS:
        raise InstaAugError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    return metric


def unit(z: Tensor) -> Tensor:
    """Rows of length 1 (a zero row stays zero)."""
    return z / z.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)


def distance(first: Tensor, second: Tensor, metric: str) -> Tensor:
    """Row by row: ``(…, D)`` and ``(…, D)`` to ``(…)``.

    ``"cosine"`` is 1 − cos, computed as ½‖û − v̂‖², which is exactly 0 for equal rows; ``"l2"`` is Euclidean.
    """
    if check_metric(metric) == "l2":
        return (first - second).norm(dim=-1)
    return (unit(first) - unit(second)).square().sum(-1) / 2


def mean_to_others(z: Tensor, transformed: Tensor, metric: str, chunk: int = 1024) -> Tensor:
    """b: from each z the mean distance to the transformed embeddings of all *other* images.

    b_i = 1/(N − 1) · Σ_{j ≠ i} dist(z_i, z_t,j): every pair, where a random permutation would be one draw of it
    (Bouchacourt et al., *Grounding Inductive Biases in Natural Images*, NeurIPS 2021: their baseline).

    Args:
        z, transformed: ``(N, D)``, N ≥ 2; row i of both is image i.
        metric: see `distance`.
        chunk: rows of ``z`` at a time.

    Returns:
        ``(N,)``.
    """
    n = len(z)
    if n < 2:
        raise InstaAugError(f"data: the distance to other images needs at least 2 images, got {n}")
    if check_metric(metric) == "cosine":
        z, transformed = unit(z), unit(transformed)
        # Sums of dot products are the product with the sum: all pairs at once. float64, as N terms nearly cancel.
        z, transformed = z.double(), transformed.double()
        dots = z @ transformed.sum(0) - (z * transformed).sum(-1)
        squares = transformed.square().sum(-1)
        others = (squares.sum() - squares) / (n - 1)
        return ((z.square().sum(-1) + others) / 2 - dots / (n - 1)).clamp(min=0).float()
    rows = [torch.cdist(part, transformed).sum(1) for part in z.split(chunk)]
    return (torch.cat(rows) - distance(z, transformed, "l2")) / (n - 1)


def relative(baseline: Tensor, moved: Tensor) -> Tensor:
    """(b − d) / b: 1 where the transformation moves nothing, 0 where it moves an image as far as to another image,
    below 0 farther than that; NaN where b is 0 (embeddings that are all the same have no scale)."""
    return torch.where(baseline > 0, (baseline - moved) / baseline, torch.nan)
