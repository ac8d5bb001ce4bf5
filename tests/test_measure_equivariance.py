import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure import STANDARD, Probe, Transformation
from instaaug_transforms.measure.equivariance import alignment

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SHIFTS = STANDARD["translate_x"].with_magnitudes([-0.5, -0.25, 0, 0.25, 0.5])


def feature_maps(model, data, layer, metric="l2", **options):
    return Probe(model, data, progress=False, **options).equivariance(layer, metric=metric)


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_alignment_is_the_mean_cosine_of_all_pairs():
    v = torch.randn(9, 5) + 0.5
    oracle = torch.stack([torch.cosine_similarity(v[i], v[[j for j in range(9) if j != i]]).mean() for i in range(9)])
    assert torch.allclose(alignment(v), oracle, atol=1e-5)


def test_embeddings_that_all_move_the_same_way_are_aligned():
    add = Transformation("add", (0.0, 0.1, 0.2), 0.0, "", colour=lambda x, m: x + m)
    report = Probe(nn.Flatten(), DATA / 2, transformations=[add], progress=False).alignment()
    assert len(report.rows()) == 2
    for row in report.rows():
        assert row["alignment"] == pytest.approx(1, abs=1e-4) and row["low"] <= row["alignment"] <= row["high"]
        # Displacements to another image's embedding also differ by the images, which points anywhere.
        assert 0 < row["shuffled"] < 0.9 and row["above_shuffled"] == pytest.approx(1 - row["shuffled"], abs=1e-4)


def test_embeddings_that_move_anyhow_are_not_aligned():
    g = torch.Generator().manual_seed(0)
    weight = 1e5 * torch.randn(768, 64, generator=g)

    class Chaos(nn.Module):
        def forward(self, x):
            return (x.flatten(1) @ weight).sin()

    report = Probe(Chaos(), DATA, transformations=["brightness_down"], progress=False).alignment()
    assert max(abs(row["above_shuffled"]) for row in report.rows()) < 0.05


def test_a_circular_convolution_is_equivariant_to_circular_shifts():
    report = feature_maps(Convolution(), DATA, "conv", transformations=[SHIFTS], fills="wrap")
    for row in report.rows():
        assert row["relative"] >= 0.9999 and row["relative_unmoved"] < 0.5  # equivariant, not insensitive


def test_where_the_border_comes_in_it_is_left_out():
    for fill in (0.0, "reflection"):
        report = feature_maps(
            nn.Sequential(nn.Identity(), nn.Flatten()), DATA, "0", transformations=[SHIFTS], fills=fill
        )
        assert min(row["relative"] for row in report.rows()) >= 0.9999


def test_a_convolution_with_one_direction_is_not_equivariant_to_rotation():
    model = nn.Sequential(nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([-1.0, 0, 1]).reshape(1, 1, 1, 3))
    quarter = STANDARD["rotate"].with_magnitudes([0, 90])
    report = feature_maps(model, DATA[:, :1], "0", transformations=[quarter])
    assert abs(report.rows()[0]["relative"]) < 0.2
    isotropic = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Flatten())
    report = feature_maps(isotropic, DATA[:, :1], "0", transformations=[quarter])
    assert report.rows()[0]["relative"] > 0.999


def test_summaries():
    report = feature_maps(Convolution(), DATA, "conv", metric="cosine")
    assert {row["transformation"] for row in report.rows()} == {n for n, t in STANDARD.items() if t.kind == "geometry"}
    assert "| rotate" in report.summary() and all(math.isfinite(row["relative"]) for row in report.rows())


def test_errors():
    with pytest.raises(ia.InstaAugError, match="at least one geometric one, got hue"):
        feature_maps(Convolution(), DATA, "conv", transformations=["hue"])
    with pytest.raises(ia.InstaAugError, match=r"'head' gives \(1, 2\), maps"):
        feature_maps(Convolution(), DATA, "head")
    with pytest.raises(ia.InstaAugError, match="'pool' gives maps of 1 × 1, of which nothing stays inside"):
        model = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(3, 2)))
        feature_maps(model, DATA, "pool", transformations=["translate_x"])
