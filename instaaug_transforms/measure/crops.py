"""Where RandomResizedCrop's gain comes from: its parts as transforms of their own, and the share each recovers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from ..functional.inputs import check_size
from ..utils.errors import InstaAugError, check_one_of, check_whole
from ..utils.modes import seed_generators
from ..utils.report import Report, Row, Section
from ..utils.stats import UNDEFINED, Interval, mean_interval, ratio_interval

ARMS = ("none", "scale", "translation", "independent", "no_aspect", "full")


class RandomResizedCropPart(v2.RandomResizedCrop):
    """A part of `torchvision.transforms.v2.RandomResizedCrop`, drawn from its own distribution of boxes.

    RandomResizedCrop draws an area, an aspect ratio, then a place that keeps the box inside: scale and translation
    depend on each other. The arms keep the *marginal* distribution of what they keep, so they differ in nothing else (after
    Bouchacourt et al., NeurIPS 2021, who take it apart so). All but ``full`` are square; ``translation`` and
    ``independent`` may hang over the border, and show 0 there, as torchvision's crop pads. Takes what v2 transforms take.

    Args:
        size: (height, width) or one side of the result.
        arm: ``"none"``, the largest centred square m; ``"scale"``, the size of a drawn box, centred; ``"translation"``, m
            moved to the centre of a drawn box; ``"independent"``, the size of one drawn box at the centre of another;
            ``"no_aspect"``, RandomResizedCrop of ratio 1; ``"full"``, RandomResizedCrop as it is.
        scale: range of areas, fractions of the image's.
        ratio: range of width over height of ``full``.
        **resize: interpolation and antialias, as torchvision.

    Raises:
        InstaAugError: an unknown arm.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        arm: str = "full",
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        **resize: Any,
    ) -> None:
        check_one_of("arm", arm, ARMS)
        super().__init__(size, tuple(scale), tuple(ratio) if arm == "full" else (1.0, 1.0), **resize)
        self.arm = arm

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The box: ``top``, ``left``, ``height``, ``width`` in pixels, not always inside the image."""
        box = super().make_params(flat_inputs)
        if self.arm in ("full", "no_aspect"):
            return box
        image = dict(zip(("height", "width"), v2._utils.query_size(flat_inputs), strict=True)) | {"top": 0, "left": 0}
        side = box["height"] if self.arm in ("scale", "independent") else min(image["height"], image["width"])
        place = image if self.arm in ("none", "scale") else box  # its centre is the result's
        place = super().make_params(flat_inputs) if self.arm == "independent" else place
        top, left = place["top"] + (place["height"] - side) / 2, place["left"] + (place["width"] - side) / 2
        return {"top": math.floor(top + 0.5), "left": math.floor(left + 0.5), "height": side, "width": side}

    def extra_repr(self) -> str:
        return f"arm={self.arm!r}, {super().extra_repr()}"


@dataclass(frozen=True, repr=False)
class CropStatistics(Report):
    """What each arm does to images of one size, over many draws."""

    values: list[Row]

    def sections(self) -> list[Section]:
        figures = {key: (key, ".3f", 1) for key in self.values[0] if key != "arm"}
        return [Section("Crop boxes", "", self.values, {"arm": "arm"}, figures)]


def crop_statistics(
    image_size: int | tuple[int, int] = 64,
    arms: Sequence[str] = ARMS,
    n: int = 5000,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    seed: int = 0,
) -> CropStatistics:
    """Means and standard deviations of each arm's boxes, from ``n`` draws.

    Columns: ``area`` (fraction of the image), ``log_aspect`` (log of width over height), ``shift_x``, ``shift_y``
    (standard deviation of the box's centre, fractions of the image), ``visible`` (share of the box inside the image),
    ``area_shift`` (Pearson correlation of area with distance of the centre from the middle; 0 if one is constant).
    The global random state comes back as it was.

    Raises:
        InstaAugError: no draw, an image without pixels, or an unknown arm.
    """
    check_whole("n", n)
    height, width = check_size(image_size, "image_size")
    like = torch.empty(1, height, width)
    rows = []
    for arm in arms:
        part = RandomResizedCropPart(1, arm, scale, ratio)
        with torch.random.fork_rng(devices=[]):
            seed_generators(seed, torch.device("cpu"))
            boxes = [part.make_params([like]) for _ in range(n)]
        top, left, h, w = (np.array([box[key] for box in boxes], float) for key in ("top", "left", "height", "width"))
        area, x, y = h * w / (height * width), (left + w / 2) / width - 0.5, (top + h / 2) / height - 0.5
        inside = np.minimum(left + w, width) - np.maximum(left, 0), np.minimum(top + h, height) - np.maximum(top, 0)
        varies = np.ptp(area) > 0 and np.ptp(np.hypot(x, y)) > 0
        statistics = {
            "area": area.mean(),
            "area_std": area.std(),
            "log_aspect_std": np.log(w / h).std(),
            "shift_x": x.std(),
            "shift_y": y.std(),
            "visible": (inside[0] * inside[1] / (h * w)).mean(),
            "area_shift": np.corrcoef(area, np.hypot(x, y))[0, 1] if varies else 0.0,
        }
        rows.append({"arm": arm} | {name: float(value) for name, value in statistics.items()})
    return CropStatistics(rows)


@dataclass(frozen=True)
class GainRecovered:
    """How much of the full augmentation's gain one part brings.

    Attributes:
        share: (part − none) / (full − none), 1 is all of it. NaN if the interval of the full gain holds 0: there is no
            gain to have a share of.
        gain, full_gain: of the part and of the full augmentation, as differences of the mean.
    """

    share: Interval
    gain: Interval
    full_gain: Interval

    def summary(self) -> str:
        """One line, for 0/1 correctness in points."""
        gains = f"{self.gain.text('+.2f', 100)} of {self.full_gain.text('+.2f', 100)} points"
        if np.isnan(self.share.estimate):
            return f"{gains}: the full gain's interval holds 0, its share is undefined"
        return f"{self.share.text('.0f', 100)} % recovered: {gains}"


def gain_recovered(none: Any, part: Any, full: Any, seed: int = 0) -> GainRecovered:
    """The share of the gain of ``full`` over ``none`` that ``part`` recovers, intervals paired over images.

    Args:
        none, part, full: the same test images under the model of each arm: ``(N,)``, or ``(seeds, N)`` of several
            trainings, averaged first (the interval is then over images, for these trainings). Correctness, or any
            score that is better the larger.
        seed: of the bootstrap.

    Raises:
        InstaAugError: shapes that differ, or fewer than two images.
    """
    arrays = [np.asarray(values, dtype=float) for values in (none, part, full)]
    shapes = [values.shape for values in arrays]
    if len({shape[-1:] for shape in shapes}) > 1 or any(len(s) not in (1, 2) or s[-1] < 2 for s in shapes):
        raise InstaAugError(
            f"none, part, full: expected (N,) or (seeds, N) of the same N ≥ 2 images, got {', '.join(map(str, shapes))}"
        )
    none, part, full = (values.mean(0) if values.ndim == 2 else values for values in arrays)
    gain, full_gain = mean_interval(part - none, seed), mean_interval(full - none, seed)
    some_gain = full_gain.low > 0 or full_gain.high < 0
    share = ratio_interval(part - none, full - none, seed) if some_gain else UNDEFINED
    return GainRecovered(share, gain, full_gain)
