"""How far images may turn."""

from typing import Any

import torch
from torch import Tensor

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..utils.errors import check_whole
from .style import accent, ink, looked_at, pale, panels, part_at, part_of, show_image


def draw_rotation(axes: Any, image: Tensor, distribution: AugmentDistribution, index: int) -> None:
    """One image inside a dial whose red arc is the learned range of rotation; up is 0°, counter-clockwise positive."""
    from matplotlib.patches import Wedge

    angle = part_at(distribution, "rotate", image, index).fields["angle"]
    lo, hi = float(angle.lo[index].detach()), float(angle.hi[index].detach())
    longer = max(image.shape[-2:])
    y, x = (side / longer for side in image.shape[-2:])
    show_image(axes, image, f"{lo:+.0f}° … {hi:+.0f}°", extent=(-x, x, -y, y))
    axes.add_patch(Wedge((0, 0), 1.75, 0, 360, width=0.22, facecolor=pale()))
    axes.add_patch(Wedge((0, 0), 1.75, 90 + lo, 90 + hi, width=0.22, facecolor=accent()))
    axes.plot([0, 0], [1.5, 1.85], color=ink(), linewidth=1)
    axes.set_xlim(-1.85, 1.85)
    axes.set_ylim(-1.85, 1.85)


@torch.no_grad()
def rotation_arcs(aug: LearnedAugment, images: Tensor, columns: int = 6) -> Any:
    """A dial per image of ``(N, C, H, W)`` or ``(C, H, W)``: its learned range of rotation."""
    images, distribution = looked_at(aug, images)
    part_of(distribution, "rotate")
    check_whole("columns", columns)
    figure, dials = panels(len(images), min(columns, len(images)), 1.4, 1.55)
    for index, (axes, image) in enumerate(zip(dials, images, strict=True)):
        draw_rotation(axes, image, distribution, index)
    return figure
