import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure import STANDARD, Probe, plots, prepare, within_class_pairs
from instaaug_transforms.measure.factors import NONE
from instaaug_transforms.utils.stats import Interval

pytestmark = pytest.mark.usefixtures("one_thread")

# Each closed under differences: what takes one image of the class to another is the same transformation again.
PLANTED = ("rotate", "translate_x", "translate_y", "hue")


class Pixels(nn.Module):
    def forward(self, x):
        return x.flatten(1)


@pytest.fixture(scope="module")
def planted():
    """24 classes; the images of a class are one pattern under one transformation, at magnitudes of its own grid."""
    g = torch.Generator().manual_seed(0)
    images, labels = [], []
    for label in range(24):
        t = STANDARD[PLANTED[label % len(PLANTED)]]
        pattern = torch.zeros(1, 3, 16, 16)
        pattern[..., 4:12, 4:12] = F.interpolate(torch.rand(1, 3, 4, 4, generator=g), size=(8, 8))
        for _ in range(12):
            magnitude = t.magnitudes[int(torch.randint(len(t.magnitudes), (1,), generator=g))]
            image = t.apply(pattern, magnitude) + 0.01 * torch.randn(pattern.shape, generator=g)
            images.append(image.clamp(0, 1))
            labels.append(label)
    return torch.cat(images), torch.tensor(labels)


@pytest.fixture(scope="module")
def report(planted):
    return Probe(Pixels(), planted, progress=False).factors(metric="l2")


def test_the_planted_factor_ranks_first(report):
    first = [report.ranking(label)[0]["factor"] == PLANTED[label % len(PLANTED)] for label in range(24)]
    assert np.mean(first) >= 0.95


def test_no_duplicates_and_no_repeats_of_the_identity(report):
    for label in (None, 3):
        names = [row["factor"] for row in report.ranking(label)]
        assert len(set(names)) == len(names) == 16 and names[-1] == NONE
        assert sum(row["share"] for row in report.ranking(label)) == pytest.approx(1)
    for k, t in enumerate(report.transformations):
        assert not np.isin(report.magnitude[:, k], [t.identity]).any()


def test_classes_are_specific_where_factors_were_planted_by_class(report):
    found = report.specificity()
    assert found.statistic > 0.5 and found.p_value <= 0.002
    share, chance = report.appearance()
    best = report.best[report.best >= 0]
    kinds = np.array([t.kind == "appearance" for t in report.transformations])
    assert share.estimate == pytest.approx(kinds[best].mean()) and chance == pytest.approx(8 / 15)


def test_specificity_keeps_its_level_where_classes_are_alike(report):
    """Random labels: p is uniform, so small values are as rare as they should be."""
    p_values = []
    for seed in range(20):
        order = torch.randperm(len(report.pairs), generator=torch.Generator().manual_seed(seed))
        shuffled = dataclasses.replace(report, after=report.after[order], before=report.before[order])
        p_values.append(shuffled.specificity(199).p_value)
    assert np.mean(np.array(p_values) < 0.1) <= 0.3 and np.median(p_values) > 0.2


def test_gain_is_the_share_of_the_distance_taken_away(report, planted):
    i, j = report.pairs[0].tolist()
    z = Pixels()(planted[0])
    assert report.before[0] == pytest.approx(float((z[i] - z[j]).norm()), rel=1e-4)
    t = STANDARD["hue"]
    tried = [float((Pixels()(t.apply(planted[0][i : i + 1], m))[0] - z[j]).norm()) for m in t.magnitudes if m != 0]
    k = report.names.index("hue")
    assert report.after[0, k] == pytest.approx(min(tried), rel=1e-4)
    assert report.gain[0, k] == pytest.approx(1 - min(tried) / report.before[0], abs=1e-4)


def test_pairs_are_disjoint_and_of_one_class(planted):
    images = prepare(planted)
    pairs = within_class_pairs(images, seed=2)
    assert len(pairs) == 24 * 6 and len(pairs.unique()) == pairs.numel()
    assert (images.targets[pairs[:, 0]] == images.targets[pairs[:, 1]]).all()
    assert len(within_class_pairs(images, 2)) == 48
    assert not torch.equal(pairs, within_class_pairs(images, seed=3))


