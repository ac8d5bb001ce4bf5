import csv
import json
import os

import pytest
import timm
import torch
from safetensors.torch import save_model
from torchvision.transforms.v2 import functional as F

from instaaug_transforms.cli import image_files
from instaaug_transforms.cli.__main__ import main

from .conftest import make_lively

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(6):
            F.to_pil_image(torch.rand(3, 40, 50)).save(tmp_path / "data" / label / f"{k}.png")
    for name in ("before", "after"):
        save_model(timm.create_model("test_resnet", num_classes=2), str(tmp_path / f"{name}.safetensors"))
    make_lively(["crop", "rotate"]).save(tmp_path / "aug.safetensors")
    return tmp_path


def command(folder, *more):
    arguments = ["measure", "--model", "test_resnet", "--data", str(folder / "data"), "--img-size", "32"]
    return main([*arguments, "--out", str(folder / "out"), *map(str, more)])


def test_everything_is_written(folder, capsys):
    weights = ["--checkpoint", folder / "after.safetensors", "--against", folder / "before.safetensors"]
    learned = ["--weights", folder / "aug.safetensors"]
    assert command(folder, *weights, *learned, "--transformations", "rotate", "hue", "--fills", "0", "mean") == 0
    names = {path.name for path in (folder / "out").iterdir()}
    tables = {"invariance", "invariance-per-class", "invariance-per-image", "factor", "equivariance", "lie", "learned"}
    assert names == {f"{name}.csv" for name in {*tables, "comparison"}} | {"report.html", "summary.json"}
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["n"] == 12 and [row["fill"] for row in summary["invariance"]] == ["black", "mean", ""]
    with (folder / "out" / "invariance-per-class.csv").open(encoding="utf-8") as file:
        assert {row["class"] for row in csv.DictReader(file)} == {"cat", "dog"}
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "Before and after" in page and "Learned against measured" in page
    assert "report.html" in capsys.readouterr().out


def test_less(folder):
    assert command(folder, "--only-invariance", "--max-images", 5, "--transformations", "hue") == 0
    assert json.loads((folder / "out" / "summary.json").read_text())["n"] == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_so_many_processes_read(folder, monkeypatch, workers):
    """All images were read by one, whatever was asked for."""
    read, readers = image_files.read_image, folder / "readers"
    readers.mkdir()

    def noted(*arguments, **more):
        (readers / str(os.getpid())).touch()
        return read(*arguments, **more)

    monkeypatch.setattr(image_files, "read_image", noted)
    assert command(folder, "--only-invariance", "--transformations", "hue", "--workers", workers) == 0
    names = {int(path.name) for path in readers.iterdir()}
    assert len(names) == max(workers, 1) and (os.getpid() in names) == (workers == 0)


def one_number():
    """A model that does not say which class an image is of."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 1))


def test_what_a_model_of_numbers_has_not_is_null(folder):
    """NaN is no JSON: jq and JavaScript refuse the file."""
    model = ["--model", "tests.test_measure_cli:one_number", "--only-invariance", "--transformations", "hue"]
    assert command(folder, *model) == 0
    text = (folder / "out" / "summary.json").read_text()
    (row,) = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["invariance"]
    assert row["accuracy"] is row["agreement"] is None and row["d_l2"] >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "'nowhere' is no folder"),
        (["--fills", "zeros"], "fill: expected a value"),
        (["--fills", "2"], "got 2.0"),
        (["--transformations", "spin"], "unknown 'spin'"),
        (["--model", "resnet17"], "timm has no 'resnet17'"),
        (["--weights", "nosuch"], "'nosuch'"),
        (["--batch-size", "0"], "at least 1"),
        (["--seed", "-1"], "at least 0"),
    ],
)
def test_errors_are_one_line(folder, capsys, arguments, message):
    assert command(folder, *arguments) == 2
    shown = capsys.readouterr().err
    assert "instaaug: " in shown and message in shown


def test_what_cannot_be_is_said_before_anything_is_measured(folder, capsys, monkeypatch):
    monkeypatch.setattr("instaaug_transforms.cli.measure.Probe", None)
    for arguments, message in ((["--weights", "nosuch"], "'nosuch'"), (["--against", "no.pt"], "no.pt")):
        assert command(folder, *arguments) == 2 and message in capsys.readouterr().err
    (folder / "out").write_text("a file")
    assert command(folder) == 2 and "is a file" in capsys.readouterr().err
