"""Every test runs on the CPU, offline, on two threads (one where tests run side by side), with its own seed."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    torch.manual_seed(0)


@pytest.fixture
def one_thread(_seeded):
    """For thousands of tiny forwards: starting threads takes longer than the work, far longer on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32)


@pytest.fixture
def lively():
    """A transform of all three families whose ranges are wide and differ between images, as after a fit."""
    return make_lively(["crop", "rotate", "hsv"])


def make_lively(families, **kwargs) -> ia.LearnedAugment:
    torch.manual_seed(1)
    aug = ia.LearnedAugment(families, **kwargs)
    with torch.no_grad():
        for head in aug.predictor.heads.values():
            if hasattr(head, "out"):
                head.out.weight.normal_(0, 0.1)
                head.out.bias.zero_()
            else:
                head.weight.normal_(0, 0.1)
                head.bias.zero_()
    return aug


class Small(nn.Module):
    """A map of 8×8 units, then 4×4; penultimate features; 3 classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(12, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.deep(self.stem(x)).mean((2, 3)))


@pytest.fixture
def model():
    """A classifier whose features φ can read."""
    return Small()


@pytest.fixture
def aug(model):
    """A transform whose φ reads the features of ``model``."""
    torch.manual_seed(1)
    return ia.LearnedAugment(["crop", "rotate"], predictor=ia.FeaturesPredictor(model, image_size=32))


@pytest.fixture
def example(monkeypatch, capsys, one_thread):
    """Runs a script of ``examples/`` in this process, as a user starts it, and gives back what it prints."""
    folder = Path(__file__).parent.parent / "examples"
    for path in (folder, folder / "experiments"):
        monkeypatch.syspath_prepend(str(path))

    def run(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(folder / script), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def class_folders(tmp_path):
    """Writes random images of one size, ``{split: numbers}`` of each class, as <split>/<class>/<class>_<number>.png."""

    def write(splits: dict, classes: list[str], size: int = 64) -> Path:
        for split, numbers in splits.items():
            for label in classes:
                (tmp_path / "data" / split / label).mkdir(parents=True)
                for k in numbers:
                    image = F.to_pil_image(torch.rand(3, size, size))
                    image.save(tmp_path / "data" / split / label / f"{label}_{k}.png")
        return tmp_path / "data"

    return write
