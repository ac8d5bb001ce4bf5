"""What is wrong with a command is said in one line, before the first image is read."""

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.cli import arguments as types
from instaaug_transforms.cli import fit, image_files, outputs, validate
from instaaug_transforms.cli.__main__ import COMMANDS, _parser, main
from instaaug_transforms.cli.models import build_classifier
from instaaug_transforms.cli.nuisance import nuisance_of
from instaaug_transforms.utils import weights
from instaaug_transforms.utils.hashing import fingerprint

from .conftest import Small, make_lively

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


def needs_big_images():
    return nn.Sequential(nn.AvgPool2d(64), nn.Flatten(), nn.Linear(3, 3))


def absolute_error(logits, labels):
    return (logits.softmax(-1) - torch.nn.functional.one_hot(labels, logits.shape[-1])).abs().sum(-1)


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
        ("--num-classes", 0), ("--workers", -1), ("--seed", -1), ("--batch-size", 0), ("--device", "cdua"), ("--std", 0),
    )),
    *(("fit", option, value) for option, value in (
        ("--choose-views", 0), ("--epochs", 0), ("--patience", 0), ("--chunk", 0), ("--views", -1), ("--lr", 0),
        ("--weight-decay", -1), ("--checkpoint-seconds", "nan"), ("--phi-size", 0), ("--scales", 1.2), ("--grids", 0),
    )),
    ("validate", "--n-views", 0), ("validate", "--range-fraction", 0), ("validate", "--aggregate", "mode"),
    ("validate", "--aggregate", "probability"),
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
        (["--entropy", "crop=0.5,0.6", "crop=0.9,0.2"], r"entropy\['crop'\]: expected low < high"),
        (["--predictor", "oracle"], "predictor: unknown name 'oracle'; known are class, conv"),
        (["--loss", "tests.test_cli_options:nothing"], "loss: cannot import 'nothing' from 'tests.test_cli_options'"),
        (["--split", "policy"], "is no folder; .* holds all, train, val"),
        (["--class-map", "{tmp}/map"], "class-map: n1, n2 are folders that it does not name"),
        (["--num-classes", "2"], "num-classes: 2 is too few for the labels"),
        (["--num-classes", "9", "--checkpoint", "no.pth"], "checkpoint: 'no.pth' cannot be read"),
        (["--model", "tests.test_cli_options:needs_big_images"], r"cannot take images \(1, 3, 16, 16\): RuntimeError"),
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


def test_a_checkpoint_of_more_classes_than_folders(data, tmp_path, capsys, unread):
    torch.save(timm.create_model("test_resnet", num_classes=9).state_dict(), tmp_path / "m.pth")
    more = ["--checkpoint", tmp_path / "m.pth", "--out", tmp_path / "o.safetensors"]
    shown = fails(capsys, command("fit", data, *more, model="test_resnet"))
    assert re.search(
        r"is \(9,\), not \(3,\).*made for the 3 classes of the folders: .* give --class-map, or --no-labels", shown
    )


def test_class_map_changes_what_is_right(data, tmp_path, capsys):
    """Sorted, n0 is class 0 and nothing is right; by the map it is class 1 and everything is."""
    scores = {}
    for name, more in (("sorted", []), ("map", ["--class-map", data / "map.txt"])):
        results = tmp_path / f"{name}.csv"
        assert main(command("validate", data, *more, "--choose-on", "all", "--results-file", results)) == 0
        header, single = (line.split(",") for line in results.read_text().splitlines()[:2])
        scores[name] = float(single[header.index("top1")])
    assert scores == {"sorted": 0.0, "map": 100.0}


