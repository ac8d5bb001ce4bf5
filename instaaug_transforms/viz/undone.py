"""What a camera did wrong, what φ makes of it, and what a classifier says before and after."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..tta.views import normalizing
from ..utils.errors import InstaAugError
from ..utils.forward import forward
from ..utils.modes import frozen
from ..utils.outputs import check_logits
from .candidates import ranked_candidates
from .style import accent, ink, looked_at, new_figure, row_label, show_image


@torch.no_grad()
def put_right(
    aug: LearnedAugment, classifier: nn.Module, images: Tensor, name: Callable[[int], str] | Sequence[str] = str
) -> Any:
    """Two rows: images ``(N, C, H, W)`` as they come, and their likeliest view, each with the classifier's answer above.

    Args:
        aug: with a table of candidates.
        classifier: images to logits ``(B, classes)``, asked in eval mode; they are normalised for it where ``aug`` takes them so.
        images: N images.
        name: of a class, by its index; or the names of all classes in their order.

    Raises:
        InstaAugError: names of other classes than the classifier's.
    """
    if not callable(name) and (isinstance(name, str) or not isinstance(name, Sequence)):
        raise InstaAugError(f"name: expected a function of a class's index, or the names of all classes, got {name!r}")
    images, distribution = looked_at(aug, images)
    params, _ = ranked_candidates(aug, distribution, 1)
    views = aug.apply(images, params.index(0))
    if aug.output_size is not None:  # the size that the classifier takes
        images = aug.apply(images, distribution.identity())
    classifier = normalizing(aug, classifier)
    height, width = images.shape[-2:]
    figure = new_figure(1.5 * len(images), 2 * (1.5 * height / width + 0.3))
    grid = figure.subplots(2, len(images), squeeze=False)
    for row, (label, shown) in zip(grid, (("as taken", images), ("put right", views)), strict=True):
        with frozen(classifier):
            logits = check_logits(forward(classifier, shown)).float()
        if not callable(name) and len(name) != logits.shape[1]:
            raise InstaAugError(
                f"name: expected {logits.shape[1]} names, one for each class of the classifier, got {len(name)}"
            )
        best = logits.softmax(-1).max(-1)
        for axes, image, p, index in zip(row, shown, best.values.tolist(), best.indices.tolist(), strict=True):
            answer = (name(index) if callable(name) else name[index]).split(",")[0]
            show_image(axes, image, f"{answer[:16]} {100 * p:.0f} %", accent() if shown is views else ink(), 7)
        row_label(row[0], label)
    return figure
