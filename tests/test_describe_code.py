"""A classifier is known by its code, too."""

import os
import subprocess
import sys
import types

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import instaaug_transforms as ia
from instaaug_transforms.utils.describe import code_sha256, model_sha256

CLASSIFIER = """
import functools
from torch import nn
import helpers

TEMPERATURE, MEAN, calls = 2.0, [0.5, 0.5, 0.5], 0

def named(x):
    return 2.0 * x

class Named:
    def __call__(self, x):
        return 2.0 * x

called = Named()

def doubled(forward):
    @functools.wraps(forward)
    def wrapped(self, x):
        return 2.0 * forward(self, x)
    return wrapped

class Base(nn.Module):
    def head(self, x):
        return 2.0 * x

class Net(Base):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(2, 2), 0

    @doubled
    def forward(self, x):
        global calls
        calls += 1
        self.calls += 1
        x = self.head(called(named(self.layer(x) / TEMPERATURE - MEAN[0])))
        return helpers.soften(x) + 3.0 * self.extra

    @property
    def extra(self):
        return 2.0
"""


HELPERS = "def soften(x):\n    return x / 4.0\n"


def a_classifier(monkeypatch, old="", new=""):
    """A user's two files, where they were edited, imported again as another process does."""
    torch.manual_seed(0)
    for name, text in (("helpers", HELPERS), ("net", CLASSIFIER)):
        assert old in HELPERS + CLASSIFIER
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(text.replace(old, new), vars(module))
    return sys.modules["net"].Net()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("3.0 * self.extra", "4.0 * self.extra"),
        ("TEMPERATURE, MEAN, calls = 2.0,", "TEMPERATURE, MEAN, calls = 3.0,"),
        ("[0.5, 0.5, 0.5]", "[0.4, 0.5, 0.5]"),
        ("def named(x):\n    return 2.0", "def named(x):\n    return 3.0"),
        ("def __call__(self, x):\n        return 2.0", "def __call__(self, x):\n        return 3.0"),
        ("return 2.0 * forward", "return 3.0 * forward"),
        ("def head(self, x):\n        return 2.0", "def head(self, x):\n        return 3.0"),
        ("def extra(self):\n        return 2.0", "def extra(self):\n        return 3.0"),
        ("/ 4.0", "/ 5.0"),
        ("nn.Linear(2, 2), 0", "nn.Linear(2, 2, bias=True), 0"),
    ],
)
def test_a_classifier_is_its_code_too(monkeypatch, old, new):
    """Wherever it lies in its owner's files; none of it is in the weights."""
    first, again, other = (a_classifier(monkeypatch, *edit) for edit in ((), (), (old, new)))
    assert code_sha256(first) == code_sha256(again) != code_sha256(other)
    assert model_sha256(first) == model_sha256(other)
    assert code_sha256(nn.Sequential(nn.ReLU(), first)) == code_sha256(first) == code_sha256(nn.DataParallel(first))


@pytest.mark.parametrize("value", [3, 3.0, "soft", True, None, (1, 2)])
def test_a_setting_that_its_code_reads_is_a_part_of_it(monkeypatch, value):
    """However it came there; but none that the code does not read, and no counter."""
    models = [a_classifier(monkeypatch, "3.0 * self.extra", "3.0 * self.temperature") for _ in range(3)]
    for model, temperature in zip(models, (2.0, 2.0, value), strict=True):
        model.layer.temperature, model.temperature = 2.0, temperature
    before = [code_sha256(model) for model in models]
    assert before[0] == before[1] != before[2]
    models[0].note, models[0].calls = value, 7
    assert code_sha256(models[0]) == before[0]
    models[1].temperature = []
    before[1] = code_sha256(models[1])
    models[1].temperature.append(value)  # as what it has seen
    assert code_sha256(models[1]) == before[1]
    models[0].layer.temperature = value
    assert code_sha256(models[0]) not in before


def test_what_a_run_changes_is_no_code(monkeypatch):
    model = a_classifier(monkeypatch)
    before = code_sha256(model)
    for _ in range(3):
        model(torch.zeros(1, 2))
    assert model.calls == 3 == sys.modules["net"].calls and code_sha256(model.eval()) == before


def test_a_forward_of_its_own_is_code_and_a_hook_that_looks_is_none():
    layers = [nn.Linear(2, 2) for _ in range(3)]
    for layer, factor in zip(layers[1:], (2.0, 3.0), strict=True):
        exec(f"def forward(self, x): return {factor} * x", scope := {})
        layer.forward = types.MethodType(scope["forward"], layer)
    before = [code_sha256(layer) for layer in layers]
    assert len(set(before)) == 3
    for layer in layers:
        layer.register_forward_hook(lambda module, given, output: print(output.shape))
    assert [code_sha256(layer) for layer in layers] == before


def test_installed_packages_are_no_code_of_ones_own():
    """Of them alone there is none: what an older version kept of a timm model goes on."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    timms = ia.timm.create_classifier("test_vit", num_classes=3)
    for model in (layer, timms, resnet18(), torch.compile(resnet18()), ia.TTAModel(timms, ia.LearnedAugment())):
        assert code_sha256(model) is None


def test_code_is_the_same_in_another_process(tmp_path):
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "net.py").write_text(CLASSIFIER)
    code = "import net; from instaaug_transforms.utils.describe import code_sha256; print(code_sha256(net.Net()))"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    shown = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    ]
    assert shown[0] == shown[1] and len(shown[0].strip()) == 64
