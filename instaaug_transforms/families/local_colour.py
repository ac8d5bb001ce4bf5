"""Local colour jitter: a smooth field of light over the image, as of a window to the left or a lamp above."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..params import AugmentParams
from . import register
from .uniform import UniformFamily

CORNERS = ("tl", "tr", "bl", "br")  # top left, top right, bottom left, bottom right


@register
class LocalColour(UniformFamily):
    """Multiply pixels by a light that varies bilinearly between the image's corners.

    Each corner has a brightness ``light_*``, in stops (+1 is twice as bright), and a warmth ``warmth_*``, stops by which
    red gains and blue loses half each. All are 0 where nothing changes. Each of the eight has its own learned range: where
    all four corners agree, the field is a constant.

    Args:
        light: the widest range of each corner's brightness, stops.
        warmth: the widest range of each corner's warmth, stops.
    """

    name = "local_colour"
    fields = tuple(f"{what}_{corner}" for what in ("light", "warmth") for corner in CORNERS)
    stage = "colour"
    order = 60
    channels = (3,)

    def __init__(self, light: tuple[float, float] = (-2.0, 2.0), warmth: tuple[float, float] = (-2.0, 2.0)) -> None:
        super().__init__({name: light if name.startswith("light") else warmth for name in self.fields})
        self.light, self.warmth = self.bounds["light_tl"], self.bounds["warmth_tl"]

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor:
        corners = torch.stack([params[name].to(images) for name in self.fields], -1).reshape(-1, 2, 2, 2)
        # align_corners: the named values hold at the corner pixels themselves.
        field = F.interpolate(corners, size=images.shape[-2:], mode="bilinear", align_corners=True)
        light, warmth = field.unbind(1)  # (B, H, W) each
        stops = torch.stack([light + warmth / 2, light, light - warmth / 2], dim=1)
        return (images * torch.exp2(stops)).clamp(0, 1)
