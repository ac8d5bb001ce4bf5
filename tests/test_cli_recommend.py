"""`instaaug recommend`: weights that are fitted already, on folders of images."""

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.cli.held_out import pack_names
from instaaug_transforms.utils import weights

from .conftest import make_lively
from .test_cli_options import data, three_classes  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")


def command(data, *more):  # noqa: F811
    base = ["recommend", "--model", "tests.test_cli_options:three_classes", "--img-size", "16", "--workers", "0"]
    return [str(word) for word in (*base, "--weights", data / "aug.safetensors", *more)]


def test_it_prints_the_report_and_keeps_it_with_the_weights(data, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "here.safetensors"
    assert main(command(data, "--data", data / "classes", "--class-map", data / "map.txt", "--out", out)) == 0
    shown = capsys.readouterr().out
    assert "18 held-out images, against labels" in shown and "recommended: " in shown
    before, after = (weights.read(path) for path in (data / "aug.safetensors", out))
    assert all(torch.equal(before[1][name], value) for name, value in after[1].items())
    known = after[0]["recommended"]
    assert known["n"] == 18 and known["table"][0]["top1"] == 100.0
    aug = ia.LearnedAugment.from_pretrained(out)
    image = torch.rand(2, 3, 16, 16)
    model = ia.TTAModel.recommended(three_classes().eval(), aug)
    assert known["recommended"]["arm"] != "one view" or torch.allclose(
        model(image).softmax(1), three_classes()(image).softmax(1), atol=1e-6
    )


def test_the_images_of_the_fit_are_told_from_others(data, tmp_path, capsys):  # noqa: F811
    names = sorted(
        path.relative_to(data / "classes" / "val").as_posix() for path in (data / "classes" / "val").rglob("*.png")
    )
    assert len(names) == 18
    aug = make_lively(["turn"])
    for held_out, says in ((names[::3], True), (names, False), ([*names[::3], "a/other.png"], False)):
        aug.save(tmp_path / "fitted.safetensors", held_out=pack_names(held_out))
        given = [
            "--weights",
            tmp_path / "fitted.safetensors",
            "--data",
            data / "classes",
            "--class-map",
            data / "map.txt",
        ]
        assert main(command(data, *given)) == 0
        assert ("the 6 images that the fit held out are among these 18" in capsys.readouterr().err) is says


def test_photographs_without_labels_and_a_nuisance(data, tmp_path, capsys):  # noqa: F811
    make_lively(["turn"]).save(tmp_path / "turn.safetensors")
    given = ["--weights", tmp_path / "turn.safetensors", "--data", data / "flat", "--nuisance", "turn"]
    given += ["--nuisance-probability", "1", "--nuisance-draws", "2", "--workdir", tmp_path / "work"]
    assert main(command(data, *given)) == 0
    first = capsys.readouterr().out
    assert "36 held-out images, against the classifier's own answers" in first and "most confident candidate" in first
    assert main(command(data, *given)) == 0 and capsys.readouterr().out == first
    assert any((tmp_path / "work").iterdir())


def test_weights_of_normalised_images_say_the_same_of_images_as_they_are(data, tmp_path, capsys):  # noqa: F811
    """Classifiers of the command line take images in [0, 1], whatever pipeline the weights were made for, and keep on being for."""
    norm = ((0.5,) * 3, (0.25,) * 3)
    make_lively(["turn"]).save(tmp_path / "plain.safetensors")
    make_lively(["turn"], normalization=norm).save(tmp_path / "normalised.safetensors")
    shown = []
    for name in ("plain", "normalised"):
        given = [
            "--data",
            data / "classes",
            "--class-map",
            data / "map.txt",
            "--weights",
            tmp_path / f"{name}.safetensors",
        ]
        assert main(command(data, *given, "--out", tmp_path / f"{name}-out.safetensors")) == 0
        shown.append(capsys.readouterr().out.split("held-out images")[1].split("\n\n")[1])
    assert shown[0] == shown[1]
    kept = [ia.LearnedAugment.from_pretrained(tmp_path / f"{name}-out.safetensors") for name in ("plain", "normalised")]
    assert kept[0].normalization is None and (kept[1].normalization.mean, kept[1].normalization.std) == norm


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "/proc/a.safetensors"], "out: cannot write in '/proc'"),
        (["--nuisance", "storm"], "nuisance: unknown family 'storm'"),
        (["--split", "test"], "is no folder"),
        (["--weights", "nothing"], "weights: 'nothing' is neither a file nor a known name"),
    ],
)
def test_errors_are_one_line(data, capsys, more, message):  # noqa: F811
    assert main(command(data, "--data", data / "classes", "--class-map", data / "map.txt", *more)) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


