"""Exposure and white balance: what a camera sets wrong, and one of a few settings undoes."""

import torch
from torch import Tensor

from ..functional.linear_rgb import relight
from ..params import AugmentParams
from ..utils.errors import InstaAugError, several
from . import register
from .anchors import AnchorFamily
from .base import Limit

LARGEST = 32.0  # stops; black times infinitely much light would not be a number


@register
class Light(AnchorFamily):
    """Multiply the light of an sRGB image, in linear RGB, and clip what becomes too bright.

    ``exposure`` is in stops: +1 is twice the light. ``white_balance`` is in stops too: red gains half of it and blue loses
    half. Candidates are every exposure with every white balance.

    Args:
        exposures: stops, all different, 0 first.
        white_balances: stops, all different, 0 first.
        initial_identity: p(no change) before any fit.
    """

    name = "light"
    fields = ("exposure", "white_balance", "light")
    stage = "colour"
    order = 40
    channels = (3,)

    def __init__(
        self,
        exposures: tuple[float, ...] = (0.0, -1.0, 1.0, 2.0, 3.0),
        white_balances: tuple[float, ...] = (0.0, -0.8, 0.8),
        initial_identity: float = 0.9,
    ) -> None:
        exposures, white_balances = (
            several("light: exposures", exposures),
            several("light: white_balances", white_balances),
        )
        for name, stops in (("exposures", exposures), ("white_balances", white_balances)):
            distinct = len(set(stops)) == len(stops) and all(abs(stop) <= LARGEST for stop in stops)
            if not stops or stops[0] != 0 or not distinct:
                raise InstaAugError(
                    f"light: {name} must be different stops, {LARGEST:g} at most, and start with 0, got {stops}"
                )
        self.exposures, self.white_balances = tuple(map(float, exposures)), tuple(map(float, white_balances))
        pairs = torch.cartesian_prod(torch.tensor(self.exposures), torch.tensor(self.white_balances)).reshape(-1, 2)
        super().__init__({"exposure": pairs[:, 0], "white_balance": pairs[:, 1]}, initial_identity)

    def limits(self) -> dict[str, Limit]:
        stops = Limit(-2 * LARGEST, 2 * LARGEST, fix="it is in stops")
        return {**super().limits(), "exposure": stops, "white_balance": stops}

    def disturb(self, uniform: Tensor) -> dict[str, Tensor]:
        """Any light that a candidate comes near to undoing, half a step beyond the outermost ones included."""
        fields = {}
        for column, name in enumerate(("exposure", "white_balance")):
            stops = sorted(-stop for stop in getattr(self, f"{name}s"))
            low, high = stops[0], stops[-1]
            slack = (high - low) / max(len(stops) - 1, 1) / 2
            fields[name] = low - slack + (high - low + 2 * slack) * uniform[..., column]
        return {**fields, self.index_field: self.undoing(fields)}

    def undoing(self, fields: dict[str, Tensor]) -> Tensor:
        return self.nearest(AugmentParams(**{name: -fields[name] for name in ("exposure", "white_balance")}))

    @property
    def n_disturb(self) -> int:
        return 2

    def colour(self, images: Tensor, params: AugmentParams) -> Tensor:
        exposure, balance = params.exposure.to(images), params.white_balance.to(images)
        stops = torch.stack([exposure + balance / 2, exposure, exposure - balance / 2], 1)  # (B, 3)
        lit, still = relight(images, torch.exp2(stops)), (stops == 0).all(1)
        # Colour spaces there and back cost a rounding; images that stay as they are stay so exactly.
        if images.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(still.any()):
            return lit
        return torch.where(still[:, None, None, None], images, lit)
