"""The Mario–Iggy problem (Benton et al. 2020; Miao et al. 2023, Figure 5): who is it, and which way up?

Modes generalise it: with one, an image is *up* or *down*, and a turn by less than 90° from either keeps the class; with
three, the two classes alternate every 60°, so that what keeps the class is three arcs of 60° and no single interval.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import instaaug_transforms as ia
from instaaug_transforms import families, functional

ROTATE = families.create(["rotate"])


def load(path: Path) -> Tensor:
    """The two sprites, ``(2, 3, 32, 32)`` in [0, 1]."""
    with np.load(path) as file:
        return torch.tensor(np.concatenate([file["mario"], file["iggy"]])).float()


def draw(sprites: Tensor, n: int, modes: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """``n`` images masked to the inscribed circle (black corners would give the angle away), classes, tilts in degrees.

    The class is 2·who + phase; the tilt, uniform in ±45°/modes, is measured from the middle of the class's nearest arc.
    """
    who, phase = torch.randint(2, (n,), generator=generator), torch.randint(2, (n,), generator=generator)
    tilt = (2 * torch.rand(n, generator=generator) - 1) * 45 / modes
    turn = torch.randint(modes, (n,), generator=generator)
    angle = tilt + 180 / modes * phase + 360 / modes * turn
    size = sprites.shape[-1]
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    circle = (line[:, None] ** 2 + line**2 < 1).float()
    return functional.apply(sprites[who], ia.AugmentParams(angle=angle), ROTATE) * circle, 2 * who + phase, tilt


def coverage_and_spill(lo: Tensor, hi: Tensor, tilt: Tensor, modes: int = 1) -> tuple[Tensor, Tensor]:
    """Per image: share of the label-preserving set inside [lo, hi], and share of [lo, hi] outside that set.

    The set of an image tilted by α is [−h − α, h − α] and its repeats every 360°/modes, with h = 90°/modes.

    Args:
        lo, hi: ``(N,)`` degrees, −180 ≤ lo < hi ≤ 180.
        tilt: ``(N,)`` degrees.
        modes: arcs of the set, which is 180° in all.
    """
    half, period = 90 / modes, 360 / modes
    inside = torch.zeros_like(lo)
    for k in range(-modes, modes + 1):
        centre = period * k - tilt
        inside += (torch.minimum(hi, centre + half) - torch.maximum(lo, centre - half)).clamp(min=0)
    return inside / 180, (hi - lo - inside) / (hi - lo)


def network(classes: int = 4) -> nn.Sequential:
    """Three strided convolutions, 0.12 M parameters: position is kept, as orientation is in it."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(4, 64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, classes)),
    )
