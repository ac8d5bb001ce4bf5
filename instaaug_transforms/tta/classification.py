"""Test-time augmentation: a classifier that averages over learned views of each image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..augment import SELECTIONS, LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..utils.errors import InstaAugError
from .aggregation import AGGREGATIONS, SCALE_EDGES, aggregate, scale_bins


class TTAModel(nn.Module):
    """A drop-in classifier: images to logits, averaged over ``n_views`` learned views of each image.

    The defaults are the setting that won on held-out data (see `hub/README.md`). Views and outputs carry no gradient.

    Args:
        classifier: what takes the images that ``aug`` takes, and gives logits ``(B, classes)``.
        aug: the fitted transform.
        n_views: forwards per image, the image itself among them.
        select: ``"top"`` (no chance in it), ``"sample"`` or ``"stratified"``.
        aggregate: ``"mean_prob"``, the log of the mean probability; or another of `aggregation.aggregate`.
        power: γ of ``"power"``.
        scale_weights: six log-weights by size of crop (`aggregation.scale_bins`), for ``"weighted"``.
        include_identity: whether the image itself is one of the views, where there are two or more.
        range_fraction: use only the middle part of every continuous range, in (0, 1]. Views at the ends of a range
            are where the classifier is least sure; `instaaug_transforms.tta.tune` finds what helps on held-out data.
        chunk_size: views per forward at most (at least the views of one image).

    Values outside [0, 1] are clamped with a warning (timm's ``validate.py`` warms up with Gaussian noise).

    Raises:
        InstaAugError: an argument that is not one of these. When called: a classifier in training mode.
    """

    def __init__(
        self,
        classifier: nn.Module,
        aug: LearnedAugment,
        n_views: int = 10,
        *,
        select: str = "top",
        aggregate: str = "mean_prob",
        power: float = 0.5,
        scale_weights: Sequence[float] | None = None,
        include_identity: bool = True,
        range_fraction: float = 1.0,
        chunk_size: int = 256,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("select", select, SELECTIONS), ("aggregate", aggregate, AGGREGATIONS)):
            if value not in allowed:
                raise InstaAugError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        for name, value in (("n_views", n_views), ("chunk_size", chunk_size)):
            if not isinstance(value, int) or value < 1:
                raise InstaAugError(f"{name}: expected an integer ≥ 1, got {value!r}")
        if not 0 < range_fraction <= 1:
            raise InstaAugError(f"range_fraction: expected a number in (0, 1], got {range_fraction}")
        if (aggregate == "weighted") != (scale_weights is not None):
            raise InstaAugError(
                f"scale_weights: 'weighted' needs them and nothing else does; got {scale_weights} with {aggregate!r}"
            )
        if scale_weights is not None and len(scale_weights) != len(SCALE_EDGES) + 1:
            raise InstaAugError(f"scale_weights: expected {len(SCALE_EDGES) + 1} numbers, got {len(scale_weights)}")
        weights = None if scale_weights is None else torch.as_tensor(scale_weights, dtype=torch.float32)
        self.register_buffer("scale_weights", weights, persistent=False)
        self.power = power
        self.classifier, self.aug, self.range_fraction = classifier, aug, range_fraction
        self.n_views, self.select, self.aggregate = n_views, select, aggregate
        self.include_identity, self.chunk_size = include_identity, chunk_size
        self.num_classes = getattr(classifier, "num_classes", None)
        self.pretrained_cfg = getattr(classifier, "pretrained_cfg", {})

    @torch.no_grad()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images ``(B, C, H, W)``, as ``aug`` takes them, to ``(B, classes)``: softmax of it is the prediction.

        ``generator`` is the source of the randomness of ``sample`` and ``stratified``; the global one where None.
        """
        check_eval(self.classifier)
        per_forward = max(1, self.chunk_size // self.n_views)
        return torch.cat([self._chunk(part, generator) for part in images.split(per_forward)])

    def _chunk(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, back = self.aug._batch(images, strict=False)
        plain, distribution = self._look(images, batch)
        distribution = distribution.narrowed(self.range_fraction)
        params = choose_views(distribution, self.n_views, self.select, self.include_identity, generator)
        # The image itself, which comes first, may have been through the classifier already.
        known = plain is not None and self.include_identity and self.n_views > 1
        others = params.index(slice(1, None)) if known else params
        n = others.batch_shape[0]
        # Convolutions on a CPU are faster in this layout, whatever the weights' layout. No name is kept for the repeated
        # images, so that they are gone when the classifier needs the memory.
        layout = batch.contiguous(memory_format=torch.channels_last)
        views = back(self.aug.apply(torch.cat([layout] * n), others.flatten()))
        logits = self.classifier(views).unflatten(0, (n, len(batch)))
        if known:
            logits = torch.cat([plain[None].to(logits), logits])
        log_weights = None if self.scale_weights is None else self.scale_weights[scale_bins(params)]
        return aggregate(logits, self.aggregate, power=self.power, log_weights=log_weights)

    def _look(self, images: Tensor, batch: Tensor) -> tuple[Tensor | None, AugmentDistribution]:
        """p(τ | x), and the classifier's logits of the images themselves where φ came by them on the way."""
        predictor, size = self.aug.predictor, tuple(batch.shape[-2:])
        shared = (
            isinstance(predictor, FeaturesPredictor)
            and predictor.classifier is self.classifier
            and size == (predictor.image_size, predictor.image_size)
            and self.aug.output_size in (None, size)
            and self.aug.normalization is None  # what φ saw is what the classifier takes
            and images.is_floating_point()
        )
        if not shared:
            return None, self.aug._distribution(batch)
        tapped = predictor.tap(batch.contiguous(memory_format=torch.channels_last))
        return tapped.logits, AugmentDistribution(self.aug.families, predictor.read(*tapped))


def check_eval(classifier: nn.Module) -> None:
    """Raise where a layer of ``classifier`` would behave as in training: views would normalise, or drop, each other."""
    for name, module in classifier.named_modules():
        drops = max(float(getattr(module, rate, 0) or 0) for rate in ("p", "drop_prob")) > 0
        if module.training and (isinstance(module, _BatchNorm) or (drops and "Drop" in type(module).__name__)):
            raise InstaAugError(
                f"classifier: it is in training mode, where its {type(module).__name__} {name!r} makes an answer depend on "
                "the other views and on chance; call model.eval() first"
            )


def choose_views(
    distribution: AugmentDistribution,
    n: int,
    select: str = "top",
    include_identity: bool = True,
    generator: torch.Generator | None = None,
) -> AugmentParams:
    """``(n, B)`` views; with ``include_identity`` and n ≥ 2 the image itself comes first, and only once.

    For ``top`` they are nested: of n views, all but the first n − 1 others are those of n − 1 views.
    """
    chosen = LearnedAugment.select_params(distribution, n, select, generator)
    if not include_identity or n == 1:
        return chosen
    plain = distribution.identity().map(lambda field: field[None])
    both = AugmentParams(**{name: torch.cat([plain[name], chosen[name]]) for name in chosen})
    repeated = torch.stack([both[name] == plain[name] for name in both if name != "anchor"]).all(0)
    repeated[0] = False
    if select != "top":
        repeated[1:] = False  # leaving out what was sampled would change the distribution
    order = repeated.int().argsort(dim=0, stable=True)[:n]
    return both.map(lambda field: field.gather(0, order))
