import csv

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure import MEASURES, STANDARD, plots

pytestmark = pytest.mark.usefixtures("one_thread")

GEOMETRY = [name for name, t in STANDARD.items() if t.kind == "geometry"]


class Flat(nn.Module):
    """Embedding and output: the pixels."""

    def forward(self, x):
        return x.flatten(1)


class Unrelated(nn.Module):
    """Outputs that have nothing to do with each other, however little the image changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", 1e5 * torch.randn(3 * 16 * 16, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return (x.flatten(1) @ self.weight).sin()


class Circular(nn.Module):
    """A circular convolution and global pooling: exactly invariant to circular shifts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular")

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(0)
    return torch.rand(120, 3, 16, 16, generator=g), torch.randint(4, (120,), generator=g)


def sweeps(model, data, **kwargs):
    return ia.measure_invariance(model, data, progress=False, **kwargs)


MEAN, STD = (0.48, 0.45, 0.4), (0.23, 0.22, 0.25)


@pytest.mark.parametrize("normalised", [False, True])
def test_identity_moves_nothing_for_every_transformation(data, normalised):
    model = ia.timm.create_classifier("test_resnet", num_classes=4)
    images, labels = data[0][:12], data[1][:12]
    arguments = {}
    if normalised:
        model, arguments = model.model, {"normalization": (MEAN, STD)}
        images = (images - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    report = sweeps(model, (images, labels), **arguments)
    assert len(report.sweeps) == 15 + 6  # two fills where a fill shows
    for sweep in report.sweeps:
        at = {name: values[sweep.identity] for name, values in sweep.values.items()}
        for metric in ("cosine", "l2"):
            assert at[f"d_{metric}"].max() <= 1e-6 and (at[f"relative_{metric}"] == 1).all()
            assert (at[f"b_{metric}"] > 0).all()
        assert (at["agreement"] == 1).all()
        away = np.delete(sweep.values["d_cosine"], sweep.identity, axis=0)
        assert away.max() > 1e-6
    assert report.noise <= 1e-6


def test_normalised_data_give_what_plain_data_give(data):
    plain = ia.timm.create_classifier("test_resnet", num_classes=4)
    report = sweeps(plain, (data[0][:12], data[1][:12]), transformations=["rotate", "solarize"])
    mean, std = (value.reshape(-1).tolist() for value in (plain.mean, plain.std))
    normalised = (data[0][:12] - plain.mean) / plain.std
    other = sweeps(
        plain.model, (normalised, data[1][:12]), transformations=["rotate", "solarize"], normalization=(mean, std)
    )
    for ours, theirs in zip(report.sweeps, other.sweeps, strict=True):
        assert np.allclose(ours.values["d_l2"], theirs.values["d_l2"], atol=1e-3)


@pytest.mark.parametrize("axis", ["translate_x", "translate_y"])
def test_a_circular_convolution_is_invariant_to_circular_shifts(data, axis):
    shifts = STANDARD[axis].with_magnitudes(np.arange(-8, 9) / 16)
    (sweep,) = sweeps(Circular(), data, transformations=[shifts], fills="wrap").sweeps
    assert sweep.values["relative_cosine"].min() >= 0.9999 and sweep.values["relative_l2"].min() >= 0.9999
    (black,) = sweeps(Circular(), data, transformations=[shifts], fills=0.0).sweeps
    assert black.per_image("relative_l2").mean() < 0.9  # the fill changes the answer


def test_unrelated_outputs_have_no_invariance(data):
    report = sweeps(Unrelated(), data, fills="wrap", transformations=[*GEOMETRY, "brightness_down", "hue"])
    for sweep in report.sweeps:
        for metric in ("cosine", "l2"):
            assert abs(sweep.per_image(f"relative_{metric}").mean()) < 0.01, sweep.name


def test_distances_are_closed_forms(data):
    (sweep,) = sweeps(Flat(), data, transformations="brightness_down").sweeps
    x = data[0].flatten(1).double().numpy()
    for m, factor in enumerate(sweep.magnitudes):
        assert np.allclose(sweep.values["d_l2"][m], (1 - factor) * np.linalg.norm(x, axis=1), rtol=1e-4, atol=1e-5)
        table = cdist(x, factor * x)
        b = (table.sum(1) - table.diagonal()) / (len(x) - 1)
        assert np.allclose(sweep.values["b_l2"][m], b, rtol=1e-4)
        assert np.allclose(sweep.values["d_cosine"][m], 0, atol=1e-6)
    relative = (sweep.values["b_l2"] - sweep.values["d_l2"]) / sweep.values["b_l2"]
    assert np.allclose(sweep.values["relative_l2"], relative, atol=1e-6)


def test_predictions_of_a_model_that_answers_by_brightness(data):
    class Bright(nn.Module):
        def forward(self, x):
            level = x.mean((1, 2, 3))
            return torch.stack([level, 0.3 - level], 1) * 50

    class Probable(Bright):
        def forward(self, x):
            return super().forward(x).softmax(1)

    images = torch.rand(40, 3, 8, 8)  # mean about 0.5: class 0 until a factor of about 0.3 halves it to 0.15
    report = sweeps(Bright(), (images, torch.zeros(40, dtype=torch.long)), transformations="brightness_down")
    (sweep,) = report.sweeps
    factors, level = np.array(sweep.magnitudes), images.mean((1, 2, 3)).numpy()
    kept = factors[:, None] * level > 0.15
    assert np.array_equal(sweep.values["agreement"], kept) and np.array_equal(sweep.values["accuracy"], kept)
    p = 1 / (1 + np.exp(-50 * (2 * factors[:, None] * level - 0.3)))
    assert np.allclose(sweep.values["p_true"], p, atol=1e-4) and (report.accuracy == 1).all()
    # Of a model with a softmax inside another one made 0.73 of all that is certain.
    (sweep,) = sweeps(Probable(), (images, torch.zeros(40, dtype=torch.long)), transformations="brightness_down").sweeps
    assert np.allclose(sweep.values["p_true"], p, atol=1e-4)


def test_tables_agree_with_each_other(data, tmp_path):
    report = sweeps(Circular(), data, transformations=["rotate", "hue"], max_images=50, seed=3)
    rows = report.rows()
    assert len(rows) == 11 * 3 and set(MEASURES) < set(rows[0]) and rows[0]["n"] == 50
    sweep = report.sweep("hue")
    per_image = [row for row in report.per_image() if row["transformation"] == "hue"]
    assert [row["image"] for row in per_image] == report.images.index.tolist()
    assert np.allclose([row["d_l2"] for row in per_image], sweep.per_image("d_l2"))
    per_class = [row for row in report.per_class() if row["transformation"] == "hue"]
    mean = sum(row["n"] * row["d_l2"] for row in per_class) / 50
    summary = next(row for row in report.summary_rows() if row["transformation"] == "hue")
    assert mean == pytest.approx(sweep.per_image("d_l2").mean(), rel=1e-5) == summary["d_l2"]
    assert summary["d_l2_low"] < summary["d_l2"] < summary["d_l2_high"]
    assert "| hue" in report.summary() and "n = 50" in report.summary()
    report.to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert float(read[5]["d_l2"]) == rows[5]["d_l2"] and len(read) == len(rows)


def test_a_picture_of_some_classes_says_of_how_many(data):
    report = sweeps(Circular(), data, transformations=["hue"], max_images=50, seed=3)
    n = len(report.images.targets.unique())
    assert n > 1 and plots.per_class(report, most=1).axes[0].get_title(loc="left") == f"1 of {n} classes"
    assert plots.per_class(report, most=n).axes[0].get_title(loc="left") == ""


def test_pandas_is_optional(data, monkeypatch):
    report = sweeps(Flat(), data, transformations="hue", max_images=10)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ia.InstaAugError, match="pandas is not installed"):
        report.to_pandas()
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame.shape == (11, 6 + len(MEASURES))


