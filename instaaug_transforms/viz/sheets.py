"""Many views at once."""

from typing import Any

import torch
from torch import Tensor

from ..augment import LearnedAugment
from ..utils.errors import check_whole
from .crops import draw_crops
from .rotation import draw_rotation
from .style import accent, ink, looked_at, new_figure, panels, row_label, show_image, views_of


@torch.no_grad()
def learned_ranges(aug: LearnedAugment, images: Tensor, n_views: int = 4, seed: int = 0) -> Any:
    """One column per image ``(N, C, H, W)``: range of rotation, likeliest crops, sampled views — what the families allow."""
    check_whole("n_views", n_views)
    images, distribution = looked_at(aug, images)
    rows = [name for name in ("rotate", "crop") if name in distribution.parts]
    views = views_of(aug, images, distribution.stratified(n_views, torch.Generator().manual_seed(seed)))
    figure = new_figure(1.15 * len(images) + 0.4, 1.35 * len(rows) + 1.05 * n_views + 0.3)
    ratios = [1.3] * len(rows) + [1.0] * n_views
    grid = figure.subplots(len(ratios), len(images), squeeze=False, height_ratios=ratios)
    for i, image in enumerate(images):
        for axes, name in zip(grid[:, i], rows, strict=False):
            if name == "rotate":
                draw_rotation(axes, image, distribution, i)
            else:
                draw_crops(axes, image, distribution, i, k=3)
        for axes, view in zip(grid[len(rows) :, i], views[:, i], strict=True):
            show_image(axes, view)
    labels = {"rotate": "learned rotation", "crop": "likeliest crops"}
    for axes, name in zip(grid[:, 0], rows, strict=False):
        row_label(axes, labels[name])
    row_label(grid[len(rows) + (n_views - 1) // 2, 0], "sampled views")
    return figure


@torch.no_grad()
def contact_sheet(aug: LearnedAugment, image: Tensor, rows: int = 3, columns: int = 6, seed: int = 0) -> Any:
    """An image ``(C, H, W)``, framed in red, and samples of its learned distribution; of equal ones the first, with their number."""
    check_whole("rows × columns", rows * columns, 2)
    (image,), distribution = looked_at(aug, image, one=True)
    params = distribution.select(rows * columns - 1, "sample", torch.Generator().manual_seed(seed))
    views = views_of(aug, image[None], params)[:, 0]
    distinct, times = distinct_views(views)
    height, width = views.shape[-2:]
    figure, grid = panels(len(distinct) + 1, columns, 1.3, 1.3 * height / width + 0.2)
    titles = ["image", *(f"{n} of {len(views)} samples" if n > 1 else "sample" for n in times)]
    for axes, view, title in zip(grid, [image, *distinct], titles, strict=True):
        show_image(axes, view, title, accent() if title == "image" else ink(), 7)
    grid[0].set_axis_on()
    grid[0].set(xticks=[], yticks=[])
    grid[0].spines[:].set(edgecolor=accent(), linewidth=2.5)
    return figure


def distinct_views(views: Tensor) -> tuple[list[Tensor], list[int]]:
    """Of ``(n, C, H, W)`` the first of those that are alike, and how many there are of each."""
    found: list[Tensor] = []
    times: list[int] = []
    for view in views:
        same = next((i for i, other in enumerate(found) if torch.allclose(view, other, atol=1 / 512)), None)
        if same is None:
            found.append(view)
            times.append(1)
        else:
            times[same] += 1
    return found, times
