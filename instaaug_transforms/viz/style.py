"""What all pictures share: colours, the figure, an image in it, and the file."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor

from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..augment_distribution import AugmentDistribution
from ..functional.inputs import batched
from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_whole
from ..utils.files import drawn

# On a light background; what lies on photographs keeps these.
INK = "#1f1f1f"
ACCENT = "#c8102e"
FAINT = "#9a9a9a"
PALE = "#e6e6e6"
_ON_DARK = {INK: "#ececec", ACCENT: "#ff6b7d", FAINT: "#7d7d7d", PALE: "#383838"}
STYLES = ("-", "--", ":", "-.")


def new_figure(width: float, height: float) -> Any:
    """An empty figure of ``width`` × ``height`` inches, which notebooks show; no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InstaAugError("viz: matplotlib is not installed; pip install 'instaaug-transforms[plot]'") from error
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    # What notebooks ask for; pyplot, which they know, is not used here.
    figure._repr_png_ = partial(drawn, figure, "png")
    return figure


def panels(n: int, columns: int, width: float, height: float, more: float = 0.0) -> tuple[Any, list[Any]]:
    """``n`` panels of ``width`` × ``height`` inches, ``columns`` in a row, ``more`` inches below: figure and panels."""
    rows = -(-n // columns)
    figure = new_figure(width * columns, height * rows + more)
    return figure, [figure.add_subplot(rows, columns, k + 1) for k in range(n)]


def dark() -> AbstractContextManager:
    """``with viz.dark():`` pictures are drawn for a dark page: matplotlib's style ``dark_background``.

    Any style of matplotlib's is followed: text and lines are dark on its background, or light.
    """
    new_figure(1, 1)  # says what to install where matplotlib is missing
    from matplotlib import style

    return style.context("dark_background")


def on_page(colour: str) -> str:
    """One of the colours above, as it is on the background that matplotlib's style asks for."""
    from matplotlib import rcParams
    from matplotlib.colors import to_rgba

    *rgb, alpha = to_rgba(rcParams["figure.facecolor"])
    return _ON_DARK[colour] if alpha > 0.5 and sum(rgb) < 1.5 else colour


ink = partial(on_page, INK)  # what is
accent = partial(on_page, ACCENT)  # what was learned
faint = partial(on_page, FAINT)  # the rest: lines
pale = partial(on_page, PALE)  # the rest: areas


def show_image(
    axes: Any, image: Tensor, title: str = "", colour: str = "", size: float = 8, extent: Sequence[float] | None = None
) -> None:
    """An image ``(C, H, W)`` in [0, 1], of other than three or four channels their mean, and above it what it is, in ink by default."""
    pixels = image.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()
    pixels = pixels if pixels.shape[-1] in (3, 4) else pixels.mean(-1)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=size, color=colour or ink(), pad=2)


def row_label(axes: Any, text: str) -> None:
    """``text`` upright on the left of a panel."""
    axes.text(-0.12, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=8, color=ink())


def tidy(axes: Any, x: str = "", y: str = "", title: str = "") -> None:
    """A plain panel: two spines, small ticks; what its axes are, and what it shows."""
    axes.set_title(title.replace("_", " "), fontsize=9, color=ink())
    axes.set_xlabel(x, fontsize=8, color=ink())
    axes.set_ylabel(y, fontsize=8, color=ink())
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faint())
    axes.tick_params(labelsize=7, colors=ink())


def part_of(distribution: AugmentDistribution, family: str) -> Any:
    """The distribution of one family.

    Raises:
        InstaAugError: a transform that has no such family.
    """
    if family not in distribution.parts:
        have = ", ".join(distribution.parts)
        raise InstaAugError(f"viz: this picture shows {family!r}, and the transform's families are {have}")
    return distribution.parts[family]


def part_at(distribution: AugmentDistribution, family: str, image: Tensor, index: int) -> Any:
    """The distribution of one family, for a drawing of one image ``(C, H, W)`` at its place in the batch.

    Raises:
        InstaAugError: no distribution, none of that family, no single image, or no such place.
    """
    if not isinstance(distribution, AugmentDistribution):
        raise InstaAugError(
            f"distribution: expected what aug.distribution(images) gives, got {type(distribution).__name__}"
        )
    if not isinstance(image, Tensor) or image.ndim != 3:
        given = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InstaAugError(f"image: expected one image (C, H, W), got {given}; of a batch, images[{index}]")
    n = distribution.batch_shape[0]
    check_whole("index", index, -n, n - 1)
    return part_of(distribution, family)


def looked_at(aug: LearnedAugment, images: Tensor, one: bool = False) -> tuple[Tensor, AugmentDistribution]:
    """``(C, H, W)`` or ``(N, C, H, W)``, as ``aug`` takes them, to the latter in [0, 1], not normalised; and their distribution.

    Raises:
        InstaAugError: they are no such images; or several where the picture shows ``one``; or ``aug`` is no `LearnedAugment`.
    """
    batch, _ = check_aug(aug).prepare(batched(images))
    if one and len(batch) > 1:
        raise InstaAugError(f"image: this picture shows one image (C, H, W), got {len(batch)}; give images[0], say")
    return batch.float(), aug.predict(batch)


def views_of(aug: LearnedAugment, batch: Tensor, params: AugmentParams) -> Tensor:
    """Views ``(n, N, C, H, W)`` of images ``(N, C, H, W)`` in [0, 1] by ``(n, N)`` parameters."""
    n = params.batch_shape[0]
    return aug.apply(batch.repeat(n, 1, 1, 1), params.flatten()).unflatten(0, (n, -1))
