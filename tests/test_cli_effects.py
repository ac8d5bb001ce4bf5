"""What options do, from the command's words to what comes of them."""
# ruff: noqa: F811 (pytest hands fixtures over by their names)

import argparse
import importlib
import os
import subprocess
import sys

import pytest
import timm
import torch
from timm.data import create_transform
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.cli import datasets, fit, validate
from instaaug_transforms.cli.__main__ import COMMANDS, _parser, main
from instaaug_transforms.cli.models import build_classifier, settle_images
from instaaug_transforms.cli.nuisance import nuisance_of
from instaaug_transforms.utils import weights
from instaaug_transforms.utils.hashing import fingerprint

from .conftest import Small, make_lively
from .test_cli_options import Mean, command, data, fails, three_classes  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")


def absolute_error(logits, labels):
    return (logits.softmax(-1) - torch.nn.functional.one_hot(labels, logits.shape[-1])).abs().sum(-1)


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
        "from tests.test_cli_effects import absolute_error as loss, three_classes as make\n"
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


SETTLED = [
    ("test_resnet", [], None),
    ("tf_efficientnet_lite0", ["--img-size", "224"], None),
    ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", ["--crop-pct", "0.8"], None),
    ("resnet18", ["--interpolation", "nearest"], None),
    ("resnet18", ["--img-size", "64"], (64, 1.0, "bilinear")),
    ("tests.test_cli_options:three_classes", [], (224, 1.0, "bilinear")),
]


@pytest.mark.parametrize(("model", "more", "expected"), SETTLED)
def test_images_of_a_timm_model_are_made_as_timm_makes_them(tmp_path, model, more, expected):
    """All of an image was kept, and resized otherwise, whatever timm says of the weights; of another size all of it still is."""
    image = F.to_pil_image(torch.randint(256, (3, 300, 400), dtype=torch.uint8))
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png")
    words = ["measure", "--model", model, "--data", str(tmp_path), *more]
    arguments = parsed(words)
    settle_images(arguments)
    if expected is None:
        config = timm.data.resolve_model_data_config(timm.create_model(model))
        config |= {name.strip("-").replace("-", "_"): value for name, value in zip(more[::2], more[1::2], strict=True)}
        config["crop_pct"] = float(config["crop_pct"])
        made = create_transform(
            config["input_size"], interpolation=config["interpolation"], crop_pct=config["crop_pct"], normalize=False
        )
        expected = (config["input_size"][-1], config["crop_pct"], config["interpolation"])
        assert torch.equal(datasets.folder_of(arguments, None)[0][0], made(image))
    assert (arguments.img_size, arguments.crop_pct, arguments.interpolation) == expected


def test_the_size_is_settled_before_a_command_runs(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("instaaug_transforms.cli.measure.run", ran.append)
    assert main(["measure", "--model", "test_resnet", "--data", str(tmp_path)]) == 0
    assert (ran[0].img_size, ran[0].crop_pct) == (160, 0.95)


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
