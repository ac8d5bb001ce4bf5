"""What all pictures share: colours, the figure, an image in it, and the file."""

import io
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..functional.inputs import batched
from ..utils.errors import InstaAugError

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
    figure._repr_png_ = partial(_png, figure)  # what notebooks ask for; pyplot, which they know, is not used here
    return figure


def _png(figure: Any) -> bytes:
    drawing = io.BytesIO()
    figure.savefig(drawing, format="png")
    return drawing.getvalue()


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


def ink() -> str:
    """What is."""
    return on_page(INK)


def accent() -> str:
    """What was learned."""
    return on_page(ACCENT)


def faint() -> str:
    """The rest: lines."""
    return on_page(FAINT)


def pale() -> str:
    """The rest: areas."""
    return on_page(PALE)


def probability_colours() -> Any:
    """Grey for the unlikely to the accent for the likely; darker as it goes, so that it survives a black and white print."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("probability", ["#c4c4c4", "#d9697a", ACCENT, "#7d0a1d"])


def show_image(axes: Any, image: Tensor, extent: tuple[float, float, float, float] | None = None) -> None:
    """An image ``(C, H, W)`` in [0, 1], one or three channels."""
    pixels = image.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    axes.set_axis_off()


def row_label(axes: Any, text: str) -> None:
    """``text`` upright on the left of a panel."""
    axes.text(-0.12, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=8, color=ink())


def tidy(axes: Any) -> None:
    """A plain panel: two spines, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faint())
    axes.tick_params(labelsize=7, colors=ink())


def part_of(aug: LearnedAugment, distribution: AugmentDistribution, family: str) -> Any:
    """The distribution of one family.

    Raises:
        InstaAugError: a transform that has no such family.
    """
    if family not in distribution.parts:
        have = ", ".join(distribution.parts)
        raise InstaAugError(f"viz: this picture shows {family!r}, and the transform's families are {have}")
    return distribution.parts[family]


def as_batch(images: Tensor) -> Tensor:
    """``(C, H, W)`` or ``(N, C, H, W)``, of any dtype, to the latter, float in [0, 1]."""
    return to_dtype(batched(images), torch.float32, scale=True)