def test_images_alone_have_no_accuracy(data):
    report = sweeps(Circular(), data[0], transformations="rotate")
    assert np.isnan(report.sweeps[0].values["accuracy"]).all() and report.per_class() == []
    assert not np.isnan(report.sweeps[0].values["agreement"]).any() and "top-1 %" in report.summary()


def test_labels_that_the_model_does_not_have_are_said(data, caplog):
    """They begin at 1, say: accuracy was not a number, without a word."""
    report = sweeps(Circular(), (data[0], data[1] + 98), transformations="rotate")
    assert np.isnan(report.accuracy).all() and f"the largest label is {int(data[1].max()) + 98}, of " in caplog.text


@pytest.mark.parametrize("answer", [lambda x: x.flatten(1).sum(1, keepdim=True), lambda x: x], ids=["number", "maps"])
def test_outputs_without_classes_keep_no_answer(data, answer, tmp_path):
    """Of one number the largest is always itself: 100 % would be no measurement."""

    class Answers(nn.Module):
        def forward(self, x):
            return answer(x)

    probe = ia.measure.Probe(Answers(), (data[0], torch.zeros_like(data[1])), transformations="rotate", progress=False)
    report = probe.invariance()
    for measure in ("agreement", "accuracy", "p_true"):
        assert np.isnan(report.sweeps[0].values[measure]).all()
    assert report.sweeps[0].values["agreement"].shape == (11, 120) and np.isnan(report.accuracy).all()
    report.plot(tmp_path / "a.png")
    with pytest.raises(ia.InstaAugError, match=r"model: expected logits \(B, classes\)"):
        probe.learned(ia.LearnedAugment(["rotate"]), steps=3)


