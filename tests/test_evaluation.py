import csv
import inspect
import json

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import tta as evaluation
from instaaug_transforms.tta import Evaluation, evaluate, runner

from .conftest import make_lively


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4))

    def forward(self, x):
        return 8 * self.body(x)


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    model, aug = Tiny(), make_lively(["crop"])
    data = [(torch.rand(n, 3, 32, 32), torch.randint(4, (n,))) for n in (60, 40)]
    return model, aug, data, evaluate(model, aug, *data, (1, 2, 4), batch_size=16, progress=False)


def test_every_arm_has_the_same_number_of_views(report):
    _, _, _, result = report
    at_four = {name for name, k in result.arms if k == 4}
    assert at_four == {
        "best centre zooms",
        "random views",
        "AutoAugment policy",
        "greedy policy",
        "ours, shuffled",
        "ours",
    }
    assert ("single view", 1) in result.arms and ("horizontal flip", 2) in result.arms and ("ours", 1) in result.arms


@pytest.mark.parametrize(
    ("shift", "n", "nuisance", "says"),
    [(1, 60, None, True), (0, 60, None, False), (1, 10, None, False), (1, 60, ["turn"], False)],
)
def test_labels_in_another_order_are_noticed(caplog, shift, n, nuisance, says):
    torch.manual_seed(0)
    model, aug, images = Tiny(), make_lively(["crop"]), torch.rand(n, 3, 32, 32)
    data = images, (model(images).argmax(1) + shift) % 4
    evaluate(model, aug, data, data, (1,), only=[], nuisance=nuisance, progress=False)
    assert ("the classifier is right on 0.0 % of 60 images" in caplog.text) is says


def test_some_arms_alone(report):
    model, aug, data, every = report
    some = evaluate(
        model, aug, *data, (1, 2, 4), only=["horizontal flip", "greedy policy"], batch_size=16, progress=False
    )
    assert {name for name, _ in some.arms} == {"single view", "horizontal flip", "greedy policy", "ours"}
    assert all(np.array_equal(arm.correct, every.arms[key].correct) for key, arm in some.arms.items())
    with pytest.raises(ia.InstaAugError, match="only: expected some of horizontal flip, .* got sideways"):
        evaluate(model, aug, *data, only=["sideways"], progress=False)
    with pytest.raises(ia.InstaAugError, match="only: expected some of .* got ours$"):
        evaluate(model, aug, *data, only="ours", progress=False)


def test_our_arm_is_what_tta_gives(report):
    """Image by image, in the order in which they were given."""
    model, aug, (data, _), result = report
    logits = ia.TTAModel(model, aug, 4)(data[0])
    arm = result.arms["ours", 4]
    assert np.array_equal(arm.correct, (logits.argmax(1) == data[1]).numpy())
    nll = nn.functional.cross_entropy(logits / arm.temperature, data[1], reduction="none")
    assert np.allclose(arm.nll, nll, atol=1e-4)


def test_nll_of_views_is_that_of_our_arm_with_its_own_temperature():
    torch.manual_seed(0)
    model, aug, data = Tiny(), make_lively(["crop"]), (torch.rand(40, 3, 32, 32), torch.randint(4, (40,)))
    expected = evaluate(model, aug, data, data, (4,), progress=False).arms["ours", 4].nll.mean()
    found = evaluation.views_nll(model, aug, data, 4, progress=False)
    assert found == pytest.approx(expected, abs=1e-5) and found != evaluation.views_nll(model, aug, data, 2)


def test_nll_of_views_of_disturbed_images_is_that_of_images_disturbed_before():
    torch.manual_seed(0)
    model, aug = Tiny(), make_lively(["crop"])
    images = torch.rand(40, 3, 32, 32)
    margin = model(images) @ torch.tensor([0.0, -1.0, 1.0, 0.0])
    labels = 1 + (margin > margin.median()).long()
    expected = evaluation.views_nll(model, aug, (images.flip(-1), labels), 4, progress=False)
    how = {"nuisance": v2.RandomHorizontalFlip(1.0), "nuisance_probability": 1.0, "progress": False}
    assert evaluation.views_nll(model, aug, (images, labels), 4, **how) == pytest.approx(expected, abs=1e-6)
    assert evaluation.views_nll(model, aug, (images, labels), 4, progress=False) != pytest.approx(expected, abs=1e-5)


def test_every_arm_is_aggregated_the_same_way(monkeypatch):
    """Ours and the arms it is compared with."""
    seen = []
    real = runner.aggregate
    monkeypatch.setattr(
        runner, "aggregate", lambda logits, how, **kw: seen.append((len(logits), how)) or real(logits, how, **kw)
    )
    data = (torch.rand(8, 3, 16, 16), torch.randint(4, (8,)))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4))
    evaluate(model, make_lively(["crop", "rotate"]), data, data, (2, 4), how="mean_logit", progress=False)
    assert {how for _, how in seen} == {"mean_logit"}
    assert {n for n, _ in seen} == {1, 2, 4} and sum(n == 4 for n, _ in seen) == 2 * 6  # six arms, two data sets


