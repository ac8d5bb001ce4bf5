"""What is wrong with a command is said in one line, before the first image is read."""

import argparse
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from instaaug_transforms.cli import arguments as types
from instaaug_transforms.cli import image_files, outputs
from instaaug_transforms.cli.__main__ import main

from .conftest import make_lively

pytestmark = pytest.mark.usefixtures("one_thread")


class Mean(nn.Module):
    """Logits are the means of three channels, and zeros."""

    def __init__(self, n):
        super().__init__()
        self.n, self.scale = n, nn.Parameter(torch.tensor(9.0))

    def forward(self, images):
        means = self.scale * images.mean((2, 3))
        return torch.cat([means, means.new_zeros(len(images), self.n)], 1)[:, : self.n]


def three_classes():
    return Mean(3)


def as_many(num_classes):
    return Mean(num_classes)


def needs_a_file():
    raise FileNotFoundError("no weights.pth")


class Bare(nn.Module):
    """Has no constructor of its own: that of all modules takes no number of classes."""

    def forward(self, images):
        return images.mean((2, 3))


def needs_big_images():
    return nn.Sequential(nn.AvgPool2d(64), nn.Flatten(), nn.Linear(3, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes, told by colour, in splits, in one folder per class, and in no folders; weights."""
    root, generator = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for label, name in enumerate(("n2", "n0", "n1")):
            for i in range(6):
                image = 0.4 * torch.rand(3, 16, 16, generator=generator)
                image[label] += 0.5
                file = f"{name}-{split}-{i}.png"
                for folder in (f"classes/{split}/{name}", f"classes/all/{name}", "flat"):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    F.to_pil_image(image).save(root / folder / file)
    (root / "map.txt").write_text("n2\tred\nn0\tgreen\nn1\tblue\n")
    make_lively(["crop"]).save(root / "aug.safetensors")
    return root


def command(name, data, *more, model="tests.test_cli_options:three_classes"):
    base = [name, "--model", model, "--data", data / "classes", "--img-size", 16, "--workers", 0]
    if name == "fit":
        base += ["--epochs", 1, "-b", 8, "--transforms", "crop", "--scales", 1, 0.5, "--grids", 1, 2]
    else:
        base += ["--weights", data / "aug.safetensors", "--n-views", 2]
    return [str(word) for word in (*base, *more)]


@pytest.fixture
def unread(monkeypatch):
    """No image may be read."""
    monkeypatch.setattr(image_files, "read_image", lambda *_, **__: pytest.fail("an image was read"))


def fails(capsys, arguments):
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("instaaug: ") and shown.count("\n") == 1, shown
    return shown


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (types.positive_int, ["1", "70"], ["0", "-1", "1.5", "x", "", "9" * 400]),
        (types.natural, ["0", "3"], ["-1", "nan", "0.5", str(2**63)]),
        (types.finite, ["-2", "0", "0.1"], ["nan", "inf", "-inf", "1e999", "x"]),
        (types.positive, ["0.1", "3", "1e-9"], ["0", "-2", "nan", "inf", "1e999"]),
        (types.not_negative, ["0", "0.1"], ["-0.1", "nan", "inf"]),
        (types.fraction, ["1", "0.5"], ["0", "1.01", "-0.5", "nan", "1,0"]),
        (
            types.device,
            ["cpu"],
            ["cdua", "cuda:x", "cuda:99", "meta", "hpu", *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])],
        ),
    ],
)
def test_types(kind, good, bad):
    for text in good:
        assert str(kind(text)) == text or float(kind(text)) == float(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected .*, got '"):
            kind(text)


OPTIONS = [
    *((name, option, value) for name in ("fit", "validate") for option, value in (
        ("--img-size", 0), ("--crop-pct", 0), ("--crop-pct", 1.5), ("--max-images", -1), ("--max-images", 0),
        ("--num-classes", 0), ("--workers", -1), ("--seed", -1), ("--batch-size", 0), ("--device", "cdua"), ("--std", 0), ("--mean", "nan"),
    )),
    *(("fit", option, value) for option, value in (
        ("--choose-views", 0), ("--epochs", 0), ("--patience", 0), ("--chunk", 0), ("--views", -1), ("--lr", 0),
        ("--weight-decay", -1), ("--checkpoint-seconds", "nan"), ("--phi-size", 0), ("--scales", 1.2), ("--grids", 0),
    )),
    ("validate", "--n-views", 0), ("validate", "--range-fraction", 0), ("validate", "--aggregate", "mode"),
    ("validate", "--aggregate", "probability"), *(("export", "--tolerance", value) for value in ("nan", "inf", -1)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "option", "value"), OPTIONS)
def test_values_are_checked_and_the_option_named(data, tmp_path, capsys, unread, name, option, value):
    more = ["--out", tmp_path / "o.safetensors"] if name == "fit" else []
    assert re.search(rf"argument {option}[/,: ].*{value}", fails(capsys, command(name, data, *more, option, value)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "{tmp}/none/o.safetensors"], r"out: .* '.*none' is none; create it first"),
        (["--out", "{tmp}/folder.safetensors"], "out: expected a file, got the folder"),
        (["--out", "{tmp}/o.pth"], "out: expected a .safetensors file"),
        (["--workdir", "{tmp}/file/deep"], "workdir: expected a folder, got .*file' is a file"),
        (["--transforms", "crop,spin"], "unknown family 'spin'; known are .*crop"),
        (["--transforms", "crop,crop"], "family crop given more than once"),
        (["--entropy", "rotate=-1,0"], "entropy: bands for rotate, but the families are crop"),
        (["--entropy", "crop=-inf,0.6"], "entropy: expected FAMILY=LOW,HIGH as in crop=0.6,0.7, got 'crop=-inf,0.6'"),
        (["--entropy", "crop=0.5,0.6", "crop=0.9,0.2"], r"entropy\['crop'\]: expected low < high"),
        (["--predictor", "oracle"], "predictor: unknown name 'oracle'; known are class, conv"),
        (
            ["--nuisance-probability", "0.2"],
            "nuisance-probability: got 0.2 without --nuisance,.* give --nuisance turn, say",
        ),
        (["--nuisance-draws", "1"], "nuisance-draws: got 1 without --nuisance, and nothing would be disturbed"),
        (["--loss", "tests.test_cli_options:nothing"], "loss: cannot import 'nothing' from 'tests.test_cli_options'"),
        (["--loss", "mse"], "loss: expected one of cross_entropy, squared_error, .*, got 'mse'"),
        (["--loss", "squared_error"], "loss: squared_error takes labels for numbers, and folders .* are names: n0, n1"),
        (
            ["--loss", "binary_cross_entropy", "--entropy", "crop=0.4,0.5", "crop=0.5,0.6"],
            "entropy: .* lowest NLL of classes, and binary_cross_entropy knows none",
        ),
        (["--split", "policy"], "is no folder; .* holds all, train, val"),
        (["--class-map", "{tmp}/map"], "class-map: n1, n2 are folders that it does not name"),
        (["--num-classes", "2"], "num-classes: 2 is too few for the labels"),
        (["--num-classes", "9", "--checkpoint", "no.pth"], "checkpoint: 'no.pth' cannot be read"),
        (["--model", "tests.test_cli_options:needs_big_images"], r"cannot take images \(1, 3, 16, 16\): RuntimeError"),
        (
            ["--model", "tests.test_cli_options:needs_a_file"],
            r"model: tests.*:needs_a_file, called without arguments, raised FileNotFoundError: no weights.pth \(.*line \d+",
        ),
        (["--model", "tests.test_cli_options:Bare", "--predictor", "oracle"], "predictor: unknown name 'oracle'"),
        (["--mean", "0", "0", "--std", "1"], "mean, std: expected a number per channel each"),
        (["--import", "no_such_module"], "import: 'no_such_module' cannot be imported: ModuleNotFoundError"),
        (["--import", "{tmp}/broken.py"], r"import: .*ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        (["--import", "{tmp}/json.py"], "a module 'json' is imported already; rename the file"),
    ],
)
def test_fit_checks_before_it_reads(data, tmp_path, capsys, unread, more, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "map").write_text("n0\n")
    (tmp_path / "broken.py").write_text("a = 1\nb = a / 0\n")
    (tmp_path / "json.py").write_text("")
    out = [] if "--out" in more else ["--out", tmp_path / "o.safetensors"]
    given = command("fit", data, *out, *(word.format(tmp=tmp_path) for word in more))
    assert re.search(message, fails(capsys, given))
    assert not (tmp_path / "o.safetensors").exists() and not (tmp_path / "o.work").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--results-file", "{tmp}/none/r.csv"], "results-file: .* is none; create it first"),
        (["--results-file", "{tmp}"], "results-file: expected a file, got the folder"),
        (["--workdir", "{tmp}/file/deep"], "workdir: expected a folder, got .*file' is a file"),
        (["--weights", "nope"], "weights: 'nope' is neither a file nor a known name"),
        (["--split", "train"], "choice-split: 'train' is what is reported"),
        (["--in-chans", "1", "--model", "tests.test_cli_options:as_many"], "channel"),
        (["--split", "val/", "--choice-split", "./val"], "choice-split: './val' is what is reported"),
        (["--split", ".", "--choose-on", "all"], "--split '.' and --choice-split 'train' one holds the other"),
        (["--choice-split", "val/0", "--choose-on", "all"], "--split 'val' and --choice-split 'val/0' one holds"),
        (["--model", "torchvision.models:resnet18"], "random weights says nothing; give --checkpoint$"),
        (
            ["--model", "torchvision.models:resnet18", "--pretrained"],
            "pretrained: .* weights, and torchvision.models:resnet18",
        ),
        (["--pretrained"], "pretrained: these are timm's weights, and tests.test_cli_options:three_classes is none"),
        (
            ["--model", "test_resnet.nope", "--pretrained"],
            "timm cannot make 'test_resnet.nope': .*Invalid pretrained tag",
        ),
    ],
)
def test_validate_checks_before_it_reads(data, tmp_path, capsys, unread, more, message):
    (tmp_path / "file").touch()
    given = command("validate", data, *(word.format(tmp=tmp_path) for word in more))
    assert re.search(message, fails(capsys, given))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder in which even root cannot write")
def test_places_that_cannot_be_written_to(data, capsys, unread):
    assert "out: cannot write in '/proc'" in fails(capsys, command("fit", data, "--out", "/proc/o.safetensors"))
    more = ["--results-file", "/proc/r.csv"]
    assert "results-file: cannot write in '/proc'" in fails(capsys, command("validate", data, *more))
    assert "out: cannot write in '/proc'" in fails(capsys, ["show", data / "flat", "--out", "/proc/pictures"])


def test_trying_to_write_leaves_nothing(tmp_path):
    outputs.check_file(tmp_path / "a.csv", "out")
    outputs.check_folder(tmp_path / "deep" / "deeper", "out")
    assert list(tmp_path.iterdir()) == []


def test_classes_that_the_classifier_does_not_have(data, tmp_path, capsys, unread):
    """A classifier of its own number of classes: without a map nobody knows which three of them the folders are."""
    (tmp_path / "thousand.py").write_text(
        "from tests.test_cli_options import Mean\ndef make():\n    return Mean(1000)\n"
    )
    given = command("fit", data, "--out", tmp_path / "o.safetensors", model=tmp_path / "thousand.py:make")
    assert re.search(
        "tells 1000 classes apart, .*train' names 3, so that labels need not mean.*or --no-labels", fails(capsys, given)
    )
    (tmp_path / "two.py").write_text("from tests.test_cli_options import Mean\ndef make():\n    return Mean(2)\n")
    given = command("fit", data, "--out", tmp_path / "o.safetensors", model=tmp_path / "two.py:make")
    assert "tells 2 classes apart, but labels go up to 2" in fails(capsys, given)
    for name, more in (
        ("fit", ["--out", tmp_path / "o.safetensors"]),
        ("validate", []),
    ):  # saying so does not tell which
        given = command(name, data, *more, "--num-classes", 9, model="tests.test_cli_options:as_many")
        assert "tells 9 classes apart, " in fails(capsys, given)


def test_a_factorys_model_is_normalised_by_as_many_numbers_as_it_has_channels(data, tmp_path, capsys, unread):
    (tmp_path / "three.py").write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    given = command("fit", data, "--out", tmp_path / "o.safetensors", model=tmp_path / "three.py:make")
    message = fails(capsys, [*given, "--mean", 0.5, 0.5, "--std", 0.5, 0.5])
    assert "mean, std: expected 3 numbers each, for the model's channels, got (0.5, 0.5)" in message


def test_a_checkpoint_of_more_classes_than_folders(data, tmp_path, capsys, unread):
    torch.save(timm.create_model("test_resnet", num_classes=9).state_dict(), tmp_path / "m.pth")
    more = ["--checkpoint", tmp_path / "m.pth", "--out", tmp_path / "o.safetensors"]
    shown = fails(capsys, command("fit", data, *more, model="test_resnet"))
    assert re.search(
        r"is \(9,\), not \(3,\).*made for the 3 classes of the folders: .* give --class-map, or --no-labels", shown
    )


@pytest.mark.parametrize(
    ("predictor", "size", "message"),
    [
        ("equivariant", 96, "image_size of the predictor must be a multiple of 64 up to 1024, got 96"),
        ("class", 32, "phi-size: 'class' looks at no copy of the image; leave it out, or choose of features, patches"),
    ],
)
def test_a_size_that_phi_cannot_look_at(data, tmp_path, capsys, unread, predictor, size, message):
    more = ["--out", tmp_path / "o.safetensors", "--predictor", predictor, "--phi-size", size]
    assert message in fails(capsys, command("fit", data, *more))


@pytest.mark.parametrize("arguments", [[], ["fits"], ["--nothing"], ["fit", "--nothing"], ["weights", "more"]])
def test_wrong_commands_are_one_line(capsys, arguments):
    assert "see instaaug" in fails(capsys, arguments)
