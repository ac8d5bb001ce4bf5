"""`BoxedFamily`: something done inside one of a table of boxes, or nowhere."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..params import AugmentParams
from .anchors import AnchorFamily
from .base import FeatureSpec
from .boxes import BoxHead, check_grids, grid_boxes


class BoxedFamily(AnchorFamily):
    """Base of families that change the pixels of one box per image; their one field is ``<name>_anchor``.

    Candidate 0 stands for "nowhere" and is the identity; its logit comes from the whole image.

    Args:
        scales: side of the boxes of each scale, fractions in (0, 1].
        grids: how many centres per axis each scale has; the outermost boxes touch the image's edges.
        initial_identity: p(nowhere) before any fit.

    Attributes:
        boxes: ``(A, 4)``, columns cx, cy, w, h; row 0, "nowhere", has width 0.
    """

    stage = "colour"

    def __init__(
        self,
        scales: tuple[float, ...] = (0.5, 0.33),
        grids: tuple[int, ...] = (3, 4),
        initial_identity: float = 0.9,
    ) -> None:
        check_grids(self.name, scales, grids)
        self.scales, self.grids = tuple(map(float, scales)), tuple(map(int, grids))
        self._windows = grid_boxes((1.0, *self.scales), (1, *self.grids))
        self.boxes = self._windows.clone()
        self.boxes[0, 2:] = 0.0
        super().__init__({}, initial_identity, size=len(self.boxes))

    def head(self, spec: FeatureSpec) -> nn.Module:
        return BoxHead(self._windows, (1, *self.grids), spec, self.initial_identity)

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor:
        return torch.where(self.within(images, params), self.inside(images), images)

    def within(self, images: Tensor, params: AugmentParams) -> Tensor:
        """Which pixels lie in the box of their image, ``(B, 1, H, W)``."""
        box = self.boxes.to(images.device)[params[self.index_field].long()]  # (B, 4)
        rows = _inside(box[:, 1], box[:, 3], images.shape[-2])[:, None, :, None]
        return rows * _inside(box[:, 0], box[:, 2], images.shape[-1])[:, None, None, :]

    @abstractmethod
    def inside(self, images: Tensor) -> Tensor:
        """What images ``(B, C, H, W)`` look like inside the box."""


def _inside(centre: Tensor, side: Tensor, n: int) -> Tensor:
    """Which of ``n`` pixel centres lie in the box along one axis, ``(B, n)``."""
    pixels = (torch.arange(n, device=centre.device) + 0.5) / n
    return (pixels - centre[:, None]).abs() < side[:, None] / 2