def test_nothing_reported_feeds_a_choice(report):
    """Other reported data change no choice and no temperature."""
    model, aug, (data, choice), result = report
    other = evaluate(model, aug, (data[0].flip(0), data[1]), choice, (1, 2, 4), batch_size=16, progress=False)
    for key, arm in result.arms.items():
        if not any(word in key[0] for word in ("shuffled", "random", "AutoAugment")):
            assert other.arms[key].temperature == arm.temperature


def test_interval_is_paired_and_exact_for_equal_arms(report):
    _, _, _, result = report
    arm = result.arms["ours", 4]
    assert result.interval(arm, arm) == (0.0, 0.0, 0.0)
    mean, low, high = result.interval(arm, result.arms["single view", 1])
    assert low <= mean <= high
    flipped = result.interval(result.arms["single view", 1], arm)
    assert flipped[0] == pytest.approx(-mean) and flipped[1] == pytest.approx(-high, abs=0.02)


def test_interval_covers_at_its_rate():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        a, b = rng.random(200) < 0.7, rng.random(200) < 0.6
        first, second = (evaluation.ArmResult(n, 1, x, x, 1.0, 0.0) for n, x in (("a", a), ("b", b)))
        _, low, high = Evaluation({}, 200, 0).interval(first, second)
        covered += low <= 0.1 <= high
    assert 86 <= covered <= 100


def test_table_is_markdown(report):
    *_, result = report
    lines = result.table().splitlines()
    assert lines[0].startswith("| views") and len(lines) == 2 + len(result.arms)
    assert len(result.against_input_free()) == 3


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_an_evaluation_is_written_whole_or_not_at_all(report, kind, tmp_path):
    *_, result = report
    path = tmp_path / f"rows.{kind}"
    result.write(path, kind, model="tiny")
    text = path.read_text()
    rows = json.loads(text) if kind == "json" else list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(result.arms) and {row["model"] for row in rows} == {"tiny"}
    top = {(row["arm"], int(row["K"])): float(row["top1"]) for row in rows}
    assert all(top[key] == pytest.approx(100 * arm.correct.mean()) for key, arm in result.arms.items())
    with pytest.raises(ia.InstaAugError, match="results-file: folder .* does not exist"):
        result.write(tmp_path / "none" / "rows.csv")
    with pytest.raises(ia.InstaAugError, match="results-format: expected one of .* got 'xml'"):
        result.write(path, "xml")


