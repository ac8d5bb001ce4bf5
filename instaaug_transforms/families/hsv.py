"""Hue, saturation and value, each changed by an amount of a learned range."""

from torch import Tensor

from ..functional import backends
from ..params import AugmentParams
from . import register
from .uniform import UniformFamily


@register
class HSV(UniformFamily):
    """Add ``hue`` turns (modulo 1); multiply saturation and value (1 is the identity), clamped to [0, 1].

    Args:
        hue: the widest range of hue shifts, turns.
        saturation, value: the widest ranges of factors.
    """

    name = "hsv"
    fields = ("hue", "saturation", "value")
    stage = "colour"
    order = 50
    channels = (3,)
    uses_backend = True

    def __init__(
        self,
        hue: tuple[float, float] = (-0.5, 0.5),
        saturation: tuple[float, float] = (0.0, 2.0),
        value: tuple[float, float] = (0.0, 2.0),
    ) -> None:
        super().__init__({"hue": hue, "saturation": saturation, "value": value})
        self.hue, self.saturation, self.value = (self.bounds[name] for name in self.fields)

    def identity(self) -> dict[str, float]:
        return {"hue": 0.0, "saturation": 1.0, "value": 1.0}

    def colour(self, images: Tensor, params: AugmentParams, backend: str = "auto") -> Tensor:
        amounts = [params[name].to(images)[:, None, None] for name in self.fields]
        return backends.get(backend, images.device).shift_hsv(images, *amounts)
