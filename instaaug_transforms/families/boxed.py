"""`BoxedFamily`: something done inside one of a table of boxes, or nowhere, by the parameterisation that crops have.

The paper's location-related parameterisation (Miao et al., ICML 2023, algorithm 1) is not about crops: any operation
with a place can take its anchors and its head. The first anchor stands for "nowhere" and is the identity.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..distributions import AnchorCategorical
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from .base import Family, FamilyDistribution, FeatureSpec
from .crop import Crop, CropHead


class BoxedFamily(Family):
    """Base of families that change the pixels of one box per image; their one field is ``<name>_anchor``.

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
        if len(scales) != len(grids):
            raise InstaAugError(
                f"{self.name}: scales and grids must have one entry per scale, got {tuple(scales)}, {tuple(grids)}"
            )
        self._table = Crop((1.0, *scales), (1, *grids), initial_identity=initial_identity)
        self.scales, self.grids, self.initial_identity = self._table.scales[1:], tuple(grids), initial_identity
        self.boxes = self._table.anchors[:, :4].clone()
        self.boxes[0, 2:] = 0.0

    @property
    def n_anchors(self) -> int:
        """A, "nowhere" included."""
        return len(self.boxes)

    def every_anchor(self, batch_size: int, device: torch.device) -> dict[str, Tensor]:
        """The field ``(A, B)``: each anchor once per image."""
        return {self.fields[0]: torch.arange(self.n_anchors, device=device)[:, None].expand(-1, batch_size)}

    def identity(self) -> dict[str, float]:
        return {self.fields[0]: 0}

    def head(self, spec: FeatureSpec) -> nn.Module:
        return CropHead(self._table, spec)

    def distribution(self, raw: Tensor) -> "BoxedDistribution":
        return BoxedDistribution(self, raw)

    def entropy_band(self) -> tuple[float, float]:
        return (0.4, 0.6)

    def entropy_scale(self) -> float:
        return self._table.entropy_scale()

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor:
        box = self.boxes.to(images.device)[params[self.fields[0]].long()]  # (B, 4)
        mask = _inside(box[:, 1], box[:, 3], images.shape[-2])[:, None, :, None]
        mask = mask * _inside(box[:, 0], box[:, 2], images.shape[-1])[:, None, None, :]
        return torch.where(mask, self.inside(images), images)

    @abstractmethod
    def inside(self, images: Tensor) -> Tensor:
        """What images ``(B, C, H, W)`` look like inside the box."""


def _inside(centre: Tensor, side: Tensor, n: int) -> Tensor:
    """Which of ``n`` pixel centres lie in the box along one axis, ``(B, n)``."""
    pixels = (torch.arange(n, device=centre.device) + 0.5) / n
    return (pixels - centre[:, None]).abs() < side[:, None] / 2


class BoxedDistribution(FamilyDistribution):
    """Categorical over the boxes."""

    has_rsample = False
    n_uniforms = 1

    def __init__(self, family: BoxedFamily, logits: Tensor) -> None:
        self.anchors, self.index_field = AnchorCategorical(logits, validate_args=False), family.fields[0]

    def from_uniform(self, uniform: Tensor) -> dict[str, Tensor]:
        return {self.index_field: self.anchors.icdf(uniform[..., 0])}

    def log_prob(self, params: AugmentParams) -> Tensor:
        return self.anchors.log_prob(params[self.index_field])

    def entropy(self) -> Tensor:
        return self.anchors.entropy()

    def mode(self) -> dict[str, Tensor]:
        return {self.index_field: self.anchors.mode}

    def top(self, k: int) -> dict[str, Tensor]:
        return {self.index_field: self.anchors.top(k)}