def test_alignment_with_invariance(report, planted):
    measured = ia.measure_invariance(Pixels(), planted, fills=0.0, progress=False)
    across = report.alignment(measured)
    assert -1 <= across.statistic <= 1 and 0 < across.p_value <= 1
    inside = report.class_alignment(measured, resamples=199)
    assert -1 <= inside.statistic <= 1 and 0 < inside.p_value <= 1

    class Echo:
        """A report whose invariance is the gain itself."""

        images = measured.images

        def sweep(self, name):
            k, labels = report.names.index(name), measured.images.targets.numpy()
            by_class = {c: report.gain[report.targets == c, k].mean() for c in np.unique(labels)}
            return type("S", (), {"per_image": staticmethod(lambda _: np.array([by_class[c] for c in labels]))})

        def interval(self, sweep, measure):
            return Interval(float(sweep.per_image(measure).mean()), 0.0, 0.0)

    assert report.alignment(Echo()).statistic == pytest.approx(1)
    assert report.alignment(Echo()).p_value < 0.001
    perfect = report.class_alignment(Echo(), resamples=199)
    assert perfect.statistic == pytest.approx(1) and perfect.p_value == pytest.approx(2 / 200)


def test_rows_summary_and_picture(report):
    rows = report.rows()
    assert len(rows) == 24 * 16 and rows[0]["rank"] == 1
    text = report.summary()
    assert "144 within-class pairs of 24 classes" in text and "Cramér's V" in text
    assert len(report.plot().axes) == 3
    assert [axes.get_title(loc="left") for axes in plots.factors(report, most=5).axes] == ["", "5 of 24 classes", ""]
    assert [axes.get_title(loc="left") for axes in plots.factors(report).axes] == ["", "", ""]


def test_errors(planted, report):
    with pytest.raises(ia.InstaAugError, match="need labels"):
        Probe(Pixels(), planted[0], progress=False).factors()
    with pytest.raises(ia.InstaAugError, match="no class has two images"):
        Probe(Pixels(), (planted[0][:3], torch.arange(3)), progress=False).factors()
    for some in (0, -1, 2.5):
        with pytest.raises(ia.InstaAugError, match=f"pairs_per_class: expected a whole number ≥ 1.*got {some}"):
            Probe(Pixels(), planted, progress=False).factors(pairs_per_class=some)
    with pytest.raises(ia.InstaAugError, match="no pair of class 99"):
        report.ranking(99)


def test_an_image_that_comes_twice_is_no_pair(caplog):
    """Nothing can bring it closer to itself; without it, the same pairs say the same."""
    torch.manual_seed(0)
    images, labels = torch.rand(40, 3, 16, 16), torch.arange(40) // 2
    twice = torch.cat([images, images[:1], images[:1]]), torch.cat([labels, torch.tensor([20, 20])])
    report, more = (Probe(Pixels(), data, seed=1, progress=False).factors() for data in ((images, labels), twice))
    assert len(more.before) == len(report.before) == 20 and "1 of 21 pairs are the same to the model" in caplog.text
    assert np.isfinite(more.gain).all() and more.gain.min() > -100
    with pytest.raises(ia.InstaAugError, match="images of a class are all the same"):
        Probe(Pixels(), (images[:1].repeat(4, 1, 1, 1), labels[:4]), progress=False).factors()


def test_a_model_that_tells_the_images_of_a_class_apart_by_nothing_is_surveyed():
    """By their brightest pixel: a dark and a bright class. What there is to say of invariance is said."""

    class Brightest(nn.Module):
        def forward(self, x):
            return torch.stack([x.amax((1, 2, 3)), 1 - x.amax((1, 2, 3))], 1)

    images, labels = torch.rand(8, 3, 16, 16) / 4, torch.arange(8) % 2
    images[:, 0, 5, 5] = 0.25 + labels / 2
    survey = Probe(Brightest(), (images, labels), transformations=["hue", "posterize"], progress=False).survey()
    assert survey.factors is None and len(survey.alignment.rows()) > 0
    assert survey.invariance.sweep("hue").values["agreement"].shape == (11, 8)
