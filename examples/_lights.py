"""Simulated lights on photographs, in linear RGB: black bodies, intensities, single colours, left-right gradients."""

from dataclasses import dataclass

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

WAVELENGTHS = (610e-9, 550e-9, 465e-9)  # metres: where an sRGB display's primaries peak, about
NEUTRAL = 6500.0  # kelvin, the white of sRGB


@dataclass(frozen=True)
class Light:
    """Gains ``(3,)`` in linear RGB at the left and the right edge."""

    name: str
    left: tuple[float, float, float]
    right: tuple[float, float, float]

    @property
    def is_gradient(self) -> bool:
        """Whether it differs from left to right."""
        return self.left != self.right


def planckian(kelvin: float) -> tuple[float, float, float]:
    """Gains of a black body by Planck's law at three wavelengths, relative to 6500 K, the green one 1."""

    def radiance(temperature: float) -> Tensor:
        wavelength = torch.tensor(WAVELENGTHS, dtype=torch.float64)
        return 1 / (wavelength**5 * torch.expm1(1.438777e-2 / (wavelength * temperature)))

    gain = radiance(kelvin) / radiance(NEUTRAL)
    return tuple((gain / gain[1]).tolist())


def all_lights() -> list[Light]:
    """23 lights; the first is the neutral one."""
    lights = []

    def add(name: str, left, right=None) -> None:
        left = tuple(left)
        lights.append(Light(name, left, left if right is None else tuple(right)))

    add("neutral", (1.0, 1.0, 1.0))
    for kelvin in (2700, 3200, 4000, 5000, 8000, 9500):
        add(f"{kelvin} K", planckian(kelvin))
    for gain in (0.25, 0.5, 2.0):
        add(f"intensity {gain:g}", (gain,) * 3)
        add(f"3200 K, intensity {gain:g}", (gain * g for g in planckian(3200)))
    for name, gains in (("red", (1, 0.15, 0.15)), ("green", (0.15, 1, 0.15)), ("blue", (0.15, 0.15, 1))):
        add(name, gains)
    warm, cold = planckian(2700), planckian(9500)
    add("gradient dark to bright", (0.2,) * 3, (1.5,) * 3)
    add("gradient bright to dark", (1.5,) * 3, (0.2,) * 3)
    add("gradient warm to cold", warm, cold)
    add("gradient cold to warm", cold, warm)
    add("gradient dark to bright, warm", (0.2 * g for g in warm), (1.5 * g for g in warm))
    add("gradient bright to dark, cold", (1.5 * g for g in cold), (0.2 * g for g in cold))
    add("gradient red to neutral", (1, 0.15, 0.15), (1, 1, 1))
    return lights


def shine(images: Tensor, light: Light) -> Tensor:
    """Images ``(B, 3, H, W)`` in [0, 1], sRGB, under a light; what is brighter than white is clipped, as a camera does."""
    along = (torch.arange(images.shape[-1], device=images.device) + 0.5) / images.shape[-1]
    left, right = (torch.tensor(gains, device=images.device)[:, None] for gains in (light.left, light.right))
    gain = left + (right - left) * along  # (3, W)
    return linear_rgb_to_rgb((rgb_to_linear_rgb(images) * gain[None, :, None, :]).clamp(0, 1)).clamp(0, 1)
