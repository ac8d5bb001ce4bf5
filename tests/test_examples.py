"""The examples run, as a user starts them."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_model
from torchvision.transforms.v2 import functional as F

from instaaug_transforms.integrations.timm import create_classifier as load_classifier

ROOT = Path(__file__).parent.parent


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_quickstart_on_digits(tmp_path):
    out = run("quickstart.py", "--smoke", "--out", tmp_path)
    assert out.count("| single view") == 2 and "under nuisance (simulated)" in out
    (report,) = json.loads((tmp_path / "results.json").read_text())
    assert report["tables"]["as they are"][0]["n"] == 597
    assert (tmp_path / "learned-0.png").stat().st_size > 20_000 and (tmp_path / "augment-0.safetensors").exists()


@pytest.mark.slow
def test_quickstart_on_a_folder_of_images(tmp_path):
    for split, n in (("train", 40), ("val", 10)):
        for label in ("cat", "dog"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for k in range(n):
                F.to_pil_image(torch.rand(3, 40, 50)).save(tmp_path / "data" / split / label / f"{k}.png")
    save_model(timm.create_model("test_resnet", num_classes=2), str(tmp_path / "m.safetensors"))
    model = ["--model", "test_resnet", "--checkpoint", tmp_path / "m.safetensors", "--image-size", 32]
    common = ["--data", tmp_path / "data", "--smoke", "--views", 1, 2, "--out", tmp_path / "out", "--seeds", 3]
    out = run("quickstart.py", *common, *model)
    assert "val, n = 20, seed 3" in out and (tmp_path / "out" / "learned-3.png").exists()
    out = run("quickstart.py", *common, *model, "--transforms", "crop,rotate,hsv")
    assert "val, n = 20" in out


def test_tinyimagenet_splits(tmp_path):
    folder = tmp_path / "train" / "n01"
    folder.mkdir(parents=True)
    for k in (4, 253, 254, 255, 259):
        (folder / f"n01_{k}.JPEG").write_bytes(b"")
    out = run("tinyimagenet_splits.py", "--data", tmp_path)
    assert "2 images in policy/" in out
    assert sorted(p.name for p in (tmp_path / "policy" / "n01").iterdir()) == ["n01_254.JPEG", "n01_259.JPEG"]
    assert len(list((tmp_path / "fit" / "n01").iterdir())) == 3
    run("tinyimagenet_splits.py", "--data", tmp_path)  # once more changes nothing


@pytest.mark.slow
def test_measure_tinyimagenet(tmp_path):
    for split, numbers in (("train", (*range(11), 254, 259, 264, 269)), ("val", (0, 1, 2))):
        for label in ("n01", "n02", "n03"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for k in numbers:
                F.to_pil_image(torch.rand(3, 64, 64)).save(tmp_path / "data" / split / label / f"{label}_{k}.png")
    save_model(timm.create_model("test_resnet", num_classes=3), str(tmp_path / "m.safetensors"))
    model = ["--classifier", tmp_path / "m.safetensors", "--classifier-model", "test_resnet"]
    common = ["--data", tmp_path / "data", "--smoke", "--out", tmp_path / "out", *model]
    first = run("measure_tinyimagenet.py", *common)
    assert "resnet18, translation only" in first and "learned against measured, n = 8" in first
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["accuracy"]) == 6 and results["n_test"] == 3 * 2 + 9
    assert {row["condition"] for row in results["invariance"]} == {"untrained", "trained", "augmented"}
    assert {"architecture, trained", "trained → augmented, vit"} < {row["gap"] for row in results["gaps"]}
    assert (tmp_path / "out" / "results.png").stat().st_size > 20_000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "stages").iterdir()}
    again = run("measure_tinyimagenet.py", *common, "--resume")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "stages").iterdir()} == before
    tables = [text.split(" and results.png")[0] for text in (first, again)]
    assert tables[0] == tables[1]


def test_measuring_stages_are_gone_through_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import measure_tinyimagenet

    made = []
    for resume in (False, False, True):
        arguments = argparse.Namespace(out=tmp_path, resume=resume)
        found = measure_tinyimagenet.stage(arguments, "one", lambda: made.append(1) or {"n": len(made)})
        assert found["n"] == 1 and len(made) == 1
    measure_tinyimagenet.FINISHED.clear()  # another run, without --resume, begins anew
    assert measure_tinyimagenet.stage(argparse.Namespace(out=tmp_path, resume=False), "one", lambda: {"n": 2})["n"] == 2


@pytest.mark.slow
def test_frozen_report(tmp_path):
    for split, n in (("policy", 15), ("val", 15)):
        for label in ("n01", "n02", "n03", "n04"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for k in range(n):
                F.to_pil_image(torch.rand(3, 64, 64)).save(tmp_path / "data" / split / label / f"{k}.png")
    for name in ("first", "second"):
        save_model(timm.create_model("test_resnet", num_classes=4), str(tmp_path / f"{name}.safetensors"))
    first = ["--model", "test_resnet", "--checkpoint", tmp_path / "first.safetensors"]
    second = ["--second", "test_resnet", "--second-checkpoint", tmp_path / "second.safetensors"]
    common = ["--data", tmp_path / "data", "--smoke", "--seeds", 0, 1, "--out", tmp_path / "out"]
    out = run("frozen_report.py", *common, *first, *second)
    assert "## val: n = 60" in out and "## val and cross-fitted policy pooled: n = 120" in out
    assert out.count("entropy bands") == 4 and "best weights for all images alike" in out and "carried over" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["bands"]) == 3 and set(results["headroom on val"]) > {"oracle", "mean_nll", "weights_nll"}
    with_features = run("frozen_report.py", *common, *first, "--predictor", "features", "--entropy", 0.4, 0.6)
    assert "transfer" not in with_features and "entropy bands" not in with_features


@pytest.mark.slow
def test_train_classifier(tmp_path):
    for split in ("fit", "val"):
        for label in ("n01", "n02"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for k in range(6):
                F.to_pil_image(torch.rand(3, 40, 40)).save(tmp_path / "data" / split / label / f"{k}.png")
    out = tmp_path / "m.safetensors"
    arguments = ["--data", tmp_path / "data", "--model", "test_resnet", "--image-size", 32, "--out", out, "--epochs", 2]
    assert "val: top-1" in run("train_classifier.py", *arguments, "--smoke")
    classifier = load_classifier("test_resnet", out, 2).eval()
    assert classifier(torch.rand(1, 3, 32, 32)).shape == (1, 2)
    kept = out.read_bytes()
    run("train_classifier.py", *arguments, "--smoke", "--resume")
    assert out.read_bytes() == kept and json.loads(out.with_suffix(".json").read_text())["n"] == 12
