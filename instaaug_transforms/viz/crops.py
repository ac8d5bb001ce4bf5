"""Where and how large learned crops are."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..utils.errors import check_whole
from .style import (
    ACCENT,
    INK,
    accent,
    faint,
    ink,
    looked_at,
    new_figure,
    pale,
    panels,
    part_at,
    part_of,
    show_image,
    tidy,
)

SMALLEST = 0.01  # boxes that are less likely are left out


def draw_crops(
    axes: Any, image: Tensor, distribution: AugmentDistribution, index: int, k: int = 6, size: float = 6
) -> None:
    """The ``k`` likeliest crops of one image on it, each with its probability: redder and thicker the likelier.

    Args:
        axes: matplotlib axes.
        image: ``(C, H, W)``.
        distribution: of the batch the image came from.
        index: its place in that batch.
        k: boxes drawn at most; those below 1 % are left out. A box and its mirrored view count as one. The likeliest is drawn
            where it is, each further one a little inside its place, so that edges in common stay apart.
        size: of the labels, points.
    """
    check_whole("k", k)
    parts = getattr(distribution, "parts", {})
    part = part_at(distribution, next((name for name in parts if "cx" in parts[name].mode()), "crop"), image, index)
    boxes, probs = _distinct(part.family.anchors[:, :4], part.categorical.probs[index].detach().cpu())
    order = [int(a) for a in probs.argsort(descending=True)[:k] if probs[a] >= SMALLEST] or [int(probs.argmax())]
    _, height, width = image.shape
    show_image(axes, image)
    margin = 0.03 * max(height, width)
    axes.set_xlim(-0.5 - margin, width - 0.5 + margin)
    axes.set_ylim(height - 0.5 + margin, -0.5 - margin)
    top = float(probs[order[0]])
    corners: list[tuple[float, float]] = []
    for rank, a in enumerate(order):
        cx, cy, w, h = boxes[a].tolist()
        inset = 0.009 * rank * min(height, width)  # boxes share edges: each a little inside the one before
        left, upper = (cx - w / 2) * width - 0.5 + inset, (cy - h / 2) * height - 0.5 + inset
        right, lower = left + w * width - 2 * inset, upper + h * height - 2 * inset
        _draw_box(axes, (left, upper, right, lower), float(probs[a]), top, zorder=2 + len(order) - rank)
        # Of its corners the label takes the one that is farthest from all labels so far.
        free = [(x, y) for y in (upper, lower) for x in (left, right)]
        x, y = max(free, key=lambda c: min((math.dist(c, other) for other in corners), default=0.0))
        corners.append((x, y))
        place = {"ha": "left" if x == left else "right", "va": "top" if y == upper else "bottom"}
        frame = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.5, "pad": 1, "alpha": 0.85}
        axes.text(x, y, f"{100 * float(probs[a]):.0f} %", fontsize=size, color=INK, bbox=frame, zorder=20, **place)


def _draw_box(axes: Any, box: tuple[float, float, float, float], p: float, top: float, zorder: int) -> None:
    """A line in three: dark and white below the colour, so that it is seen on snow and at night."""
    from matplotlib.patches import Rectangle

    left, upper, right, lower = box
    thickness = 0.8 + 1.8 * p / top
    for extra, colour in ((3.0, INK), (1.8, "white"), (0.0, probability_colours()(p / top))):
        style = {"edgecolor": colour, "linewidth": thickness + extra, "fill": False, "zorder": zorder}
        axes.add_patch(Rectangle((left, upper), right - left, lower - upper, **style))


def probability_colours() -> Any:
    """Grey for the unlikely to the accent for the likely; darker as it goes, to survive a black and white print."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("probability", ["#c4c4c4", "#d9697a", ACCENT, "#7d0a1d"])