def test_validate_goes_on_where_it_was_stopped(data, tmp_path, capsys, monkeypatch):
    calls, most, forward = [], 10**9, Mean.forward

    def counted(self, images):
        if len(calls) == most:
            raise KeyboardInterrupt
        calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Mean, "forward", counted)

    def validated(name, *more):
        calls.clear()
        arms = ["--arms", "horizontal flip", "greedy policy", "--choose-on", "all", "-b", 4]
        return main(command("validate", data, *arms, "--results-file", tmp_path / name, *map(str, more)))

    assert validated("whole.csv") == 0
    total, most = sum(calls), len(calls) // 2
    assert validated("stopped.csv", "--workdir", tmp_path / "work") == 2
    assert f"stopped; the same command goes on from {tmp_path / 'work'}" in capsys.readouterr().err
    most = 10**9
    assert validated("resumed.csv", "--workdir", tmp_path / "work") == 0 and sum(calls) < 0.7 * total
    assert (tmp_path / "resumed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / "stopped.csv").exists()


def test_few_images_to_choose_on_are_warned_of(data, capsys, monkeypatch):
    given = command("validate", data, "--arms", "--choose-on", "all")
    assert main(given) == 0 and "choices on 18 images: fewer than 200" in capsys.readouterr().err
    monkeypatch.setattr(validate, "ENOUGH", 18)
    assert main(given) == 0 and capsys.readouterr().err == ""


def parsed(words):
    return _parser(words).parse_args(words)


def test_a_features_model_needs_no_checkpoint(data, tmp_path, capsys):
    """What the weights read is made by a factory; the classifier that is averaged is another."""
    reading = make_lively(["crop"], predictor=ia.FeaturesPredictor(Small(), image_size=16))
    reading.save(tmp_path / "reading.safetensors")
    given = command("validate", data, "--weights", tmp_path / "reading.safetensors", "--arms", "--choose-on", "all")
    named = [*given, "--features-model", "tests.conftest:Small"]
    assert main(named) == 0 and "ours" in capsys.readouterr().out
    aug, _ = validate.load_transform(parsed(named), three_classes(), 3)
    assert aug.predictor.classifier_sha256 == fingerprint(Small())
    fails(capsys, given)  # without it, --model's own features would have to do


def test_a_features_checkpoint_is_of_the_same_model_unless_named(data, tmp_path):
    other = Small()
    torch.nn.init.normal_(other.head.weight)
    make_lively(["crop"], predictor=ia.FeaturesPredictor(other, image_size=16)).save(tmp_path / "other.safetensors")
    torch.save(other.state_dict(), tmp_path / "other.pth")
    more = ["--weights", tmp_path / "other.safetensors", "--features-checkpoint", tmp_path / "other.pth"]
    for model, name in (("tests.conftest:Small", []), ("resnet18", ["--features-model", "tests.conftest:Small"])):
        words = command("validate", data, *more, *name, model=model)
        aug, _ = validate.load_transform(parsed(words), Small(), 3)
        assert aug.predictor.classifier_sha256 == fingerprint(other) != fingerprint(Small())


@pytest.mark.parametrize("given", ["turn, light", " turn,light ", "turn ,  light"])
def test_spaces_between_nuisances_do_not_count(data, given):
    assert nuisance_of(parsed(command("validate", data, "--nuisance", given))) == ["turn", "light"]
    assert nuisance_of(parsed(command("validate", data))) is None


@pytest.mark.parametrize(("predictor", "size"), [("patches", 16), ("conv", 48), ("equivariant", 128), ("features", 32)])
def test_the_size_that_phi_looks_at(data, tmp_path, predictor, size):
    """Of a network of its own that of its copy, of features that of the classifier's images."""
    words = command("fit", data, "--out", tmp_path / "o.safetensors", "--predictor", predictor)
    aug = fit.make(parsed([*words, "--phi-size", str(size)]), Small())
    assert aug.predictor.kind == predictor and aug.predictor.config()["image_size"] == size
    usual = {"patches": 32, "conv": 64, "equivariant": 64, "features": 16}[predictor]  # of features, --img-size
    assert fit.make(parsed(words), Small()).predictor.config()["image_size"] == usual


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


def test_fit_without_labels(data, tmp_path, capsys):
    """Without labels the folders do not matter, and the file says what the answers were held against."""
    found = {}
    for name, more in (
        ("flat", ["--data", data / "flat"]),
        ("labelled", ["--data", data / "classes", "--split", "all", "--class-map", data / "map.txt"]),
        ("nested", ["--data", data / "classes", "--split", "all", "--no-labels"]),
    ):
        assert main(command("fit", data, "--out", tmp_path / f"{name}.safetensors", *more)) == 0
        config, found[name] = weights.read(tmp_path / f"{name}.safetensors")
        assert config["notes"]["n"] == 18 and config["notes"]["split"] == (None if name == "flat" else "all")
        against = "labels" if name == "labelled" else "the classifier's own answers"
        assert config["recommended"]["against"] == against
    assert all(torch.equal(found["nested"][key], value) for key, value in found["flat"].items())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file with a family, a classifier and a loss."""
    monkeypatch.setattr(families, "_REGISTRY", dict(families._REGISTRY))
    (tmp_path / "mine_only.py").write_text(
        "import instaaug_transforms as ia\n"
        "from instaaug_transforms.families.rotate import Rotate\n"
        "from tests.test_cli_options import absolute_error as loss, three_classes as make\n"
        "@ia.register\n"
        "class Tilt(Rotate):\n"
        "    name = 'tilt'\n"
    )
    yield tmp_path / "mine_only.py"
    sys.modules.pop("mine_only", None)


def test_import_brings_families_classifiers_and_losses(data, own, tmp_path, capsys):
    out = tmp_path / "o.safetensors"
    more = ["--import", own, "--transforms", "tilt", "--loss", "mine_only:loss", "--out", out]
    given = [word for word in command("fit", data, model="mine_only:make") if word not in ("--scales", "--grids")]
    given = given[: given.index("crop") + 1]
    assert main([*map(str, given), *map(str, more)]) == 0
    assert weights.read(out)[0]["families"][0]["name"] == "tilt"
    pictures = tmp_path / "pictures"
    arguments = ["show", data / "flat" / "n0-train-0.png", "--weights", out, "--out", pictures, "--import", own]
    assert main([str(argument) for argument in arguments]) == 0 and list(pictures.iterdir())
    assert main(["weights", "--import", str(own), "--import", "json"]) == 0


def test_commands_are_those_of_the_table(capsys):
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"instaaug_transforms.cli.{name}")
        assert module.__doc__.splitlines()[0] == summary and module.run and module.add_arguments
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert "--import" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fits"], ["--nothing"], ["fit", "--nothing"], ["weights", "more"]])
def test_wrong_commands_are_one_line(capsys, arguments):
    assert "see instaaug" in fails(capsys, arguments)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_encodings_that_lack_a_letter_cost_that_letter(encoding):
    """As on Windows, into a file: the report of a long fit ended in a UnicodeEncodeError at its arrow."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "instaaug_transforms.cli", "recommend", "--help"]
    run = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr.decode(encoding)
    shown = " ".join(run.stdout.decode(encoding).split())
    assert "what images suffer before ? sees them: families" in shown and "--nuisance-draws" in shown


def test_a_module_is_imported_once(own):
    from instaaug_transforms.cli.own_code import import_own, named

    assert import_own(str(own)) is import_own(str(own)) and named(f"{own}:make", "model") is three_classes
    with pytest.raises(ia.InstaAugError, match="cannot import 'nothing' from"):
        named(f"{own}:nothing", "model")


def test_a_checkpoint_of_one_channel(tmp_path):
    """As timm's validate.py builds it; three channels were made, and its weights did not fit."""
    model = timm.create_model("test_resnet", num_classes=4, in_chans=1).eval()
    torch.save(model.state_dict(), tmp_path / "grey.pth")
    more = ["--checkpoint", tmp_path / "grey.pth", "--num-classes", 4, "--in-chans", 1, "--device", "cpu"]
    words = ["export", "--model", "test_resnet", "--out", "o.onnx", "--mean", "0.4", "--std", "0.2", *more]
    classifier, images = build_classifier(parsed([str(word) for word in words]), None), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(classifier(images), model((images - 0.4) / 0.2), atol=1e-5)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (r"^(\w+)-\d", ["clip", "clip", "shot"]),
        (r"\d", ["1", "2", "1"]),
        (r"clip-(\d)|shot-(\d)", ["1", "2", "1"]),  # the second alternative was no group at all
        (r"(clip)?.*png", ["clip", "clip", None]),
        (r"[a-c]*", [None]),
    ],
)
def test_groups_are_what_the_expression_matched(expression, expected):
    data = argparse.Namespace(identities=["clip-1/a.png", "clip-2/a.png", "shot-1/a.png"], grouped=list)
    given = argparse.Namespace(groups=expression)
    if None not in expected:
        assert fit.grouped(given, data) == expected
        return
    with pytest.raises(ia.InstaAugError, match="groups: .* matches nothing in 'shot-1/a.png'"):
        fit.grouped(given, data)
