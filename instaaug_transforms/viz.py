"""Pictures of what was learned. matplotlib is imported when a function is called; every function returns its figure."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .augment import LearnedAugment
from .augment_distribution import AugmentDistribution
from .errors import InstaAugError
from .weights import replace_file

INK = "#1f1f1f"
ACCENT = "#c8102e"
FAINT = "#9a9a9a"


def new_figure(width: float, height: float) -> Any:
    """An empty figure of ``width`` × ``height`` inches; no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InstaAugError("viz: matplotlib is not installed; pip install 'instaaug-transforms[plot]'") from error
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _show(axes: Any, image: Tensor, extent: tuple[float, float, float, float] | None = None) -> None:
    """An image ``(C, H, W)`` in [0, 1], one or three channels."""
    pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    axes.set_axis_off()


def draw_crops(axes: Any, image: Tensor, distribution: AugmentDistribution, index: int, k: int = 6) -> None:
    """The ``k`` likeliest crops of one image on it: thicker and redder the likelier, grey and thin the unlikely.

    Args:
        axes: matplotlib axes.
        image: ``(C, H, W)``.
        distribution: of the batch the image came from.
        index: its place in that batch.
        k: boxes drawn at most; those below 1 % are left out. The likeliest is drawn where it is, each further one a
            little inside its place, so that edges in common stay apart.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    part = distribution.parts["crop"]
    probs = part.anchors.probs[index].detach().cpu()
    order = [int(a) for a in probs.argsort(descending=True)[:k] if probs[a] >= 0.01] or [int(probs.argmax())]
    colours = LinearSegmentedColormap.from_list("probability", [FAINT, ACCENT])
    _, height, width = image.shape
    _show(axes, image)
    margin = 0.03 * max(height, width)
    axes.set_xlim(-0.5 - margin, width - 0.5 + margin)
    axes.set_ylim(height - 0.5 + margin, -0.5 - margin)
    top = float(probs[order[0]])
    for rank, a in reversed(list(enumerate(order))):  # the likeliest on top
        cx, cy, w, h, _ = part.family.anchors[a].tolist()
        share = float(probs[a]) / top
        inset = 0.006 * rank * min(height, width)  # boxes share edges: each a little inside the one before
        left, upper = (cx - w / 2) * width - 0.5 + inset, (cy - h / 2) * height - 0.5 + inset
        style = {"edgecolor": colours(share), "linewidth": 0.8 + 1.8 * share, "fill": False}
        axes.add_patch(Rectangle((left, upper), w * width - 2 * inset, h * height - 2 * inset, **style))
    label = f"likeliest: {100 * top:.0f} %"
    axes.set_title(label, fontsize=8, color=INK, pad=2)


def draw_rotation(axes: Any, image: Tensor, distribution: AugmentDistribution, index: int) -> None:
    """One image inside a dial whose red arc is the learned range of rotation; up is 0°, counter-clockwise positive."""
    from matplotlib.patches import Wedge

    angle = distribution.parts["rotate"].fields["angle"]
    lo, hi = float(angle.lo[index].detach()), float(angle.hi[index].detach())
    _show(axes, image, extent=(-1, 1, -1, 1))
    axes.add_patch(Wedge((0, 0), 1.75, 0, 360, width=0.22, facecolor="#e6e6e6"))
    axes.add_patch(Wedge((0, 0), 1.75, 90 + lo, 90 + hi, width=0.22, facecolor=ACCENT))
    axes.plot([0, 0], [1.5, 1.85], color=INK, linewidth=1)
    axes.set_xlim(-1.85, 1.85)
    axes.set_ylim(-1.85, 1.85)
    axes.set_title(f"{lo:+.0f}° … {hi:+.0f}°", fontsize=8, color=INK, pad=2)


@torch.no_grad()
def learned_ranges(aug: LearnedAugment, images: Tensor, n_views: int = 4, seed: int = 0) -> Any:
    """One column per image ``(N, C, H, W)``: range of rotation, likeliest crops, sampled views — what the families allow."""
    distribution = aug.distribution(images)
    rows = [name for name in ("rotate", "crop") if name in distribution.parts]
    views, _ = aug.views(images, n_views, "stratified", torch.Generator().manual_seed(seed))
    figure = new_figure(1.15 * len(images) + 0.4, 1.35 * len(rows) + 1.05 * n_views + 0.3)
    ratios = [1.3] * len(rows) + [1.0] * n_views
    grid = figure.subplots(len(ratios), len(images), squeeze=False, height_ratios=ratios)
    for i, image in enumerate(images):
        for axes, name in zip(grid[:, i], rows, strict=False):
            (draw_rotation if name == "rotate" else draw_crops)(axes, image, distribution, i)
        for axes, view in zip(grid[len(rows) :, i], views[:, i], strict=True):
            _show(axes, view)
    labels = {"rotate": "learned rotation", "crop": "likeliest crops"}
    for axes, name in zip(grid[:, 0], rows, strict=False):
        _row_label(axes, labels[name])
    _row_label(grid[len(rows) + (n_views - 1) // 2, 0], "sampled views")
    return figure


def _row_label(axes: Any, text: str) -> None:
    axes.text(-0.12, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=8, color=INK)


@torch.no_grad()
def likeliest_crops(aug: LearnedAugment, image: Tensor, k: int = 6) -> Any:
    """The likeliest crops of one image ``(C, H, W)`` on it."""
    distribution = aug.distribution(image)
    figure = new_figure(6.4, 6.4 * image.shape[1] / image.shape[2] + 0.3)
    draw_crops(figure.subplots(), image, distribution, 0, k)
    return figure


@torch.no_grad()
def contact_sheet(aug: LearnedAugment, image: Tensor, rows: int = 3, columns: int = 6, seed: int = 0) -> Any:
    """An image ``(C, H, W)``, framed in red, and samples of its learned distribution."""
    views, _ = aug.views(image, rows * columns - 1, "sample", torch.Generator().manual_seed(seed))
    height, width = views.shape[-2:]
    figure = new_figure(1.3 * columns, 1.3 * rows * height / width)
    for axes, view in zip(figure.subplots(rows, columns, squeeze=False).flat, [image, *views[:, 0]], strict=True):
        _show(axes, view)
        if view is image:
            axes.set_axis_on()
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(edgecolor=ACCENT, linewidth=2.5)
    return figure


def save(figure: Any, path: Any) -> None:
    """Write a figure to a file, all at once; the suffix says which kind."""
    path, drawn = Path(path), io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:])
    replace_file(path, drawn.getvalue())
