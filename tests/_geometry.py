"""Random crops and rotations, for the tests of `functional`."""

import torch

import instaaug_transforms as ia
from instaaug_transforms import families

GEOMETRY = families.create(["crop", "rotate"])


def random_params(n: int, seed: int = 0) -> ia.AugmentParams:
    g = torch.Generator().manual_seed(seed)
    side = 0.4 + 0.5 * torch.rand(n, generator=g)
    centre = side / 2 + (1 - side) * torch.rand(2, n, generator=g)
    angle = 360 * torch.rand(n, generator=g) - 180
    return ia.AugmentParams(cx=centre[0], cy=centre[1], w=side, h=side, flip=(angle > 0).float(), angle=angle)
