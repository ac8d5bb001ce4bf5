"""Blur a box, at learned places."""

from torch import Tensor

from ..utils.errors import check_number
from . import register
from .boxed import BoxedFamily


@register
class Blur(BoxedFamily):
    """Blur one box by a Gaussian; ``blur_anchor`` says which, 0 is none.

    Args:
        scales, grids, initial_identity: the table of boxes, see `BoxedFamily`.
        sigma: standard deviation, as a fraction of the image's shorter side, in (0, 0.25].
    """

    name = "blur"
    fields = ("blur_anchor",)
    order = 80

    def __init__(
        self,
        scales: tuple[float, ...] = (0.5, 0.33),
        grids: tuple[int, ...] = (3, 4),
        initial_identity: float = 0.9,
        sigma: float = 0.05,
    ) -> None:
        super().__init__(scales, grids, initial_identity)
        check_number("blur: sigma, of the shorter side,", sigma, "(0, 0.25]")
        self.sigma = sigma

    def inside(self, images: Tensor) -> Tensor:
        from kornia.filters import gaussian_blur2d  # here: Kornia's import takes longer than that of all else

        short = min(images.shape[-2:])
        sigma = self.sigma * short
        # Three deviations to either side, no more than reflection at the border allows.
        radius = max(1, min(round(3 * sigma), short - 1))
        border = "reflect" if short > 1 else "replicate"  # one row has nothing to reflect
        return gaussian_blur2d(images, (2 * radius + 1, 2 * radius + 1), (sigma, sigma), border)