@pytest.mark.parametrize("name", ["recommend", "validate", "export"])
def test_a_name_of_no_weights_is_said_before_a_classifier_is_asked_for(name, data, tmp_path, capsys):  # noqa: F811
    """There is no --checkpoint either, and the model is timm's."""
    given = ["--out", tmp_path / "a.onnx"] if name == "export" else ["--data", data / "classes"]
    given += ["--split", "train", "--choice-split", "val"] if name == "validate" else []
    assert main([str(word) for word in (name, "--weights", "nope", *given)]) != 0
    assert "weights: 'nope' is neither a file nor a known name" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("nuisance-probability", 1), ("nuisance-draws", 4)])
def test_what_says_how_a_nuisance_strikes_needs_one(data, capsys, option, value):  # noqa: F811
    """It was ignored: what was asked for is a report on disturbed images."""
    assert main(command(data, "--data", data / "flat", f"--{option}", value)) == 2
    assert f"instaaug: {option}: got {value} without --nuisance" in capsys.readouterr().err


class Redness(nn.Module):
    """One number an image, wrong of those that are not upright: the mean red of the left half."""

    def forward(self, images):
        return images[:, 0, :, :8].mean((1, 2))[:, None]


def absolute(outputs, labels):
    return (outputs[:, 0] - labels).abs()


@pytest.fixture
def numbers(tmp_path):
    """Ten images in folders 0 and 3, which are numbers to be told: 3 is no class of a model of one output."""
    images, labels = torch.rand(10, 3, 16, 16).mul(255).to(torch.uint8), [0, 3] * 5
    for i, label in enumerate(labels):
        (tmp_path / "numbers" / str(label)).mkdir(parents=True, exist_ok=True)
        F.to_pil_image(images[i]).save(tmp_path / "numbers" / str(label) / f"{i}.png")
    return tmp_path / "numbers", images / 255, torch.tensor(labels)


@pytest.mark.parametrize("loss", ["squared_error", "tests.test_cli_recommend:absolute"])
@pytest.mark.parametrize("count", [[], ["--num-classes", "1"]])
def test_a_model_of_numbers(tmp_path, capsys, numbers, loss, count):
    """The error named the loss, and no command took it; and labels beyond the number of outputs were refused."""
    folder, images, labels = numbers
    make_lively(["turn"]).save(tmp_path / "turn.safetensors")
    base = ["--model", "tests.test_cli_recommend:Redness", "--img-size", "16", "--workers", "0", "--data", folder]
    base = [str(word) for word in (*base, "--loss", loss, *count)]
    out = tmp_path / "out.safetensors"
    assert main(["recommend", *base, "--weights", str(tmp_path / "turn.safetensors"), "--out", str(out)]) == 0
    error = images[:, 0, :, :8].mean((1, 2)) - labels
    one_view = (error.square() if loss == "squared_error" else error.abs()).mean().item()
    assert weights.read(out)[0]["recommended"]["table"][0]["loss"] == pytest.approx(one_view, abs=1e-4)
    fit = ["fit", *base, "--transforms", "turn", "--epochs", "1", "--out", str(tmp_path / "fitted.safetensors")]
    assert main(fit) == 0
