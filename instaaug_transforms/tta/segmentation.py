"""Test-time augmentation for segmentation: a model that averages, pixel by pixel, over learned views."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..augment import LearnedAugment
from ..utils.errors import InstaAugError
from ..utils.outputs import check_maps, check_module
from .inverse import invert_maps
from .views import ViewModel


class SegmentationTTA(ViewModel):
    """A drop-in segmentation model: the mean of class probabilities over learned views, each put back in its place.

    Every view is transformed and segmented, coarser logits are enlarged to its size, and its probabilities are resampled onto the
    canvas of the image; a pixel's answer is the mean over the views that show it, and no pixel of `fill` counts. The image itself is always a view, so every
    pixel has an answer. Views and outputs carry no gradient.

    Args:
        model: what takes the images that ``aug`` takes, and gives logits ``(B, classes, h, w)``, or a dictionary that holds them
            as ``"out"``, as torchvision's segmentation models do.
        aug: the fitted transform; without ``output_size``.
        n_views: forwards per image, the image itself among them.
        select: ``"top"`` (no chance in it), ``"sample"`` or ``"stratified"``.
        range_fraction: use only the middle part of every continuous range, in (0, 1].
        chunk_size: views per forward at most (at least the views of one image).

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
    ) -> None:
        check_module(model, "model")
        super().__init__(model, aug, n_views, select, True, range_fraction, chunk_size)
        if aug.output_size is not None:
            raise InstaAugError(f"aug: views must be as large as the images, got output_size={aug.output_size}")

    @torch.no_grad()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images ``(B, C, H, W)`` to log-probabilities ``(B, classes, H, W)``."""
        return self.chunks(images, lambda part: self._chunk(part, generator))

    def _chunk(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, back = self.aug.prepare(images, strict=False)
        distribution = self.aug.predict(batch)
        params = self.choose(distribution, generator)
        if self.n_views == 1:  # one view that cuts something off would leave pixels without an answer
            params = distribution.identity().map(lambda field: field[None])
        views = back(self.aug.apply(batch.repeat(self.n_views, 1, 1, 1), params.flatten()))
        # Logits, not probabilities, are interpolated, as segmentation models do: an edge stays where the model sees it.
        logits = F.interpolate(self._ask(views).float(), batch.shape[-2:], mode="bilinear", align_corners=False)
        # What a view shows of the image: a pixel of `fill` says nothing, and would blend in at the image's border on the way back.
        how = {"mode": self.aug.interpolation, "colour": False, "backend": self.aug.backend}
        shown = functional.apply(torch.ones_like(logits[:, :1]), params.flatten(), self.aug.families, **how)
        maps = torch.cat([logits.softmax(1) * shown, shown], 1).unflatten(0, (self.n_views, -1))
        found = invert_maps(self.aug, maps, params, tuple(batch.shape[-2:]))[0].sum(0)
        return (found[:, :-1] / found[:, -1:].clamp_min(1e-6)).clamp_min(1e-12).log()

    def _checked(self, outputs: Any) -> Tensor:
        return check_maps(outputs)
