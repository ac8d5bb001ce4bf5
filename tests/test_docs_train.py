"""The scripts, estimators and families that docs/train.md lists are those there are, and commands are such as run."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import instaaug_transforms as ia
from instaaug_transforms.families import available
from instaaug_transforms.learning.estimators import ESTIMATORS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")


def test_every_script_estimator_and_family_exists():
    scripts = re.findall(r"^\| `(examples/[\w/]+\.py)`", PAGE, re.M)
    assert len(scripts) >= 15 and all((ROOT / script).is_file() for script in scripts)
    assert {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")} < set(scripts)
    assert set(re.findall(r'^\| `"(\w+)"`', PAGE, re.M)) == set(ESTIMATORS)
    named = re.search(r"^Families: (.*?)\.$", PAGE, re.M | re.S).group(1)
    assert set(re.findall(r"`(\w+)`", named)) == set(available())


def commands() -> dict[str, set[str]]:
    """Script to the options that any page gives it."""
    found: dict[str, set[str]] = {}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for script, rest in re.findall(r"python examples/([\w/]+\.py)((?:(?!python |instaaug |`|\n\n).)*)", text, re.S):
            found.setdefault(script, set()).update(re.findall(r"--[a-z-]+", rest))
    return found


@pytest.mark.parametrize("script", sorted(commands()))
def test_options_of_scripts_exist(script, example, capsys):
    with pytest.raises(SystemExit):
        example(script, "--help")
    assert commands()[script] <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


class Recorder:
    """In place of a logging library, none of which need be installed: keeps what is logged."""

    def __init__(self, *_, **__):
        self.logged = []

    def add_scalar(self, name, value, step):
        assert type(value) is float and type(step) is int
        self.logged.append(name)

    def log(self, logs):
        assert all(type(value) is float for value in logs.values())
        self.logged += logs

    log_dict = log


class LightningModule(Recorder, torch.nn.Module):
    def __init__(self):
        torch.nn.Module.__init__(self)
        self.logged = []


def test_logging_recipes(monkeypatch, one_thread):
    """The blocks for TensorBoard, Weights & Biases and Lightning, each run with a stand-in for its library."""
    stand_ins = {
        "torch.utils.tensorboard": {"SummaryWriter": Recorder},
        "wandb": {"init": Recorder},
        "lightning": {"LightningModule": LightningModule},
    }
    for name, members in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**members))
    classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10)).eval()
    names = {"ia": ia, "F": F, "torch": torch, "classifier": classifier, "photographs": torch.rand(12, 3, 16, 16)}
    names |= {"config": ia.FitConfig(epochs=1, progress=False), "aug": ia.LearnedAugment(["turn"])}
    learning = ia.LearnedAugment(["crop"])
    names["objective"] = ia.InstaAugObjective(learning)
    views, sample = learning.sample(torch.rand(4, 3, 16, 16))
    names["objective"](F.cross_entropy(classifier(views), torch.arange(4), reduction="none"), sample).backward()
    blocks = re.findall(r"```py\n(.*?)```", PAGE, re.S)
    assert len(blocks) == len(stand_ins)
    for block in blocks:
        exec(compile(block, "train.md", "exec"), names)
    assert {"lambda/turn, run 1", "lambda/turn, run 2", "val_loss, run 1"} < set(names["writer"].logged)
    assert {"lambda/turn", "val_loss", "lambda/crop", "in_band/crop"} < set(names["run"].logged)
    module = names["Module"](classifier)
    loss = module.training_step((torch.rand(4, 3, 16, 16), torch.arange(4)), 0)
    assert loss.requires_grad and {"loss", "entropy/crop", "lambda/crop"} < set(module.logged)
    assert len(module.configure_optimizers().param_groups) == 1
