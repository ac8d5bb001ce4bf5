"""The local error of equivariance: the Lie derivative of a model along a transformation, by forward-mode differentiation."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.transforms.v2 import functional as F

from ..utils.errors import InstaAugError, check_distinct, check_one_of, reason
from ..utils.report import Report, Row, Section
from ..utils.stats import Interval, mean_interval
from .session import Session
from .warp import Outside, neighbours

# Velocity of a pixel at (x, y), in pixels from the centre (x right, y down), per unit of each generator.
GEOMETRY: dict[str, Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]] = {
    "rotate": lambda x, y, h, w: (y, -x),  # radians, counter-clockwise
    "translate_x": lambda x, y, h, w: (torch.full_like(x, w), torch.zeros_like(x)),  # widths, right
    "translate_y": lambda x, y, h, w: (torch.zeros_like(x), torch.full_like(x, h)),  # heights, down
    "shear_x": lambda x, y, h, w: (-y, torch.zeros_like(x)),
    "shear_y": lambda x, y, h, w: (torch.zeros_like(x), -x),
    "zoom": lambda x, y, h, w: (x, y),  # log of the size
}
APPEARANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": lambda x: x,  # d/ds of (1 + s)·x
    "contrast": lambda x: x - (F.rgb_to_grayscale(x) if x.shape[1] == 3 else x).mean((1, 2, 3), keepdim=True),
}
GENERATORS = (*GEOMETRY, *APPEARANCE)


def tangent(images: Tensor, generator: str, fill: Outside = 0.0) -> Tensor:
    """d/ds of t_s(x) at the identity, of the shape of ``images`` ``(B, C, H, W)``.

    For a motion with velocity v that is −v·∇x, ∇x by central differences: the symmetric derivative of bilinear
    resampling, whose one-sided ones differ at pixel centres. Units: radians, widths and heights, shear, log size,
    factors. Clamping to [0, 1] is left out.
    """
    if generator in APPEARANCE:
        return APPEARANCE[generator](images)
    height, width = images.shape[-2:]
    slopes = torch.gradient(neighbours(images, fill), dim=(-2, -1))
    along_y, along_x = (slope[..., 1:-1, 1:-1] for slope in slopes)
    places = (torch.arange(n, device=images.device) - (n - 1) / 2 for n in (height, width))
    y, x = torch.meshgrid(*places, indexing="ij")
    right, down = GEOMETRY[generator](x, y, height, width)
    return -(right * along_x + down * along_y)


@dataclass(frozen=True, repr=False)
class LieReport(Report):
    """Local errors per generator and image.

    Attributes:
        layer: what was differentiated.
        equivariant: whether maps were moved back (`Probe.lie`).
        values: generator to ``(N,)``: ‖L f(x)‖² / D, D elements.
        size: ``(N,)``: ‖f(x)‖² / D.
        seed: of intervals.
    """

    layer: str
    equivariant: bool
    values: dict[str, Tensor]
    size: Tensor
    seed: int

    def interval(self, generator: str) -> Interval:
        """The expected local error LEE = E_x ‖L f(x)‖² / D, with its interval over images."""
        return mean_interval(self.values[generator].numpy(), self.seed)

    def records(self) -> list[Row]:
        """A row per generator: ``lee`` with its interval, and ``relative`` = √(E‖L f‖² / E‖f‖²), free of f's scale."""
        size = float(self.size.mean()) or math.nan
        return [
            {"generator": name, "lee": self.interval(name), "relative": math.sqrt(v.mean() / size), "n": len(v)}
            for name, v in self.values.items()
        ]

    def sections(self) -> list[Section]:
        text = (
            f"How fast the embedding begins to move, {self.layer}, n = {len(self.size)} images: the local error of "
            f"{'equivariance' if self.equivariant else 'invariance'}, LEE = E ‖L f(x)‖² / D (Gruver et al. 2023), per radian, "
            "image width, shear, log size or factor. Relative: √(E ‖L f‖² / E ‖f‖²)."
        )
        figures = {"LEE [95 %]": ("lee", ".3g", 1), "relative": ("relative", ".3g", 1)}
        return [Section("Local error", text, self.records(), {"generator": "generator"}, figures)]


def local_errors(session: Session, generators: Sequence[str], fill: Outside, equivariant: bool) -> LieReport:
    """The Lie derivative of the session's layer along each generator; see `Probe.lie`."""
    check_distinct("generators", generators)
    for name in generators:
        check_one_of("generators", name, GEOMETRY if equivariant else GENERATORS)
    values: dict[str, list[Tensor]] = {name: [] for name in generators}
    sizes = []
    with session.progress_bar("Lie derivative", len(session.images) * len(generators)) as bar:
        for x in session.batches():
            for name in generators:
                value, moved = derivative(lambda batch: session.forward(batch)[0], x, tangent(x, name, fill))
                if equivariant:
                    session.check_maps(value)
                    moved = moved - tangent(value, name, "wrap" if fill == "wrap" else "border")
                values[name].append(moved.flatten(1).square().mean(1).cpu())
                bar.update(len(x))
            sizes.append(value.flatten(1).square().mean(1).cpu())
    joined = {name: torch.cat(parts) for name, parts in values.items()}
    return LieReport(session.layer, equivariant, joined, torch.cat(sizes), session.seed)


def derivative(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Value of ``function`` at ``x`` and its derivative along ``direction``, in one forward-mode pass."""
    # The fused attention kernels have no forward-mode derivative; the plain one has. PyTorch's own rules for forward
    # mode are scripted when they are first used, about which it warns.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`")
        try:
            return jvp(function, (x,), (direction,))
        except RuntimeError as error:
            why = f"it has no forward-mode derivative ({reason(error)})"
            raise InstaAugError(f"model: {why}; of what averages views, give the classifier inside") from error
