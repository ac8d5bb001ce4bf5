import copy

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.measure import MEASURES, compare

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = torch.rand(20, 3, 16, 16), torch.randint(5, (20,))
ARGUMENTS = {"transformations": ["rotate", "hue"], "progress": False}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ia.timm.create_classifier("test_resnet", num_classes=5)


def test_identical_models_differ_by_exactly_zero(model):
    reports = [ia.measure_invariance(m, DATA, **ARGUMENTS) for m in (model, copy.deepcopy(model))]
    result = compare({"before": reports[0], "after": reports[1]})
    rows = result.rows()
    assert len(rows) == 3 * len(MEASURES)
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in rows)


def test_differences_are_paired(model):
    other = ia.timm.create_classifier("test_resnet", num_classes=5)
    torch.nn.init.normal_(other.model.fc.weight, std=1.0)
    reports = {
        "a": ia.measure_invariance(model, DATA, **ARGUMENTS),
        "b": ia.measure_invariance(other, DATA, **ARGUMENTS),
    }
    result = compare(reports)
    sweep = [reports[name].sweep("hue").per_image("d_l2") for name in "ab"]
    assert np.array_equal(result.difference("b", "hue", "", "d_l2"), sweep[1] - sweep[0])
    found = result.interval("b", "hue", "", "d_l2")
    assert found.estimate == pytest.approx((sweep[1] - sweep[0]).mean()) and found.low <= found.estimate <= found.high
    assert "Δ invariance" in result.summary() and len(result.plot().axes) == 3
    three = compare({**reports, "c": reports["a"]})
    assert {row["model"] for row in three.rows()} == {"b", "c"} and "| c" in three.summary()


def test_errors(model):
    report = ia.measure_invariance(model, DATA, **ARGUMENTS)
    for given, kinds in (
        ({"a": report}, "InvarianceReport"),
        ([report, report], "list"),
        ({"a": report, "b": 3}, ".*int"),
    ):
        with pytest.raises(ia.InstaAugError, match=f"two or more invariance reports, got {kinds}"):
            compare(given)
    fewer = ia.measure_invariance(model, DATA, max_images=10, **ARGUMENTS)
    with pytest.raises(ia.InstaAugError, match=r"'b' was measured on other images than 'a' \(10 and 20\)"):
        compare({"a": report, "b": fewer})
    other = ia.measure_invariance(model, DATA, transformations=["hue"], progress=False)
    with pytest.raises(ia.InstaAugError, match="other transformations"):
        compare({"a": report, "b": other})
    with pytest.raises(ia.InstaAugError, match="measure: expected one of"):
        compare({"a": report, "b": report}).interval("b", "hue", "", "x")
