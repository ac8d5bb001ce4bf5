"""Crops by the location-related parameterisation (LRP; Miao et al., ICML 2023, algorithm 1)."""

import math

import torch
from torch import Tensor, nn

from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_number, several
from . import register
from .anchors import AnchorFamily
from .base import FeatureSpec, Limit, affine
from .boxes import BoxHead, check_grids, grid_boxes, half_cells

ASPECT = math.log(4 / 3)
FLIPS = (False, True, "centre")

# Anchor tables of the paper, by name: (scales, grids).
TABLES = {
    "paper_64px": ((1.0, 0.75, 0.375), (1, 8, 16)),  # 321 anchors, Tiny-ImageNet
    "paper_224px": ((1.0, 0.8, 0.6, 0.4), (1, 2, 3, 4)),  # 30 anchors, ImageNet
}


@register
class Crop(AnchorFamily):
    """Cut out a box ``cx, cy, w, h`` (fractions of the image, pixel-edge coordinates), mirrored if ``flip`` is 1.

    Args:
        scales: side of the boxes of each scale, fractions in (0, 1]; or the name of a table of the paper, which says the
            grids too: ``"paper_64px"`` (321 anchors) or ``"paper_224px"`` (30, the default).
        grids: how many centres per axis each scale has; the outermost lie at s/2 and 1 − s/2.
        flips: also offer every anchor mirrored left to right; ``"centre"``, only those in the middle of the image.
        jitter: move sampled boxes inside their cell of the grid and change their aspect by 3/4 … 4/3, area kept where it fits. The
            whole image stays as it is. ``log_prob`` is that of the anchor.
        initial_identity: p(whole image) before any fit.
        zooms: sides of further boxes in the middle of the image, e.g. ``(0.95, 0.9, 0.85, 0.75)``.

    Attributes:
        anchors: ``(A, 5)``, columns cx, cy, w, h, flip; scales in the given order, rows left to right, then zooms, then
            what is mirrored.
    """

    name = "crop"
    fields = ("cx", "cy", "w", "h", "flip", "anchor")
    stage = "geometry"
    order = 0
    stays_inside = True
    n_jitter = 3

    def __init__(
        self,
        scales: tuple[float, ...] | str = (1.0, 0.8, 0.6, 0.4),
        grids: tuple[int, ...] = (1, 2, 3, 4),
        flips: bool | str = False,
        jitter: bool = False,
        initial_identity: float = 0.9,
        zooms: tuple[float, ...] = (),
    ) -> None:
        if isinstance(scales, str):
            if scales not in TABLES:
                raise InstaAugError(f"crop: scales must be numbers or one of {', '.join(TABLES)}, got {scales!r}")
            scales, grids = TABLES[scales]
        scales, grids, zooms = (
            several(f"crop: {what}", given) for what, given in (("scales", scales), ("grids", grids), ("zooms", zooms))
        )
        if len(scales) != len(grids) or not scales or scales[0] != 1.0 or grids[0] != 1:
            raise InstaAugError(
                f"crop: scales and grids must have one entry per scale and start with the whole image (1.0 and 1), got "
                f"scales={scales}, grids={grids}"
            )
        check_grids("crop", scales, grids)
        for side in zooms:
            check_number("crop: zooms", side, "(0, 1)")
        if flips not in FLIPS:
            raise InstaAugError(f"crop: flips must be one of {', '.join(map(repr, FLIPS))}, got {flips!r}")
        self.scales, self.grids = tuple(map(float, scales)), tuple(map(int, grids))
        self.flips = flips if isinstance(flips, str) else bool(flips)  # 1 is True too
        self.jitter, self.zooms = bool(jitter), tuple(float(side) for side in zooms)
        levels = (*self.scales, *self.zooms), (*self.grids, *[1] * len(self.zooms))
        self._levels, boxes = levels, grid_boxes(*levels)
        middle = (boxes[:, :2] == 0.5).all(1)
        keep = torch.ones_like(middle) if self.flips is True else middle if flips else torch.zeros_like(middle)
        self._mirrored = keep.nonzero().flatten().tolist()
        flip = torch.cat([boxes.new_zeros(len(boxes)), boxes.new_ones(len(self._mirrored))])
        self.anchors = torch.cat([torch.cat([boxes, boxes[self._mirrored]]), flip[:, None]], 1)
        cells = half_cells(*levels)
        self.half_cell = torch.cat([cells, cells[self._mirrored]])
        super().__init__(dict(zip(self.fields, self.anchors.unbind(1), strict=False)), initial_identity)

    def limits(self) -> dict[str, Limit]:
        # What reaches over the edge repeats the border, which is of use; what is far off was meant in pixels.
        fix = "it is a fraction of the image; divide pixels by its width or height"
        centre, side, flip = Limit(-2, 3, fix=fix), Limit(0, 4, fix=fix), Limit(0, 1, whole=True, fix="1 mirrors")
        return {**super().limits(), "cx": centre, "cy": centre, "w": side, "h": side, "flip": flip}

    def nearest(self, params: AugmentParams) -> Tensor:
        box = torch.stack([params.cx, params.cy, params.w.log(), params.h.log()], -1)
        flip = params["flip"] if "flip" in params else torch.zeros_like(params.cx)
        anchors = self.anchors.to(box)
        table = torch.cat([anchors[:, :2], anchors[:, 2:4].log()], 1)
        distance = (box.unsqueeze(-2) - table).abs().sum(-1) + 10 * (flip.unsqueeze(-1) - anchors[:, 4]).abs()
        return distance.argmin(-1)

    def mirror_index(self) -> Tensor | None:
        if self.flips is not True:
            return None
        mirrored = self.anchors * torch.tensor([-1.0, 1, 1, 1, -1]) + torch.tensor([1.0, 0, 0, 0, 1])
        return (mirrored[:, None] - self.anchors).abs().sum(-1).argmin(-1)

    def head(self, spec: FeatureSpec) -> nn.Module:
        boxes = self.anchors[self.anchors[:, 4] == 0, :4]
        return BoxHead(boxes, self._levels[1], spec, self.initial_identity, self._mirrored)

    def entropy_band(self) -> tuple[float, float]:
        return (0.52, 0.61)

    def matrix(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        cx, cy, w, h = (params[name].float() for name in ("cx", "cy", "w", "h"))
        mirrored = w * (1 - 2 * params.flip.float()) if "flip" in params else w
        return affine(mirrored, h, x=2 * cx - 1, y=2 * cy - 1)

    @property
    def changes_frame(self) -> bool:
        return bool(self.jitter)

    def frame_aspect(self, params: AugmentParams, aspect: Tensor) -> Tensor:
        return aspect * (params.w / params.h).to(aspect)

    def box(self, params: AugmentParams) -> tuple[float, float, float, float, bool]:
        cx, cy, w, h = (params[name].item() for name in ("cx", "cy", "w", "h"))
        mirrored = "flip" in params and params.flip.item() == 1
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, mirrored

    def jittered(self, fields: dict[str, Tensor], uniform: Tensor) -> dict[str, Tensor]:
        """Fields moved by ``(*, B, 3)`` uniforms: across, down, aspect. The box stays inside the image."""
        anchor = fields["anchor"]
        move = (2 * uniform[..., :2] - 1) * self.half_cell.to(uniform)[anchor].unsqueeze(-1)
        smaller = fields["w"] < 1
        stretch = torch.where(smaller, ((2 * uniform[..., 2] - 1) * ASPECT / 2).exp(), 1.0)
        w, h = (fields["w"] * stretch).clamp(max=1), (fields["h"] / stretch).clamp(max=1)
        cx = torch.minimum(torch.maximum(fields["cx"] + move[..., 0], w / 2), 1 - w / 2)
        cy = torch.minimum(torch.maximum(fields["cy"] + move[..., 1], h / 2), 1 - h / 2)
        return {**fields, "cx": cx, "cy": cy, "w": w, "h": h}


def crop_within(first: AugmentParams, then: AugmentParams) -> AugmentParams:
    """The one crop, of the same shape, that shows what crop ``then`` shows of what crop ``first`` shows."""
    side = 1 - 2 * first.flip  # in a mirrored frame, left is right
    return AugmentParams(
        cx=first.cx + side * (then.cx - 0.5) * first.w,
        cy=first.cy + (then.cy - 0.5) * first.h,
        w=first.w * then.w,
        h=first.h * then.h,
        flip=first.flip + then.flip - 2 * first.flip * then.flip,
    )
