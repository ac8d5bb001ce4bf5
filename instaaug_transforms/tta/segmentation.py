"""Test-time augmentation for segmentation: a model that averages, pixel by pixel, over learned views."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..augment import LearnedAugment
from ..families import Family, identity_of
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from ..utils.outputs import check_maps, check_module
from .inverse import invert_maps
from .views import ViewModel, unchanged


class SegmentationTTA(ViewModel):
    """A drop-in segmentation model: the mean of class probabilities over learned views, each put back in its place.

    Every view is transformed and segmented, coarser logits are enlarged to its size, and its probabilities are resampled onto the
    canvas of the image; a pixel's answer is the mean over the views that show it, and no pixel of `fill`, or that is erased, counts. The image itself is always
    a view, so every pixel has an answer. Views have the size of the image: a quarter turn of one that is not square shows its middle. Views and outputs carry
    no gradient.

    Args:
        model: what takes the images that ``aug`` takes, and gives logits ``(B, classes, h, w)``, or a dictionary that holds them
            as ``"out"``, as torchvision's segmentation models do.
        aug: the fitted transform; without ``output_size``.
        n_views: forwards per image, the image itself among them.
        select: ``"top"`` (no chance in it), ``"sample"`` or ``"stratified"``.
        range_fraction: use only the middle part of every continuous range, in (0, 1].
        chunk_size: views per forward at most (at least the views of one image).
        policy: fields to ``n_views`` numbers, ``{"flip": [0, 1]}``: the same views for every image, φ not asked. One of them is
            the image itself.

    Raises:
        InstaAugError: an argument that is not one of these. When called: a model in training mode, or one that gives
            something else.
    """

    def __init__(
        self,
        model: nn.Module,
        aug: LearnedAugment,
        n_views: int = 4,
        *,
        select: str = "top",
        range_fraction: float = 1.0,
        chunk_size: int = 64,
        policy: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        check_module(model, "model")
        super().__init__(model, aug, n_views, select, True, range_fraction, chunk_size, policy)
        if aug.output_size is not None:
            raise InstaAugError(f"aug: views must be as large as the images, got output_size={aug.output_size}")
        if policy is not None and not bool(unchanged(self.families, self.policy).any()):
            raise InstaAugError(
                f"policy: one of its views must be the image itself, or pixels may be left without an answer; got {dict(policy)}; add "
                f"a view of { ({field: identity_of(self.families)[field] for field in policy}) }"
            )

    @torch.no_grad()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images ``(B, C, H, W)`` to log-probabilities ``(B, classes, H, W)``."""
        return self.chunks(images, lambda part: self._chunk(part, generator))

    def _chunk(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, back = self.aug.prepare(images, strict=False)
        params = self._params(batch, generator)
        views = back(self.make_views(batch, params))
        # Logits, not probabilities, are interpolated, as segmentation models do: an edge stays where the model sees it.
        logits = F.interpolate(self._ask(views).float(), batch.shape[-2:], mode="bilinear", align_corners=False)
        # What a view shows of the image: a pixel of `fill` says nothing, and would blend in at the image's border on the way back.
        how = {"mode": self.aug.interpolation, "colour": _shown, "backend": self.aug.backend}
        shown = functional.apply(torch.ones_like(logits[:, :1]), params.flatten(), self.families, **how)
        maps = torch.cat([logits.softmax(1) * shown, shown], 1).unflatten(0, (self.n_views, -1))
        found = invert_maps(self.aug, maps, params, tuple(batch.shape[-2:]), families=self.families)[0].sum(0)
        return (found[:, :-1] / found[:, -1:].clamp_min(1e-6)).clamp_min(1e-12).log()

    def _params(self, batch: Tensor, generator: torch.Generator | None) -> AugmentParams:
        if not self.asks:
            return self.policy_views(batch)
        distribution = self.aug.predict(batch)
        if self.n_views == 1:  # one view that cuts something off would leave pixels without an answer
            return distribution.identity().map(lambda field: field[None])
        return self.choose(distribution, generator)

    def _checked(self, outputs: Any) -> Tensor:
        return check_maps(outputs)


def _shown(images: Tensor, families: Sequence[Family], params: AugmentParams, backend: str) -> Tensor:
    """In place of colours, what these leave of each pixel."""
    for family in families:
        if family.stage == "colour" and family.fields[0] in params:
            images = family.shown(images, params)
    return images
