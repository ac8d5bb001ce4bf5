"""`AugmentSample`: what `LearnedAugment.sample` drew, kept for the objective that learns from it."""

from dataclasses import dataclass

from torch import Tensor

from .augment_distribution import AugmentDistribution
from .params import AugmentParams


@dataclass(frozen=True)
class AugmentSample:
    """n views of each of B images, with the distribution they came from.

    Attributes:
        params: ``(n, B)`` parameters; those of uniform families carry gradients to φ.
        distribution: p(τ | x) of the B images, differentiable in φ.
        images: ``(B, C, H, W)`` in [0, 1], as φ saw them.
        enumerated: whether the views are every anchor of the transform's one anchor family, in their order (n = A).
    """

    params: AugmentParams
    distribution: AugmentDistribution
    images: Tensor
    enumerated: bool = False

    @property
    def n(self) -> int:
        """Views per image."""
        return self.params.batch_shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.params.batch_shape[1]
