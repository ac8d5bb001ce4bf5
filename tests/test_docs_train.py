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


BLOCKS = dict(zip(("tensorboard", "wandb", "lightning"), re.findall(r"```py\n(.*?)```", PAGE, re.S), strict=True))


def recipe(library: str) -> dict:
    """What the page's block for a logging library leaves, run beside a small classifier and photographs."""
    classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10)).eval()
    names = {"ia": ia, "F": F, "torch": torch, "classifier": classifier, "photographs": torch.rand(12, 3, 16, 16)}
    names |= {"config": ia.FitConfig(epochs=1, progress=False), "aug": ia.LearnedAugment(["turn"])}
    learning = ia.LearnedAugment(["crop"])
    names["objective"] = ia.InstaAugObjective(learning)
    views, sample = learning.sample(torch.rand(4, 3, 16, 16))
    names["objective"](F.cross_entropy(classifier(views), torch.arange(4), reduction="none"), sample).backward()
    exec(compile(BLOCKS[library], "train.md", "exec"), names)
    return names


def test_logging_recipes(monkeypatch, one_thread):
    """Each with a stand-in for its library, none of which need be installed."""
    stand_ins = {
        "torch.utils.tensorboard": {"SummaryWriter": Recorder},
        "wandb": {"init": Recorder},
        "lightning": {"LightningModule": LightningModule},
    }
    for name, members in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**members))
    written = set(recipe("tensorboard")["writer"].logged)
    assert {"lambda/turn, run 1", "lambda/turn, run 2", "val_loss, run 1"} < written
    logged = set(recipe("wandb")["run"].logged)
    assert {"lambda/turn", "val_loss", "lambda/crop", "in_band/crop"} < logged
    names = recipe("lightning")
    module = names["Module"](names["classifier"])
    loss = module.training_step((torch.rand(4, 3, 16, 16), torch.arange(4)), 0)
    assert loss.requires_grad and {"loss", "entropy/crop", "lambda/crop"} < set(module.logged)
    assert len(module.configure_optimizers().param_groups) == 1


LIBRARIES = pytest.mark.filterwarnings("default")  # theirs


@LIBRARIES
def test_tensorboard_reads_what_its_recipe_writes(monkeypatch, one_thread, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    recipe("tensorboard")["writer"].close()
    events = EventAccumulator("runs/turn").Reload()
    tags = set(events.Tags()["scalars"])
    tried = ia.FitConfig().entropy_weights
    runs = range(1, len(tried) + 1)
    assert {f"{name}, run {run}" for name in ("lambda/turn", "loss", "val_loss") for run in runs} < tags
    weights = [events.Scalars(f"lambda/turn, run {run}")[0] for run in runs]
    assert [point.value for point in weights] == pytest.approx(tried)
    assert {point.step for point in weights} == {1}


@LIBRARIES
def test_weights_and_biases_keeps_what_its_recipe_logs(monkeypatch, one_thread, tmp_path):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    names = recipe("wandb")
    kept = dict(names["run"].summary)
    wandb.finish()
    assert {name: kept[name] for name in names["objective"].logs()} == pytest.approx(names["objective"].logs())
    assert kept["run"] == len(ia.FitConfig().entropy_weights) and "val_loss" in kept
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 0


@LIBRARIES
def test_lightning_logs_what_its_recipe_says(monkeypatch, one_thread, tmp_path):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.loggers import CSVLogger

    names = recipe("lightning")
    data = torch.utils.data.TensorDataset(torch.rand(12, 3, 16, 16), torch.arange(12) % 10)
    module, logger = names["Module"](names["classifier"]), CSVLogger(tmp_path)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=2, logger=logger, accelerator="cpu", log_every_n_steps=1, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(data, 4))
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {"loss", "entropy/crop", "lambda/crop", "in_band/crop"} < set(lines[0].split(",")) and len(lines) == 7
