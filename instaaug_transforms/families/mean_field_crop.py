"""Crops without the location-related parameterisation, to compare with: three independent ranges."""

from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import check_number
from . import register
from .base import Limit, affine
from .uniform import UniformFamily


@register
class MeanFieldCrop(UniformFamily):
    """Cut out a square box of side ``crop_side`` at ``crop_x, crop_y``, each uniform on its own range.

    "InstaAug without LRP" (Miao et al. 2023, Table 1): where a box may lie cannot depend on how large it is, and one
    interval per axis cannot say "left or right, but not between".

    Args:
        smallest: the smallest side, a fraction of the image in (0, 1).

    The fields: ``crop_side`` in [smallest, 1]; ``crop_x, crop_y`` in [0, 1], where the box lies between touching the
    left (top) edge, 0, and the right (bottom) edge, 1. Every box lies inside the image.
    """

    name = "mean_field_crop"
    fields = ("crop_side", "crop_x", "crop_y")
    stage = "geometry"
    order = 0
    stays_inside = True

    def __init__(self, smallest: float = 0.3) -> None:
        check_number("mean_field_crop: smallest", smallest, "(0, 1)")
        self.smallest = float(smallest)
        super().__init__({"crop_side": (self.smallest, 1.0), "crop_x": (0.0, 1.0), "crop_y": (0.0, 1.0)})

    def identity(self) -> dict[str, float]:
        return {"crop_side": 1.0, "crop_x": 0.5, "crop_y": 0.5}

    def limits(self) -> dict[str, Limit]:
        return dict.fromkeys(self.fields, Limit(0, 1, fix="it is a fraction"))

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        side = params.crop_side.float()
        x, y = ((1 - side) * (2 * params[name].float() - 1) for name in ("crop_x", "crop_y"))
        return affine(side, side, x=x, y=y)
