"""The examples run, as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_model
from torchvision.transforms.v2 import functional as F

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