def test_a_model_that_gives_nan_is_named(data):
    """argmax takes NaN for the first class: all answers would be kept."""

    class Standardises(nn.Module):
        def forward(self, x):
            return ((x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True)).mean(2).flatten(1)

    grey = data[0].clone()
    grey[:5] = 0.5
    for measure in ("invariance", "factors", "lie"):
        probe = ia.measure.Probe(Standardises(), (grey, data[1]), transformations="hue", progress=False)
        with pytest.raises(ia.InstaAugError, match="model: it gives NaN for 5 of 120 images"):
            getattr(probe, measure)()


def test_a_noisy_model_shows_its_noise_at_the_identity(data):
    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1) + 0.1 * torch.randn(len(x), 768)

    report = sweeps(Noisy(), data, transformations="rotate")
    assert 2 < report.noise < 6 and report.sweeps[0].values["relative_l2"][5].mean() < 0.8


def test_the_model_comes_back_as_it_was_and_batches_do_not_matter(data):
    model = ia.timm.create_classifier("test_resnet", num_classes=4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = sweeps(model, data, transformations="rotate", max_images=20, batch_size=7)
    two = sweeps(model, data, transformations="rotate", max_images=20, batch_size=20)
    assert np.allclose(one.sweeps[0].values["d_l2"], two.sweeps[0].values["d_l2"], atol=1e-3)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_any_layer(data):
    model = ia.timm.create_classifier("test_resnet", num_classes=4).eval()
    net = model.model

    def stem(x):
        return net.maxpool(net.act1(net.bn1(net.conv1(x))))

    last = sweeps(model, data, transformations="translate_x", max_images=20)
    early = sweeps(model, data, transformations="translate_x", max_images=20, layer="model.layer1")
    assert last.layer == "input of model.fc" and early.layer == "model.layer1"
    images = data[0][early.images.index]
    with torch.no_grad():
        maps = [
            model.model.layer1(stem((x - model.mean) / model.std))
            for x in (images, STANDARD["translate_x"].apply(images, 0.5))
        ]
    oracle = (maps[0] - maps[1]).flatten(1).norm(dim=1)
    assert np.allclose(early.sweeps[0].values["d_l2"][-1], oracle, rtol=1e-4)


def test_a_planted_angle_limit_is_found_within_a_step():
    """The answer changes where |angle| exceeds 30°: what agreement says is what was planted."""
    from .test_measure_agreement import AngleLimit, bars

    fine = STANDARD["rotate"].with_magnitudes(range(-90, 91, 5))
    (sweep,) = sweeps(AngleLimit(32.0), (bars(6), torch.zeros(6, dtype=torch.long)), transformations=[fine]).sweeps[:1]
    kept = [
        angle for angle, share in zip(sweep.magnitudes, sweep.values["agreement"].mean(1), strict=True) if share == 1
    ]
    assert abs(max(kept) - 32) <= 5 and abs(min(kept) + 32) <= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_images": 1}, "max_images: expected a whole number ≥ 2"),
        ({"transformations": []}, "at least one"),
        ({"fills": []}, "fills: expected at least one"),
        ({"fills": [2.0]}, "fill: expected a value"),
        ({"layer": "nope"}, "the model has no submodule 'nope'"),
    ],
)
def test_errors(data, change, message):
    with pytest.raises(ia.InstaAugError, match=message):
        sweeps(Circular(), data, **change)


def test_more_errors(data):
    with pytest.raises(ia.InstaAugError, match="at least 2 images, got 1"):
        sweeps(Circular(), (data[0][:1], data[1][:1]))
    with pytest.raises(ia.InstaAugError, match=r"a tensor \(2,\); wrap it.*one logit z makes two"):
        sweeps(nn.Sequential(nn.Flatten(), nn.Linear(768, 1), nn.Flatten(0)), data)
    report = sweeps(Circular(), data, transformations="rotate", max_images=5)
    with pytest.raises(ia.InstaAugError, match="no sweep of 'hue'.*'rotate' \\(black\\)"):
        report.sweep("hue")
    with pytest.raises(ia.InstaAugError, match="measure: expected one of"):
        report.interval(report.sweeps[0], "d_l1")
