"""`instaaug fit` and `instaaug validate`, from folders of images to files of figures."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_model
from torch import nn
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.cli.fit import parse_bands
from instaaug_transforms.cli.held_out import unpack_names
from instaaug_transforms.utils import weights

CLASSES = ("blue", "red")


def brightness(num_classes):
    """Which of two channels is brighter: a classifier of one's own, made by a factory."""

    class Brightness(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(4)
            self.head = nn.Linear(3, num_classes)
            with torch.no_grad():
                self.head.weight.copy_(torch.tensor([[-9.0, 0.0, 9.0], [9.0, 0.0, -9.0]]))
                self.head.bias.zero_()

        def forward(self, x):
            return self.head(self.pool(x).mean((2, 3)))

    return Brightness()


def not_a_module():
    return "logits"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, g = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    for split, n in (("train", 40), ("val", 12)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(n // 2):
                image = 0.3 * torch.rand(3, 36, 32, generator=g)
                y, x = (int(v) for v in torch.randint(0, 20, (2,), generator=g))
                image[0 if label else 2, y : y + 10, x : x + 10] += 0.5
                F.to_pil_image(image).save(root / split / name / f"{i}.png")
    return root


def fit_arguments(data, out, *more):
    base = [
        "fit",
        "--model",
        "tests.test_cli_fit:brightness",
        "--data",
        str(data),
        "--img-size",
        "32",
        "--workers",
        "0",
    ]
    return [*base, "--epochs", "2", "-b", "8", "--chunk", "8", "--out", str(out), *more]


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "mine.safetensors"
    assert main(fit_arguments(data, out, "--transforms", "crop,rotate", "--entropy", "crop=0.1,0.4")) == 0
    return out


def test_fit_writes_weights_that_load(fitted):
    aug = ia.LearnedAugment.from_pretrained(fitted)
    assert [family.name for family in aug.families] == ["crop", "rotate"]
    notes = weights.read(fitted)[0]["notes"]
    names = unpack_names(notes.pop("held_out"))  # by path, of so few every other
    assert len(names) == 20 and all((fitted.parent.parent / name).suffix == ".png" for name in names)
    assert notes == {
        "model": "tests.test_cli_fit:brightness",
        "split": "train",
        "seed": 0,
        "n": 20,
        "bands": {"crop": [0.1, 0.4]},
    }


def test_fit_says_what_it_did(data, tmp_path, capsys):
    arguments = [
        "--transforms",
        "crop",
        "--scales",
        "1",
        "0.5",
        "--grids",
        "1",
        "2",
        "--flips",
        "--predictor",
        "features",
    ]
    assert main(fit_arguments(data, tmp_path / "f.safetensors", *arguments)) == 0
    shown = capsys.readouterr().out
    assert "20 images" in shown and "held-out loss" in shown and "(20 images)" in shown
    config = weights.read(tmp_path / "f.safetensors")[0]
    assert config["families"][0]["config"]["scales"] == [1.0, 0.5] and config["families"][0]["config"]["flips"]
    assert "classifier_sha256" in config["predictor"]


def test_resume_gives_the_same_file(data, fitted, tmp_path):
    again = tmp_path / "again.safetensors"
    arguments = (
        "--transforms",
        "crop,rotate",
        "--entropy",
        "crop=0.1,0.4",
        "--workdir",
        str(fitted.with_suffix(".work")),
    )
    assert main(fit_arguments(data, again, *arguments, "--resume")) == 0
    assert again.read_bytes() == fitted.read_bytes()


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_validate_prints_and_writes_every_arm(data, fitted, tmp_path, capsys, kind):
    results = tmp_path / f"r.{kind}"
    arguments = ["validate", "--model", "tests.test_cli_fit:brightness", "--data", str(data), "--img-size", "32"]
    arguments += ["--workers", "0", "--weights", str(fitted), "--n-views", "1", "2", "4", "--oracle"]
    assert main([*arguments, "--results-file", str(results), "--results-format", kind]) == 0
    shown = capsys.readouterr().out
    rows = json.loads(results.read_text()) if kind == "json" else list(csv.DictReader(results.read_text().splitlines()))
    arms = {row["arm"] for row in rows}
    assert arms == {
        "single view",
        "horizontal flip",
        "best centre zooms",
        "random views",
        "AutoAugment policy",
        "greedy policy",
        "ours, shuffled",
        "ours",
        "oracle (any candidate view)",
        "recommended",
    }
    assert all(arm in shown for arm in arms) and "n = 12, choices on 20 images of train" in shown
    ours = next(row for row in rows if row["arm"] == "ours" and int(row["K"]) == 4)
    model, aug = brightness(2), ia.LearnedAugment.from_pretrained(fitted)
    folder = torchvision.datasets.ImageFolder(str(data / "val"))
    images = torch.stack([F.pil_to_tensor(F.center_crop(F.resize(i, 32), 32)) for i, _ in folder]).float() / 255
    right = (ia.TTAModel(model, aug, 4)(images).argmax(1) == torch.tensor(folder.targets)).float().mean()
    assert float(ours["top1"]) == pytest.approx(100 * right.item(), abs=1e-3)


@pytest.mark.parametrize("how", ["mean_logit", "power", "confident", "weighted"])
def test_validate_with_every_aggregation(data, fitted, how):
    arguments = ["validate", "--model", "tests.test_cli_fit:brightness", "--data", str(data), "--img-size", "32"]
    arguments += ["--workers", "0", "--weights", str(fitted), "--n-views", "2", "--max-images", "10"]
    assert main([*arguments, "--aggregate", how, "--choose-on", "all"]) == 0


def test_timm_and_torchvision_models_by_name(data, fitted, tmp_path, capsys):
    for name, make in (
        ("resnet10t", lambda: timm.create_model("resnet10t", num_classes=2)),
        ("torchvision.models:squeezenet1_1", lambda: torchvision.models.squeezenet1_1(num_classes=2)),
    ):
        torch.manual_seed(0)
        checkpoint = tmp_path / "model.safetensors"
        save_model(make(), str(checkpoint))
        arguments = ["validate", "--model", name, "--checkpoint", str(checkpoint), "--data", str(data)]
        arguments += ["--img-size", "32", "--workers", "0", "--weights", str(fitted), "--n-views", "2"]
        assert main([*arguments, "--max-images", "3", "--choose-on", "all"]) == 0
        assert "ours" in capsys.readouterr().out


@pytest.mark.slow
def test_torchrun_gives_the_file_of_one_process(data, tmp_path):
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    arguments = ("--transforms", "crop,rotate", "--seed", "3", "--device", "cpu")
    files = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.safetensors"
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, *launch, "instaaug_transforms.cli", *fit_arguments(data, out, *arguments)]
        run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr[-2000:]
        assert run.stdout.count("held-out loss") == 1  # the first process speaks for all
        files.append(weights.read(out)[1])
    assert all((files[0][name] - files[1][name]).abs().max() <= 1e-6 for name in files[0])


def test_bands_are_parsed():
    assert parse_bands(["crop=0.6,0.7", "rotate=-1,-0.3"]) == [{"crop": (0.6, 0.7), "rotate": (-1.0, -0.3)}]
    assert parse_bands([]) == [{}]
    several = parse_bands(["crop=0.4,0.5", "rotate=-1,-0.3", "crop=0.6,0.7"])
    assert several == [{"crop": (low, low + 0.1), "rotate": (-1.0, -0.3)} for low in (0.4, 0.6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "here.pt"], r"out: expected a .safetensors"),
        (["--out", "nowhere/x.safetensors"], "folder that exists"),
        (["--entropy", "crop"], "expected FAMILY=LOW,HIGH"),
        (["--split", "test"], "is no folder; .* holds train, val"),
        (["--model", "resnet18"], "give --checkpoint or --pretrained"),
        (["--model", "no.such:model"], "cannot import 'model' from 'no.such'"),
        (["--model", "tests.test_cli_fit:not_a_module"], "returned str"),
        (["--transforms", "rotate", "--flips"], "these are options of crop"),
        (["--mean", "0", "0", "0"], "give both or neither"),
        (
            ["--resume", "--lr", "0.5", "--workdir", "{work}", "--entropy", "crop=0.1,0.4"],
            "computed with another families",
        ),
    ],
)
def test_errors_are_one_line_and_write_nothing(data, fitted, tmp_path, capsys, monkeypatch, arguments, message):
    work = str(fitted.with_suffix(".work"))
    given = fit_arguments(data, tmp_path / "o.safetensors", *[a.format(work=work) for a in arguments])
    assert main(given) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("instaaug: ") and shown.count("\n") == 1 and re.search(message, shown), shown
    assert not (tmp_path / "o.safetensors").exists()