@pytest.mark.parametrize("select", ["top", "stratified"])
def test_ranges_are_scored_by_the_views_that_a_deployed_model_makes(select):
    """Evenly spread over a range, four views are not the first four of ten."""
    torch.manual_seed(0)
    model, aug = Tiny().eval(), make_lively(["rotate"]).eval()
    images, labels = torch.rand(30, 3, 32, 32), torch.randint(4, (30,))
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    evaluate(
        model,
        aug,
        (images, labels),
        (images, labels),
        (2, 4, 10),
        select=select,
        only=[],
        batch_size=500,
        progress=False,
    )
    every = torch.cat(seen)
    if select == "top":
        for k in (2, 4, 10):
            seen.clear()
            ia.TTAModel(model, aug, k, select=select)(images)
            views = torch.cat(seen)
            nearest = torch.stack([(every - view).abs().flatten(1).amax(1).min() for view in views])
            assert nearest.max() < 1e-4
    handle.remove()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.arange(20) % 9, "from 0 to 3, for a classifier of 4 classes; got .* from 0 to 8"),
        (torch.rand(20), "got .*float32.*; of models of numbers, .* ia.recommend compares views: loss='squared_error'"),
        (torch.rand(20, 4), "expected labels"),
        (torch.rand(20), "expected labels"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    images = torch.rand(20, 3, 32, 32)
    good = (images, torch.arange(20, dtype=torch.int32) % 4)
    evaluate(Tiny(), make_lively(["turn"]), good, good, (1,), only=[], progress=False)
    for data in ((good, (images, labels)), ((images, labels), good)):
        with pytest.raises(ia.InstaAugError, match=message):
            evaluate(Tiny(), make_lively(["turn"]), *data, (1,), only=[], progress=False)


def test_what_is_compared_by_default():
    """One, two, four and ten views, the likeliest, the image itself among them; undisturbed, or all images are."""
    given = {name: p.default for name, p in inspect.signature(evaluate).parameters.items() if p.default is not p.empty}
    assert given == {
        "n_views": (1, 2, 4, 10), "select": "top", "range_fraction": 1.0, "how": "mean_prob", "include_identity": True, "oracle": False,
        "nuisance": None, "nuisance_probability": 1.0, "batch_size": 256, "amp": False, "seed": 0, "only": None, "workdir": None,
        "progress": None,
    }  # fmt: skip
    shared = {"n_views": 4, "how": "mean_prob", "batch_size": 256, "amp": False, "seed": 0, "progress": None}
    for function, more in (
        (evaluation.tune, {}),
        (evaluation.views_nll, {"select": "top", "nuisance": None, "nuisance_probability": 1.0}),
    ):
        parameters = inspect.signature(function).parameters.items()
        assert {name: p.default for name, p in parameters if p.default is not p.empty} == shared | more


def test_what_tuning_finds_has_the_lowest_loss():
    """Of evenly spread and of stratified views, over all, half and a quarter of a range: what `TTAModel` loses."""
    torch.manual_seed(0)
    model, aug = Tiny(), make_lively(["rotate"])
    images, labels = torch.rand(40, 3, 32, 32), torch.randint(4, (40,))
    found = evaluation.tune(model, aug, (images, labels), 2, progress=False)
    losses = {}
    for fraction in (1.0, 0.5, 0.25):
        logits = ia.TTAModel(model, aug, 2, range_fraction=fraction)(images)
        losses[fraction] = nn.functional.cross_entropy(logits, labels).item()
    best = min(losses, key=losses.get)
    assert found["select"] in ("top", "stratified") and found["range_fraction"] in losses
    assert found["select"] == "stratified" or found["range_fraction"] == best


def test_images_without_labels_cannot_be_compared():
    model, aug, images = Tiny(), make_lively(["turn"]), torch.rand(6, 3, 32, 32)
    labelled = (images, torch.arange(6) % 4)
    for call in (
        lambda: evaluate(model, aug, images, labelled, progress=False), lambda: evaluate(model, aug, labelled, images, progress=False),
        lambda: evaluation.tune(model, aug, images, progress=False), lambda: evaluation.views_nll(model, aug, images, progress=False),
    ):  # fmt: skip
        with pytest.raises(ia.InstaAugError, match=r"data.*label"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_views": 4}, r"n_views: expected several numbers of views, \[1, 2, 4\] say, got 4"),
        ({"n_views": ()}, "n_views: expected several"),
        ({"n_views": (0, 2)}, "n_views: expected a whole number ≥ 1, got 0"),
        ({"range_fraction": 3.0}, r"range_fraction: expected a number in \(0, 1\], got 3.0"),
        ({"select": "best"}, "select: expected one of .*got 'best'"),
        ({"batch_size": 0}, "batch_size: expected a whole number ≥ 1, got 0"),
        ({"how": "probability"}, "how: expected one of mean_prob, .*, weighted, got 'probability'"),
    ],
)
def test_views_that_no_model_could_have_are_refused_before_anything_is_computed(arguments, message):
    """Three times a range was compared as if it had been learned."""
    with pytest.raises(ia.InstaAugError, match=message):
        evaluate(Tiny(), make_lively(["rotate"]), None, None, **arguments)


@pytest.mark.parametrize("function", [evaluation.tune, evaluation.views_nll])
@pytest.mark.parametrize("arguments", [{"n_views": 0}, {"batch_size": 0}, {"how": "mean"}])
def test_what_chooses_refuses_them_too(function, arguments):
    with pytest.raises(
        ia.InstaAugError, match=r"aug: expected a LearnedAugment, got Tiny.*evaluate \(classifier, aug\)"
    ):
        function(make_lively(["rotate"]), Tiny(), None)
    with pytest.raises(ia.InstaAugError, match=f"{next(iter(arguments))}: expected"):
        function(Tiny(), make_lively(["rotate"]), None, **arguments)


@pytest.mark.parametrize("function", [evaluation.tune, evaluation.views_nll])
def test_labels_of_any_whole_type_choose_alike(function):
    model, aug, images, labels = Tiny(), make_lively(["turn"]), torch.rand(20, 3, 32, 32), torch.arange(20) % 4
    found = [function(model, aug, (images, labels.to(kind)), 2, progress=False) for kind in (torch.int64, torch.int32)]
    assert found[0] == found[1]
    with pytest.raises(ia.InstaAugError, match="choice_data: expected labels .* from 0 to 3"):
        function(model, aug, (images, labels + 1), 2, progress=False)


def test_choices_on_what_is_reported_are_warned_of(report, caplog):
    """Half of the images are among the reported ones: nothing said that what is chosen on them flatters the report."""
    model, aug, (data, choice), _ = report
    half = tuple(torch.cat([part[:20], other[:20]]) for part, other in zip(data, choice, strict=True))
    for given, told in ((choice, False), (half, True)):
        caplog.clear()
        evaluate(model, aug, data, given, (1,), only=(), progress=False)
        assert ("choice_data: 20 of 40 images look nearly like one of data" in caplog.text) is told
    with pytest.raises(ia.InstaAugError, match="seed: expected a whole number ≥ 0, got 1.5"):
        evaluate(model, aug, data, choice, (1,), seed=1.5)
