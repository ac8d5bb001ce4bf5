"""Erase a box, at learned places (cf. random erasing; Zhong et al., AAAI 2020)."""

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import check_number
from . import register
from .boxed import BoxedFamily


@register
class Erase(BoxedFamily):
    """Replace one box by a constant; ``erase_anchor`` says which, 0 is none.

    Args:
        scales, grids, initial_identity: the table of boxes, see `BoxedFamily`.
        value: what erased pixels become, in [0, 1].
    """

    name = "erase"
    fields = ("erase_anchor",)
    order = 90

    def __init__(
        self,
        scales: tuple[float, ...] = (0.5, 0.33),
        grids: tuple[int, ...] = (3, 4),
        initial_identity: float = 0.9,
        value: float = 0.5,
    ) -> None:
        super().__init__(scales, grids, initial_identity)
        check_number("erase: value", value, "[0, 1]")
        self.value = value

    def inside(self, images: Tensor) -> Tensor:
        return torch.full_like(images, self.value)

    def shown(self, images: Tensor, params: AugmentParams) -> Tensor:
        return images.masked_fill(self.within(images, params), 0.0)
