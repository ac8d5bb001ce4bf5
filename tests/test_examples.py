"""The examples run, as a user starts them."""

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_model

EXAMPLES = Path(__file__).parent.parent / "examples"


def results(folder: Path):
    assert all(picture.stat().st_size > 5_000 for picture in folder.glob("*.png"))
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def checkpoint(tmp_path):
    save_model(timm.create_model("test_resnet", num_classes=2), str(tmp_path / "m.safetensors"))
    return ["--model", "test_resnet", "--checkpoint", tmp_path / "m.safetensors"]


@pytest.mark.slow
def test_quickstart(example, tmp_path):
    out = example("quickstart.py", "--smoke", "--out", tmp_path)
    assert out.count("| single view") == 2 and "turned (simulated), n = 597" in out and "recommended: " in out
    (report,) = results(tmp_path)["runs"]
    assert report["tables"]["as they are"][0]["n"] == 597
    for name in ("camera.jpg", "digits-0.png", "curves-0.png", "views-turned-0.png", "augment-0.safetensors"):
        assert (tmp_path / name).exists()


@pytest.mark.slow
def test_fit_folder(example, tmp_path, class_folders, checkpoint):
    data = class_folders({"train": range(40), "val": range(10)}, ["cat", "dog"], size=40)
    common = ["--data", data, "--smoke", "--image-size", 32, "--views", 1, 2, "--out", tmp_path / "out", "--seeds", 3]
    out = example("fit_folder.py", *common, *checkpoint)
    assert "val, n = 20, seed 3" in out and (tmp_path / "out" / "learned-3.png").exists()
    assert "val, n = 20" in example("fit_folder.py", *common, *checkpoint, "--transforms", "crop", "rotate", "hsv")
    assert results(tmp_path / "out")["runs"][0]["rows"][0]["n"] == 20


def test_train_together(example, tmp_path):
    assert "ten learned views" in example("train_together.py", "--smoke", "--out", tmp_path)
    (report,) = results(tmp_path)["runs"]
    assert report["n"] == 32 and set(report["entropy"]) == {"crop", "rotate", "hsv"}


@pytest.mark.parametrize("script", ["train_together.py", "contrastive.py", "measure.py", "timm_pipeline.py"])
def test_what_needs_data_says_so(script, example, tmp_path, capsys):
    with pytest.raises(SystemExit):
        example(script, "--out", tmp_path)
    assert "--data" in capsys.readouterr().err


def test_contrastive(example, tmp_path):
    example("contrastive.py", "--smoke", "--out", tmp_path)
    assert results(tmp_path)["runs"][0]["entropy"]["crop"] > 0 and (tmp_path / "encoder-0.pt").exists()


def test_measure(example, tmp_path):
    out = example("measure.py", "--smoke", "--out", tmp_path)
    assert "least invariant" in out and {"invariance", "agreement"} < set(results(tmp_path)["runs"][0])


@pytest.mark.slow
def test_timm_pipeline(example, tmp_path):
    example("timm_pipeline.py", "--smoke", "--out", tmp_path)
    (report,) = results(tmp_path)["runs"]
    assert len(report["history"]) == 1
    example("timm_pipeline.py", "--smoke", "--out", tmp_path, "--resume")  # nothing is left to train
    assert results(tmp_path)["runs"] == [report]


def test_segmentation_by_learned_views(example, tmp_path):
    assert "mean IoU of the ink" in example("segmentation_tta.py", "--smoke", "--out", tmp_path, "--views", "2")
    (made,) = results(tmp_path)["runs"]
    assert [row["arm"] for row in made["rows"]] == ["single view", "horizontal flip", "ours", "without input"]
    assert made["n"] == 597 and all(0 <= row["iou"] <= 1 for row in made["rows"])


def test_lightning_module(example, tmp_path):
    pytest.importorskip("lightning", reason="lightning is not installed")
    example("lightning_module.py", "--smoke", "--out", tmp_path)
    assert {"loss", "entropy/rotate", "lambda/rotate"} < set(results(tmp_path))


def test_lightning_module_says_what_is_missing(example, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(SystemExit, match="pip install lightning"):
        example("lightning_module.py", "--smoke", "--out", tmp_path)


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help_names_the_common_options(script, example, capsys, monkeypatch):
    if script == "lightning_module.py":
        pytest.importorskip("lightning", reason="lightning is not installed")
    with pytest.raises(SystemExit):
        example(script, "--help")
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--data", "--out", "--seeds", "--smoke"))


def test_examples_are_few_and_short():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.rglob("*.py")}
    assert len(list(EXAMPLES.glob("*.py"))) <= 8 and sum(sizes.values()) <= 2200
    assert all(size <= (100 if path.parent == EXAMPLES else 350) for path, size in sizes.items())


def test_soft_labels_and_ink_accuracy_in_closed_form(example):
    import digits

    import instaaug_transforms as ia

    labels = torch.full((2, 8, 8), digits.BACKGROUND)
    labels[0, :4], labels[1, :, :4] = 3, 7
    turn = ia.AugmentParams(angle=torch.tensor([180.0, 90.0]))
    moved = digits.soft_labels(labels, digits.MOVE, turn)
    assert torch.allclose(moved.sum(1), torch.ones(2, 8, 8), atol=1e-5)
    expected = torch.stack([labels[0].rot90(2), labels[1].rot90(1)])
    assert torch.equal(moved.argmax(1)[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1])

    class Says(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(labels, 11).movedim(-1, 1).float()

    truth = labels.clone()
    truth[0, 2:4] = digits.BACKGROUND  # half of what is said is ink, all of the ink is hit
    assert digits.ink_accuracy(Says(), torch.zeros(2, 1, 8, 8), truth).tolist() == [0.5, 1.0]
