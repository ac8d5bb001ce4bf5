"""How far colours may go: a hue wheel, bars of saturation and value, and the views at the ends (Figure D.1 of the paper)."""

import math
from typing import Any

import torch
from kornia.color import rgb_to_hsv
from torch import Tensor

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..utils.errors import check_whole
from .style import accent, ink, looked_at, new_figure, pale, part_at, part_of, show_image

SEGMENTS = 72


def mean_colour(image: Tensor) -> tuple[float, float, float]:
    """Hue (turns; circular mean, weighted by how coloured and bright a pixel is), saturation and value of ``(3, H, W)``."""
    hue, saturation, value = rgb_to_hsv(image.detach().cpu().float().clamp(0, 1)[None])[0]
    weight = saturation * value
    angle = math.atan2(float((weight * hue.sin()).sum()), float((weight * hue.cos()).sum()))
    return (angle / (2 * math.pi)) % 1.0, float(saturation.mean()), float(value.mean())


def draw_hue_wheel(axes: Any, image: Tensor, distribution: AugmentDistribution, index: int) -> None:
    """The wheel of hues, red at the top, counter-clockwise; a tick at the image's own hue, an arc where it may go."""
    from matplotlib.colors import hsv_to_rgb
    from matplotlib.patches import Wedge

    hue = part_at(distribution, "hsv", image, index).fields["hue"]
    lo, hi = float(hue.lo[index].detach()), float(hue.hi[index].detach())
    own, _, _ = mean_colour(image)
    step = 360 / SEGMENTS
    for k in range(SEGMENTS):
        colour = hsv_to_rgb(((k + 0.5) / SEGMENTS, 0.75, 0.9))
        axes.add_patch(Wedge((0, 0), 1.0, 90 + k * step, 90 + (k + 1) * step + 0.5, width=0.4, facecolor=colour))
    axes.add_patch(Wedge((0, 0), 1.3, 0, 360, width=0.18, facecolor=pale()))
    axes.add_patch(Wedge((0, 0), 1.3, 90 + 360 * (own + lo), 90 + 360 * (own + hi), width=0.18, facecolor=accent()))
    where = math.radians(90 + 360 * own)
    tick = [[r * wave(where) for r in (0.5, 1.42)] for wave in (math.cos, math.sin)]
    axes.plot(*tick, color=axes.figure.get_facecolor(), linewidth=4)  # seen on every hue
    axes.plot(*tick, color=ink(), linewidth=2)
    axes.set_xlim(-1.5, 1.5)
    axes.set_ylim(-1.5, 1.5)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"hue {360 * lo:+.0f}° … {360 * hi:+.0f}°", fontsize=8, color=ink(), pad=2)


def draw_colour_bars(axes: Any, image: Tensor, distribution: AugmentDistribution, index: int) -> None:
    """Saturation and value from 0 to 1: a tick where the image's mean is, a bar where it may go (clipped at 1)."""
    fields, own = part_at(distribution, "hsv", image, index).fields, mean_colour(image)
    for row, (name, before) in enumerate(zip(("saturation", "value"), own[1:], strict=True)):
        lo, hi = float(fields[name].lo[index].detach()), float(fields[name].hi[index].detach())
        y = 1 - row
        axes.barh(y, 1, height=0.3, color=pale())
        low, high = (min(before * factor, 1.0) for factor in (lo, hi))
        axes.barh(y, max(high - low, 0.012), left=low, height=0.3, color=accent())
        axes.plot([before, before], [y - 0.27, y + 0.27], color=ink(), linewidth=2)
        axes.text(0, y + 0.3, f"{name} ×{lo:.2f} … {hi:.2f}", fontsize=7, color=ink(), va="bottom")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.4, 1.75)
    axes.set_axis_off()


@torch.no_grad()
def colour_ranges(aug: LearnedAugment, images: Tensor, n_views: int = 4, seed: int = 0) -> Any:
    """A row per image of ``(N, 3, H, W)`` or ``(3, H, W)``: before; hue wheel; saturation and value; after.

    The black tick is the image's own mean colour, the red arc and bars are where it may go, and the views on the right are
    samples of colour alone (no crop, no turn).
    """
    check_whole("n_views", n_views)
    images, distribution = looked_at(aug, images)
    part_of(distribution, "hsv")
    params = distribution.stratified(n_views, torch.Generator(device=images.device).manual_seed(seed))
    plain = distribution.identity()
    names = distribution.parts["hsv"].fields
    views = [aug.apply(images, plain.replace(**{n: params[n][k] for n in names})) for k in range(n_views)]
    shape = images.shape[-1] / images.shape[-2]
    wide = min(max(shape, 0.6), 1.8)
    ratios = [wide, 1.0, 1.5, *[wide] * n_views]
    figure = new_figure(1.15 * sum(ratios), 1.45 * len(images))
    grid = figure.subplots(len(images), 3 + n_views, squeeze=False, width_ratios=ratios)
    for index, image in enumerate(images):
        show_image(grid[index, 0], image, "" if index else "before")
        draw_hue_wheel(grid[index, 1], image, distribution, index)
        draw_colour_bars(grid[index, 2], image, distribution, index)
        for k, (axes, view) in enumerate(zip(grid[index, 3:], views, strict=True)):
            show_image(axes, view[index], "" if index or k else "samples")
    return figure