def test_interruption_says_how_to_go_on(data, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("instaaug_transforms.cli.fit.fit_transform", interrupted)
    assert main(fit_arguments(data, tmp_path / "o.safetensors")) == 2
    assert "--resume goes on from" in capsys.readouterr().err


@pytest.mark.parametrize("better", [0, 1])
def test_the_band_with_the_lower_held_out_nll_is_kept(data, tmp_path, capsys, monkeypatch, better):
    seen = []

    def nll(classifier, aug, held, **how):
        assert (how["nuisance"], how["nuisance_probability"], how["seed"]) == (["turn"], 0.7, 0)
        seen.append((aug.predictor.state_dict(), len(held)))
        return float(len(seen) - 1 != better)

    monkeypatch.setattr("instaaug_transforms.cli.fit.views_nll", nll)
    out = tmp_path / "aug.safetensors"
    arguments = fit_arguments(data, out, "--transforms", "crop", "--entropy", "crop=0.1,0.2", "crop=0.8,0.9")
    arguments += ["--nuisance", "turn", "--nuisance-probability", "0.7"]
    assert main([*arguments, "--no-labels"]) == 2
    assert "num-classes: tests.test_cli_fit:brightness needs it, and images without labels" in capsys.readouterr().err
    assert main([*arguments, "--no-labels", "--num-classes", "2"]) == 2
    assert "of several bands the one is kept whose views are best by held-out labels" in capsys.readouterr().err
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "crop=0.1,0.2: held-out NLL of 4 views" in shown and "crop=0.8,0.9: held-out NLL" in shown
    config, tensors = weights.read(out)
    assert config["notes"]["bands"] == {"crop": [[0.1, 0.2], [0.8, 0.9]][better]}
    assert [n for _, n in seen] == [20, 20] and not all(torch.equal(seen[0][0][k], seen[1][0][k]) for k in tensors)
    assert all(torch.equal(seen[better][0][k], v) for k, v in tensors.items())
    kept = out.read_bytes()
    seen.clear()
    assert main([*arguments, "--resume"]) == 0 and out.read_bytes() == kept