def _distinct(boxes: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes ``(N, 4)`` once each, and the sum of the probabilities of those that are alike."""
    unique, place = boxes.unique(dim=0, return_inverse=True)
    return unique, probs.new_zeros(len(unique)).index_add(0, place, probs)


@torch.no_grad()
def likeliest_crops(aug: LearnedAugment, image: Tensor, k: int = 6) -> Any:
    """The likeliest crops of one image ``(C, H, W)`` on it, with the scale of their probabilities beside it."""
    check_whole("k", k)
    (image,), distribution = looked_at(aug, image, one=True)
    part = part_of(distribution, "crop")
    _, probs = _distinct(part.family.anchors[:, :4], part.categorical.probs[0].cpu())
    figure = new_figure(6.4, 5.6 * image.shape[1] / image.shape[2] + 0.3)
    axes = figure.subplots()
    draw_crops(axes, image, distribution, 0, k, size=8)
    _probability_bar(figure, axes, float(probs.max()), "probability of a crop")
    return figure


def _probability_bar(figure: Any, axes: Any, top: float, label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, 100 * top), probability_colours()), ax=axes, shrink=0.6, pad=0.02)
    bar.set_label(f"{label}, %", fontsize=8, color=ink())
    bar.ax.tick_params(labelsize=7, colors=ink())
    bar.outline.set_visible(False)


@torch.no_grad()
def crop_centres(aug: LearnedAugment, images: Tensor, bins: int = 48) -> Any:
    """Where the centres of crops lie: one panel per image of ``(N, C, H, W)`` or ``(C, H, W)``.

    The density of centres (each spread over its cell of the grid) lies over the image, darker where it is higher; lines
    enclose half and nine tenths of the crops. A centre says little where the crop is the whole image: those are left out, and their share is said.

    Args:
        aug: a transform with crops.
        images: what to look at.
        bins: cells per axis of the map.
    """
    check_whole("bins", bins)
    images, distribution = looked_at(aug, images)
    part = part_of(distribution, "crop")
    density, whole = centre_density(part, bins)
    columns = min(len(images), 5)
    height = 2.0 * images.shape[-2] / images.shape[-1] + 0.35
    figure, every = panels(len(images), columns, max(2.0, 3.2 / columns), height)
    for axes, image, here, share in zip(every, images, density, whole.tolist(), strict=True):
        shown = image.mean(0, keepdim=True).expand(3, -1, -1) * 0.55 + 0.4  # pale and grey: the density is the picture
        show_image(axes, shown, f"whole image: {100 * share:.0f} %", extent=(0, 1, 1, 0))
        axes.set_aspect(images.shape[-2] / images.shape[-1])
        peak = float(here.max())
        if peak > 0:
            strength = (here / peak).numpy()
            axes.imshow(
                strength, cmap=probability_colours(), alpha=0.85 * strength**0.5, extent=(0, 1, 1, 0), aspect="auto"
            )
            axes.set_aspect(images.shape[-2] / images.shape[-1])
            places = ((torch.arange(bins) + 0.5) / bins).numpy()
            levels = [_level(here, mass) for mass in (0.9, 0.5)]
            if levels[0] < levels[1] < peak:
                lines = {"levels": levels, "colors": INK, "linewidths": (0.7, 1.4), "linestyles": ("--", "-")}
                axes.contour(places, places, here.numpy(), **lines)
    between = "\n" if figure.get_figwidth() < 5 else " "
    caption = f"lines enclose 50 % (solid) and 90 % (dashed){between}of the other crops' centres"
    figure.supxlabel(caption, fontsize=7, color=ink())
    return figure


def centre_density(part: Any, bins: int) -> tuple[Tensor, Tensor]:
    """``(N, bins, bins)`` of the centres of all crops but the whole image, each row summing to 1; and p(whole), ``(N,)``."""
    probs = part.categorical.probs.detach().cpu()  # (N, A)
    anchors, half = part.family.anchors, part.family.half_cell.clamp_min(0.5 / bins)
    whole = anchors[:, 2] >= 1
    places = (torch.arange(bins, dtype=probs.dtype) + 0.5) / bins
    near = [((places - anchors[:, i, None]).abs() / half[:, None]).clamp(max=2) for i in (0, 1)]  # (A, bins) each
    # A smooth bump as wide as the cell, not the cell's edges.
    across, down = (torch.exp(-2 * distance**2) * (distance < 2) for distance in near)
    bumps = down[:, :, None] * across[:, None, :]  # (A, bins, bins)
    bumps = bumps / bumps.sum((1, 2), keepdim=True)
    density = torch.einsum("na,ayx->nyx", probs * ~whole, bumps)
    return density / density.sum((1, 2), keepdim=True).clamp_min(1e-12), probs[:, whole].sum(1)


def _level(density: Tensor, mass: float) -> float:
    """The density above which ``mass`` of it lies."""
    ordered = density.flatten().sort(descending=True).values
    return float(ordered[int((ordered.cumsum(0) < mass * ordered.sum()).sum())])


@torch.no_grad()
def crop_sizes(aug: LearnedAugment, images: Tensor) -> Any:
    """How large crops are, over images ``(N, C, H, W)``: share of each side, and share of crops larger than a side.

    Bars are means over the images; with two or more images, whiskers span the middle four fifths of them. Beside it, the share
    of crops whose side exceeds a given one: a line per image in grey, their mean in red.
    """
    images, distribution = looked_at(aug, images)
    part = part_of(distribution, "crop")
    sides, share = side_shares(part)
    figure = new_figure(6.4, 2.4)
    left, right = figure.subplots(1, 2)
    left.bar(range(len(sides)), (100 * share.mean(0)).numpy(), width=0.62, color=accent())
    if len(images) > 1:
        low, high = share.quantile(0.1, 0), share.quantile(0.9, 0)
        left.vlines(range(len(sides)), (100 * low).numpy(), (100 * high).numpy(), color=ink(), linewidth=1.2)
    left.set_xticks(range(len(sides)), [f"{side:g}" for side in sides.tolist()])
    tidy(left, "side of the crop, share of the image's", "crops, %")
    edges = torch.cat([torch.zeros(1), sides, torch.ones(1)]).numpy()
    above = torch.cat([torch.ones(len(share), 1), 1 - share.cumsum(1), torch.zeros(len(share), 1)], 1)
    above = (100 * above.clamp(0, 1)).numpy()
    for line in above[:60] if len(images) > 1 else ():
        right.step(edges, line, where="post", color=faint(), linewidth=0.5, alpha=0.6)
    right.step(edges, above.mean(0), where="post", color=accent(), linewidth=2)
    right.fill_between(edges, 0, above.mean(0), step="post", color=pale(), zorder=0)
    right.set_xlim(0, 1.02)
    right.set_ylim(0, 105)
    tidy(right, "side s", "crops larger than s, %")
    return figure


def side_shares(part: Any) -> tuple[Tensor, Tensor]:
    """The sides of the table, ascending ``(S,)``, and the share of each per image, ``(N, S)``."""
    sides, level = part.family.anchors[:, 2].unique(return_inverse=True)
    return sides, part.categorical.probs.detach().cpu() @ F.one_hot(level, len(sides)).float()
