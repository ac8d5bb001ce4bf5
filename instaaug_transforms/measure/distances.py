"""Distances between embeddings, and the mean distance to every other image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.errors import InstaAugError, check_one_of

METRICS = ("cosine", "l2")


def unit(z: Tensor) -> Tensor:
    """Rows of length 1 (a zero row stays zero)."""
    return F.normalize(z, dim=-1, eps=torch.finfo(z.dtype).tiny)


def distance(first: Tensor, second: Tensor, metric: str) -> Tensor:
    """Row by row: ``(…, D)`` and ``(…, D)`` to ``(…)``.

    ``"cosine"`` is 1 − cos, computed as ½‖û − v̂‖², which is exactly 0 for equal rows; ``"l2"`` is Euclidean.
    """
    check_one_of("metric", metric, METRICS)
    if metric == "l2":
        return (first - second).norm(dim=-1)
    return (unit(first) - unit(second)).square().sum(-1) / 2


def mean_to_others(z: Tensor, transformed: Tensor, metric: str, chunk: int = 1024) -> Tensor:
    """b: from each z the mean distance to the transformed embeddings of all *other* images, ``(N, D)`` each to ``(N,)``.

    b_i = 1/(N − 1) · Σ_{j ≠ i} dist(z_i, z_t,j): every pair, of which a random permutation, Bouchacourt et al.'s baseline,
    would be one draw. L2 takes ``chunk`` rows at a time.
    """
    n = len(z)
    if n < 2:
        raise InstaAugError(f"data: the distance to other images needs at least 2 images, got {n}")
    if metric == "l2":
        # Far from 0, products of matrices, by which `cdist` goes, lose what differences are made of.
        middle = transformed.mean(0)
        rows = [torch.cdist(part - middle, transformed - middle).sum(1) for part in z.split(chunk)]
        return (torch.cat(rows) - distance(z, transformed, "l2")) / (n - 1)
    # Sums of dot products are the product with the sum: all pairs at once. float64, as N terms nearly cancel.
    z, transformed = unit(z).double(), unit(transformed).double()
    dots = z @ transformed.sum(0) - (z * transformed).sum(-1)
    squares = transformed.square().sum(-1)
    others = (squares.sum() - squares) / (n - 1)
    return ((z.square().sum(-1) + others) / 2 - dots / (n - 1)).clamp(min=0).float()


def relative(baseline: Tensor, moved: Tensor) -> Tensor:
    """(b − d) / b: 1 if the transformation moves nothing, 0 if it moves an image as far as to another image, below 0
    farther than that; NaN if b is 0 (embeddings that are all the same have no scale)."""
    return torch.where(baseline > 0, (baseline - moved) / baseline, torch.nan)
