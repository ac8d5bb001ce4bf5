import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure import Probe, kept_interval

from .conftest import make_lively

pytestmark = pytest.mark.usefixtures("one_thread")


def learned(model, aug, data, steps):
    return Probe(model, data, progress=False).learned(aug, steps=steps)


class AngleLimit(nn.Module):
    """Class 0 while a bright bar is within ``limit`` degrees of upright, 1 beyond: the limit is planted."""

    def __init__(self, limit):
        super().__init__()
        self.limit = math.radians(limit)

    def forward(self, x):
        size = x.shape[-1]
        place = torch.arange(size, dtype=x.dtype) - (size - 1) / 2
        y, column = torch.meshgrid(place, place, indexing="ij")
        weight = x.mean(1)
        xx, yy, xy = ((weight * moment).sum((1, 2)) for moment in (column**2, y**2, column * y))
        tilt = 0.5 * torch.atan2(2 * xy, yy - xx)  # of the principal axis from upright, in (−90°, 90°]
        return torch.stack([torch.full_like(tilt, self.limit), tilt.abs()], 1)


def bars(n, size=33):
    images = torch.zeros(n, 3, size, size)
    images[:, :, 4:-4, size // 2 - 1 : size // 2 + 2] = torch.rand(n, 3, 1, 1) * 0.5 + 0.5
    return images


@pytest.mark.parametrize("limit", [20.0, 47.0, 75.0])
def test_a_planted_angle_limit_is_measured_within_a_step(limit):
    aug = make_lively(["rotate"])
    report = learned(AngleLimit(limit), aug, bars(6), 73)
    measured = report.ranges["angle"].measured
    assert (measured - torch.tensor([-limit, limit])).abs().max() <= 5  # the step is 5°


def test_scores_are_interval_arithmetic():
    aug, images = make_lively(["rotate"]), bars(8)
    ranges = learned(AngleLimit(47.0), aug, images, 73).ranges["angle"]
    with torch.no_grad():
        angle = aug.distribution(images).parts["rotate"].fields["angle"]
    assert torch.allclose(ranges.learned, torch.stack([angle.lo, angle.hi], 1), atol=1e-3)
    scores = ranges.scores()
    for i in range(8):
        (a, b), (c, d) = ranges.learned[i].tolist(), ranges.measured[i].tolist()
        shared = max(0.0, min(b, d) - max(a, c))
        assert scores["iou"][i] == pytest.approx(shared / ((b - a) + (d - c) - shared), abs=1e-5)
        assert scores["over_reach"][i] == pytest.approx(1 - shared / (b - a), abs=1e-5)
        assert scores["coverage"][i] == pytest.approx(shared / (d - c), abs=1e-5)


def test_a_learned_range_that_is_the_measured_one_is_perfect():
    aug = make_lively(["rotate"])
    report = learned(AngleLimit(47.0), aug, bars(5), 21)
    ranges = report.ranges["angle"]
    same = dataclasses.replace(ranges, learned=ranges.measured)
    scores = same.scores()
    assert np.allclose(scores["iou"], 1) and np.allclose(scores["over_reach"], 0) and np.allclose(scores["coverage"], 1)


def test_kept_interval_stops_at_the_first_change():
    grid = torch.tensor([-3.0, -2, -1, 0, 1, 2, 3])
    kept = torch.tensor([[1, 0, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0]]).bool().T
    assert kept_interval(grid, kept, 3).tolist() == [[-1.5, 1.5], [-3.0, 3.0], [-0.5, 0.5]]


@pytest.mark.parametrize("name", ["crop", "turn", "erase"])
def test_correlation_over_candidates_is_scipys(name):
    aug = make_lively([name])
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4))
    data = (torch.rand(12, 3, 32, 32), torch.randint(4, (12,)))
    report = learned(model, aug, data, 3)
    (family,) = aug.families
    with torch.no_grad():
        probs = aug.distribution(data[0]).parts[name].categorical.probs
        views = [
            aug.apply(data[0], family.candidates().index(slice(a, a + 1)).map(lambda f: f.expand(12)))
            for a in range(family.n_candidates)
        ]
        p = torch.stack([model(v).softmax(1)[torch.arange(12), data[1]] for v in views], 1)
    for i in range(12):
        assert report.ranks[name][i] == pytest.approx(spearmanr(probs[i], p[i]).statistic, abs=0.02)
    own, shuffled = report.ranks[name], report.ranks_shuffled[name]
    assert len(shuffled) == 12 and not np.allclose(own, shuffled)
    assert learned(model, aug, data[0], 3).ranks == {}  # labels are needed


def test_colour_fields_are_swept_alone_by_the_familys_own_operation():
    class RedOrNot(nn.Module):
        def forward(self, x):
            red, green, _ = x.mean((2, 3)).unbind(1)
            return torch.stack([red, green], 1)

    images = torch.zeros(3, 3, 8, 8)
    images[:, 0] = 0.9  # pure red: green overtakes it at a hue shift of 1/6 turn, and again at … 5/6
    report = learned(RedOrNot(), make_lively(["hsv"]), images, 101)
    assert set(report.ranges) == {"hue", "saturation", "value"}
    hue = report.ranges["hue"].measured
    assert hue[:, 1] == pytest.approx(1 / 6, abs=0.01)
    assert report.ranges["value"].measured[:, 1] == pytest.approx(2.0)


def test_rows_and_summary():
    aug = make_lively(["crop", "rotate"])
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4))
    data = torch.rand(12, 3, 32, 32), torch.randint(4, (12,))
    report = learned(model, aug, data, 5)
    figures = {(row["field"], row["figure"]): row for row in report.rows()}
    assert ("angle", "iou") in figures and ("crop", "above_shuffled") in figures
    assert figures["angle", "iou"]["low"] <= figures["angle", "iou"]["mean"] <= figures["angle", "iou"]["high"]
    assert len(report.per_image()) == 12 and "| angle" in report.summary()
    assert report.plot().axes


def test_errors():
    with pytest.raises(ia.InstaAugError, match="steps: expected a whole number ≥ 3"):
        learned(AngleLimit(1), make_lively(["rotate"]), bars(3), 2)
    with pytest.raises(ia.InstaAugError, match=r"aug: expected one for images of 3 channel\(s\), got one for 1"):
        learned(AngleLimit(1), ia.LearnedAugment(["rotate"], in_channels=1), bars(3), 5)
    with pytest.raises(ia.InstaAugError, match="aug: .*got str"):
        learned(AngleLimit(1), "rotate", bars(3), 5)
    with pytest.raises(ia.InstaAugError, match="they are on cpu, the transform's weights on meta"):
        learned(AngleLimit(1), make_lively(["rotate"]).to("meta"), bars(3), 5)
