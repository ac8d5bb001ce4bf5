"""Test-time augmentation: a classifier that averages over learned views of each image."""

import torch
from torch import Tensor, nn

from .augment import SELECTIONS, LearnedAugment
from .augment_distribution import AugmentDistribution
from .errors import InstaAugError
from .params import AugmentParams

AGGREGATIONS = ("mean_prob", "mean_logit")


class TTAModel(nn.Module):
    """A drop-in classifier: images to logits, averaged over ``n_views`` learned views of each image.

    The defaults are the setting that won on held-out data (see `hub/README.md`). Views and outputs carry no gradient.

    Args:
        classifier: what takes the images that ``aug`` takes, and gives logits ``(B, classes)``.
        aug: the fitted transform.
        n_views: forwards per image, the image itself among them.
        select: ``"top"`` (no chance in it), ``"sample"`` or ``"stratified"``.
        aggregate: ``"mean_prob"``, the log of the mean probability; or ``"mean_logit"``.
        include_identity: whether the image itself is one of the views, where there are two or more.
        range_fraction: use only the middle part of every continuous range, in (0, 1]. Views at the ends of a range
            are where the classifier is least sure; `instaaug_transforms.evaluation.tune` finds what helps on held-out data.
        chunk_size: views per forward at most (at least the views of one image).

    Raises:
        InstaAugError: an argument that is not one of these.
    """

    def __init__(
        self,
        classifier: nn.Module,
        aug: LearnedAugment,
        n_views: int = 10,
        *,
        select: str = "top",
        aggregate: str = "mean_prob",
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
        per_forward = max(1, self.chunk_size // self.n_views)
        return torch.cat([self._chunk(part, generator) for part in images.split(per_forward)])

    def _chunk(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, back = self.aug._batch(images)
        distribution = self.aug._distribution(batch).narrowed(self.range_fraction)
        params = choose_views(distribution, self.n_views, self.select, self.include_identity, generator)
        # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
        many = batch.repeat(self.n_views, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        logits = self.classifier(back(self.aug.apply(many, params.flatten())))
        return aggregate(logits.unflatten(0, (self.n_views, len(batch))), self.aggregate)


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


def aggregate(logits: Tensor, how: str) -> Tensor:
    """``(n, B, classes)`` logits of the views to ``(B, classes)`` logits of their average."""
    logits = logits.float()
    if how == "mean_logit":
        return logits.mean(0)
    return torch.logsumexp(torch.log_softmax(logits, -1), dim=0) - torch.log(torch.tensor(float(len(logits))))
