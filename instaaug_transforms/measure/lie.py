"""The local error of equivariance: the Lie derivative of a model along a transformation, by forward-mode differentiation."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from ..utils.errors import InstaAugError
from .embed import flat
from .images import NormalizationArgument, prepare
from .probe import Probe, probing
from .stats import Interval, mean_interval
from .tables import Row, Table
from .warp import Fill, check_fill, neighbours

# Velocity of a pixel at (x, y), in pixels from the centre (x right, y down), per unit of each generator.
Velocity = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
GEOMETRY: dict[str, Velocity] = {
    "rotate": lambda x, y, h, w: (y, -x),  # radians, counter-clockwise
    "translate_x": lambda x, y, h, w: (torch.full_like(x, w), torch.zeros_like(x)),  # widths, right
    "translate_y": lambda x, y, h, w: (torch.zeros_like(x), torch.full_like(x, h)),  # heights, down
    "shear_x": lambda x, y, h, w: (y, torch.zeros_like(x)),
    "shear_y": lambda x, y, h, w: (torch.zeros_like(x), x),
    "zoom": lambda x, y, h, w: (x, y),  # log of the size
}
APPEARANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": lambda x: x,  # d/ds of (1 + s)·x
    "contrast": lambda x: x - _grey(x).mean((-2, -1), keepdim=True),
}
GENERATORS = (*GEOMETRY, *APPEARANCE)


def _grey(images: Tensor) -> Tensor:
    return F.rgb_to_grayscale(images) if images.shape[1] == 3 else images.mean(1, keepdim=True)


def tangent(images: Tensor, generator: str, fill: Fill = 0.0) -> Tensor:
    """d/ds of t_s(x) at the identity, of the shape of ``images`` ``(B, C, H, W)``.

    For a motion with velocity v that is −v·∇x, ∇x by central differences: the symmetric derivative of bilinear
    resampling, whose one-sided ones differ at pixel centres. Units: radians, widths and heights, shear, log size,
    factors. Clamping to [0, 1] is left out.
    """
    if generator in APPEARANCE:
        return APPEARANCE[generator](images)
    if generator not in GEOMETRY:
        raise InstaAugError(f"generators: unknown {generator!r}; known are {', '.join(GENERATORS)}")
    height, width = images.shape[-2:]
    wide = neighbours(images, fill)
    along_x = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
    along_y = (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    y, x = torch.meshgrid(y, x, indexing="ij")
    right, down = GEOMETRY[generator](x, y, height, width)
    return -(right * along_x + down * along_y)


@dataclass(frozen=True)
class LieReport(Table):
    """Local errors per generator and image.

    Attributes:
        layer: what was differentiated.
        equivariant: whether maps were moved back (`lie_derivative`).
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

    def rows(self) -> list[Row]:
        """A row per generator: ``lee``, interval, and ``relative`` = √(E‖L f‖² / E‖f‖²), free of f's scale."""
        rows = []
        for generator, values in self.values.items():
            found = self.interval(generator)
            relative = math.sqrt(values.mean() / self.size.mean()) if self.size.mean() > 0 else math.nan
            rows.append(
                {"generator": generator, "lee": found.estimate, "low": found.low, "high": found.high}
                | {"relative": relative, "n": len(values)}
            )
        return rows

    def summary(self) -> str:
        lines = [
            [row["generator"], Interval(row["lee"], row["low"], row["high"]).text(".3g"), f"{row['relative']:.3g}"]
            for row in self.rows()
        ]
        kind = "equivariance" if self.equivariant else "invariance"
        table = tabulate(lines, ["generator", "LEE [95 %]", "relative"], tablefmt="github", disable_numparse=True)
        return f"Local error of {kind}, {self.layer}, n = {len(self.size)} images.\n\n{table}"


def lie_derivative(
    model: nn.Module,
    data: Any,
    max_images: int | None = None,
    *,
    generators: Sequence[str] = GENERATORS,
    fill: Fill = "border",
    layer: str | None = None,
    equivariant: bool = False,
    normalization: NormalizationArgument = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool | None = None,
) -> LieReport:
    """The local equivariance error (Gruver et al., *The Lie Derivative for Measuring Learned Equivariance*, ICLR 2023).

    L_X f(x) = d/ds|₀ ρ₂(s)⁻¹ f(ρ₁(s) x), by one forward-mode pass, `torch.func.jvp`, per generator;
    LEE(f) = E_x ‖L_X f(x)‖² / D. Local: it says how fast the answer begins to change, not how far.

    Args:
        model, data, max_images, normalization: as in `measure_invariance`.
        generators: of `GENERATORS`.
        fill: how images are continued by one pixel; ``"border"`` adds no edge of its own.
        layer: what is differentiated, see `embedding`; the penultimate layer where None.
        equivariant: move ``(B, C, h, w)`` maps back by the same generator (ρ₂ = ρ₁) before comparing; otherwise ρ₂ is
            the identity and the error is that of invariance.
        batch_size: images per forward.
        seed: of the draw and of intervals.
        progress: show a bar; None where the output is a terminal.

    Raises:
        InstaAugError: an unknown generator, or ``equivariant`` with a layer that gives no maps or a generator that
            moves nothing.
    """
    check_fill(fill)
    generators = [generators] if isinstance(generators, str) else list(generators)
    for name in generators:
        if name not in GENERATORS or (equivariant and name not in GEOMETRY):
            allowed = GEOMETRY if equivariant else GENERATORS
            raise InstaAugError(f"generators: expected of {', '.join(allowed)}, got {name!r}")
    images = prepare(data, max_images, normalization, seed, progress)
    values: dict[str, list[Tensor]] = {name: [] for name in generators}
    sizes = []
    disable = None if progress is None else not progress
    with probing(model, images, layer, batch_size=batch_size, progress=progress) as probe:
        bar = tqdm(total=len(images) * len(generators), desc="Lie derivative", unit="image", disable=disable)
        with bar:
            for x in probe.batches():
                for name in generators:
                    value, moved = _one(probe, x, name, fill, equivariant)
                    values[name].append(flat(moved).square().mean(1).cpu())
                    bar.update(len(x))
                sizes.append(flat(value).square().mean(1).cpu())
    found = {name: torch.cat(parts) for name, parts in values.items()}
    return LieReport(probe.layer, equivariant, found, torch.cat(sizes), seed)


def derivative(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Value of ``function`` at ``x`` and its derivative along ``direction``, in one forward-mode pass."""
    # The fused attention kernels have no forward-mode derivative; the plain one has. PyTorch's own rules for forward
    # mode are scripted when they are first used, about which it warns.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)
        return jvp(function, (x,), (direction,))


def _one(probe: Probe, x: Tensor, generator: str, fill: Fill, equivariant: bool) -> tuple[Tensor, Tensor]:
    value, moved = derivative(lambda batch: probe.forward(batch)[0], x, tangent(x, generator, fill))
    if equivariant:
        if value.ndim != 4:
            raise InstaAugError(
                f"layer: {probe.layer} gives {tuple(value.shape)}; equivariant=True needs maps (B, C, h, w)"
            )
        moved = moved - tangent(value, generator, "wrap" if fill == "wrap" else "border")
    return value, moved
