"""Experiments around a frozen classifier: its training, the report, and where its invariance comes from."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_model

from instaaug_transforms.integrations.timm import create_classifier

pytestmark = pytest.mark.usefixtures("example")  # the experiments can be imported


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_tinyimagenet_splits(example, tmp_path):
    folder = tmp_path / "train" / "n01"
    folder.mkdir(parents=True)
    for k in (4, 253, 254, 255, 259):
        (folder / f"n01_{k}.JPEG").write_bytes(b"")
    assert "2 images in policy/" in example("../hub/recipes/tinyimagenet_splits.py", "--data", tmp_path)
    assert sorted(p.name for p in (tmp_path / "policy" / "n01").iterdir()) == ["n01_254.JPEG", "n01_259.JPEG"]
    assert len(list((tmp_path / "fit" / "n01").iterdir())) == 3
    example("../hub/recipes/tinyimagenet_splits.py", "--data", tmp_path)  # once more changes nothing


def test_train_classifier(tmp_path, class_folders):
    import train_classifier

    data, out = class_folders({"fit": range(6), "val": range(6)}, ["n01", "n02"], size=40), tmp_path / "out"
    arguments = ["--data", data, "--model", "test_resnet", "--image-size", 32, "--out", out, "--epochs", 2, "--smoke"]
    train_classifier.main([str(argument) for argument in arguments])
    (run,) = results(out)["runs"]
    assert run["n"] == 12 and len(run["history"]) == 2
    weights = out / "test_resnet-0.safetensors"
    assert create_classifier("test_resnet", weights, 2).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 2)
    kept = weights.read_bytes()
    (out / "stages" / "test_resnet-0.json").unlink()  # killed before it was tested
    train_classifier.main([*(str(argument) for argument in arguments), "--resume"])
    assert weights.read_bytes() == kept and results(out)["runs"][0]["top1"] == run["top1"]


@pytest.mark.slow
def test_frozen_report(tmp_path, class_folders, capsys):
    import frozen_report

    data = class_folders({"policy": range(15), "val": range(8)}, ["n01", "n02", "n03", "n04"])
    for name in ("first", "second"):
        save_model(timm.create_model("test_resnet", num_classes=4), str(tmp_path / f"{name}.safetensors"))
    first = ["--model", "test_resnet", "--checkpoint", tmp_path / "first.safetensors"]
    second = ["--second", "test_resnet", "--second-checkpoint", tmp_path / "second.safetensors"]
    common = ["--data", data, "--smoke", "--seeds", 0, 1, "--out"]

    def report(out, *arguments):
        frozen_report.main([str(argument) for argument in (*common, out, *first, *arguments)])
        return capsys.readouterr().out

    out = report(tmp_path / "out", *second)
    assert "## val: n = 32" in out and "## val and cross-fitted policy pooled: n = 92" in out
    assert out.count("entropy bands") >= 4 and "transfer to test_resnet" in out and "ours, without input" in out
    made = results(tmp_path / "out")
    arms = {(row["arm"], row["K"]): row for row in made["val"]}
    assert {("ours", 10), ("ours, without input", 10), ("ours, shuffled", 4), ("greedy policy", 1)} < set(arms)
    assert any(arm.startswith("oracle") for arm, _ in arms) and arms["ours", 1]["n"] == 32
    assert [row["K"] for row in made["transfer"]] == [4, 10] and len(made["transfer"][0]["share"]) == 3
    report(tmp_path / "out", *second, "--resume")  # nothing is left to fit
    assert str(results(tmp_path / "out")) == str(made)  # the oracle has no calibration error: NaN
    features = report(tmp_path / "features", "--predictor", "features", "--entropy", 0.4, 0.6, "--aggregate", "power")
    assert "transfer" not in features and "entropy bands" not in features


@pytest.mark.slow
def test_measure_tinyimagenet(tmp_path, class_folders, capsys):
    import measure_tinyimagenet

    data = class_folders({"train": (*range(11), 254, 259, 264, 269), "val": range(3)}, ["n01", "n02", "n03"])
    save_model(timm.create_model("test_resnet", num_classes=3), str(tmp_path / "m.safetensors"))
    model = ["--classifier", tmp_path / "m.safetensors", "--classifier-model", "test_resnet"]
    common = [str(argument) for argument in ("--data", data, "--smoke", "--out", tmp_path / "out", *model)]
    measure_tinyimagenet.main(common)
    first = capsys.readouterr().out
    assert "resnet18, translation only" in first and "learned against measured, n = 8" in first
    made = results(tmp_path / "out")
    assert len(made["accuracy"]) == 6 and made["n_test"] == 3 * 2 + 9
    assert {row["condition"] for row in made["invariance"]} == {"untrained", "trained", "augmented"}
    assert {"architecture, trained", "trained → augmented, vit"} < {row["gap between"] for row in made["gaps"]}
    assert (tmp_path / "out" / "results.png").stat().st_size > 20_000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "stages").iterdir()}
    measure_tinyimagenet.main([*common, "--resume"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "stages").iterdir()} == before
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("name", ["mario_iggy", "joint_training", "colour_lights", "simclr", "gpu_tinyimagenet"])
def test_help_names_the_common_options(name, capsys):
    module = __import__(name)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--data", "--out", "--seeds", "--resume", "--smoke"))
