"""The likeliest candidates of any table: what is made of an image, and how likely that is."""

from typing import Any

import torch
from torch import Tensor

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..families import CandidateProduct
from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_whole
from .style import accent, looked_at, new_figure, show_image, views_of


def ranked_candidates(aug: LearnedAugment, distribution: AugmentDistribution, k: int) -> tuple[AugmentParams, Tensor]:
    """``(k, N)`` parameters of the likeliest combinations of candidates, and their probabilities.

    Raises:
        InstaAugError: a transform without a table of candidates.
    """
    if not aug.anchor_families:
        names = ", ".join(family.name for family in aug.families)
        raise InstaAugError(f"viz: this picture shows candidates, and the transform's families are ranges: {names}")
    check_whole("k", k)
    product = CandidateProduct(aug.anchor_families, max_columns=10**9)
    top = product.log_p(distribution.parts).exp().topk(min(k, product.n_candidates), 1)
    fields = dict(distribution.mode.items()) | product.take(top.indices.T)
    shape = top.values.T.shape
    return AugmentParams(**{name: field.expand(shape) for name, field in fields.items()}), top.values.T


@torch.no_grad()
def likeliest_candidates(aug: LearnedAugment, images: Tensor, k: int = 4) -> Any:
    """A row per image ``(N, C, H, W)``: the image, framed in red, then its likeliest candidates with their probabilities."""
    images, distribution = looked_at(aug, images)
    params, probs = ranked_candidates(aug, distribution, k)
    views = views_of(aug, images, params)
    height, width = images.shape[-2:]
    figure = new_figure(1.3 * (len(probs) + 1), (1.3 * height / width + 0.22) * len(images))
    grid = figure.subplots(len(images), len(probs) + 1, squeeze=False)
    for i, image in enumerate(images):
        show_image(grid[i, 0], image, "image", accent())
        for axes, view, p in zip(grid[i, 1:], views[:, i], probs[:, i].tolist(), strict=True):
            show_image(axes, view, f"{100 * p:.0f} %")
    return figure
