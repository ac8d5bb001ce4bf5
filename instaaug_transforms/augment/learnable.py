"""Whether something is a `LearnedAugment`, and whether what it or its `sample` is asked for makes sense."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..augment_distribution import AugmentSample
from ..functional.inputs import is_image
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from .checkpoint import Checkpointed


def check_aug(aug: Any) -> Any:
    """A `LearnedAugment` as it is, without `torch.compile` around it, whose modules have an ``apply`` of their own.

    Raises:
        InstaAugError: something else: what it stands in, say, or a classifier.
    """
    inside = getattr(aug, "_orig_mod", aug)
    if isinstance(inside, Checkpointed):
        return inside
    fix = "fit and recommend take (aug, classifier), TTAModel and evaluate (classifier, aug)"
    if hasattr(aug, "transforms"):
        fix = "give the one inside it alone; other transforms belong to the images, before it"
    elif isinstance(getattr(aug, "module", None), Checkpointed):
        fix = "give the one that it wraps, aug.module"
    raise InstaAugError(f"aug: expected a LearnedAugment, got {type(aug).__name__}; {fix}")


def check_leaves(leaves: Sequence[Any]) -> None:
    """Raise where there is no image among what a transform is called with, or what it takes by name alone."""
    for leaf in leaves:
        name = "generator" if isinstance(leaf, torch.Generator) else "params"
        if isinstance(leaf, (AugmentParams, AugmentSample, torch.Generator)):  # would pass through, as labels do
            raise InstaAugError(
                f"inputs: got a {type(leaf).__name__} among them; give it by name, aug(images, {name}={name})"
            )
    if not any(is_image(leaf) for leaf in leaves):
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
        raise InstaAugError(f"inputs: expected an image to look at, got {kinds} alone; v2.ToImage() takes arrays")


def check_sample(aug: v2.Transform, images: Tensor, labels: Tensor | None, select: str) -> None:
    """Raise where views would teach φ nothing, or something else than they show."""
    if aug.p < 1 or aug.same_on_batch:
        raise InstaAugError(
            f"sample: needs p=1 and same_on_batch=False, got p={aug.p}, same_on_batch={aug.same_on_batch}; mix "
            "plain images into the batch yourself"
        )
    if select not in ("sample", "stratified"):
        raise InstaAugError(f"select: expected sample or stratified, got {select!r}")
    kind, learns = type(aug.predictor).__name__, torch.is_grad_enabled() and _needs_grad(aug)
    if labels is not None and not aug.predictor.reads_labels:
        raise InstaAugError(f"labels: only ClassPredictor reads them, this predictor is a {kind}; leave them out")
    if labels is None and aug.predictor.reads_labels and learns:
        raise InstaAugError(f"labels: a {kind} learns from them; aug.sample(images, labels=labels)")
    if not learns:
        return
    check_ranges(aug)
    ranges = ", ".join(family.name for family in aug.families if family.has_rsample)
    if ranges and not images.is_floating_point():
        raise InstaAugError(
            f"images: {ranges} learn through the views, and bytes carry no gradient; give floats in [0, 1]: images / 255, or "
            "v2.ToDtype(torch.float32, scale=True) before"
        )


def check_ranges(aug: v2.Transform) -> None:
    """Raise where ranges of geometry would have no gradient."""
    moving = ", ".join(f.name for f in aug.families if f.has_rsample and f.stage == "geometry")
    if moving and aug.interpolation == "nearest":
        raise InstaAugError(
            f"interpolation: through 'nearest' no gradient reaches {moving}; make the transform with 'bilinear', and set "
            "aug.interpolation = 'nearest' when it has learned"
        )


def _needs_grad(aug: v2.Transform) -> bool:
    return any(weight.requires_grad for weight in aug.predictor.parameters())
