"""Losses, transforms and models are told apart by what they do."""

import functools
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.learning.losses import cross_entropy
from instaaug_transforms.utils.describe import code_sha256, describe, model_sha256


def weighted(logits, targets, weight=1.0):
    return weight * nn.functional.cross_entropy(logits, targets, reduction="none")


def scaled(scale):
    return lambda logits, targets: scale * logits[:, 0]


def each(factor):
    """Losses whose code differs inside an inner function alone."""
    if factor == 2:
        return lambda logits, targets: torch.stack([(lambda row: 2.0 * row[0])(row) for row in logits])
    return lambda logits, targets: torch.stack([(lambda row: 3.0 * row[0])(row) for row in logits])


class Own:
    """A loss that is an object; its method is one, too."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, logits, targets):
        return self.scale * logits[:, 0]

    def plain(self, logits, targets):
        return self.scale * logits[:, 1]


class OwnModule(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, logits, targets):
        return logits @ torch.tensor(self.weights)


DIFFERENT = [
    cross_entropy,
    weighted,
    functools.partial(weighted, weight=2.0),
    functools.partial(weighted, weight=3.0),
    functools.partial(weighted, weight=torch.zeros(2000)),
    functools.partial(weighted, weight=torch.arange(2000) == 1000),
    nn.CrossEntropyLoss(reduction="none"),
    nn.CrossEntropyLoss(reduction="none", label_smoothing=0.9),
    nn.CrossEntropyLoss(weight=torch.ones(3), reduction="none"),
    nn.CrossEntropyLoss(weight=torch.arange(3.0), reduction="none"),
    lambda logits, targets: logits[:, 0],
    lambda logits, targets: logits[:, 1],
    scaled(1),
    scaled(2),
    each(2),
    each(3),
    Own(1),
    Own(2),
    Own(1).plain,
    Own(2).plain,
    OwnModule([1.0, 2.0]),
    OwnModule([1.0, 3.0]),
]


def test_losses_that_may_differ_are_told_apart():
    assert len({describe(loss) for loss in DIFFERENT}) == len(DIFFERENT)


def test_the_same_loss_made_twice_is_the_same():
    for make in (
        lambda: functools.partial(weighted, weight=2.0),
        lambda: nn.CrossEntropyLoss(weight=torch.arange(3.0), reduction="none"),
        lambda: scaled(2),
        lambda: Own(2),
        lambda: Own(2).plain,
        lambda: OwnModule((1.0, 2.0)),
    ):
        assert describe(make()) == describe(make())


def test_a_loss_is_the_same_in_another_process():
    """Sets are printed in another order there, as these two are here."""

    def loss(logits, targets):
        return logits[:, 0] if targets[0] in {0, 8} else logits[:, 1]

    code, orders = loss.__code__, [frozenset((0, 8)), frozenset((8, 0))]
    assert repr(orders[0]) != repr(orders[1])
    codes = [
        code.replace(co_consts=tuple(order if isinstance(c, frozenset) else c for c in code.co_consts))
        for order in orders
    ]
    first, second = (types.FunctionType(one, globals()) for one in codes)
    assert describe(first) == describe(second)


class Fog(nn.Module):
    """A transform whose strength no representation tells."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def forward(self, image):
        return (1 - self.strength) * image + self.strength


def dim(strength):
    return lambda image: strength * image


def faded(image, strength):
    return strength * image


class Around:
    """An object that holds another, as an attribute."""

    def __init__(self, step):
        self.step = step

    def __call__(self, image):
        return self.step(image)


class Halved(v2.Transform):
    """As torchvision has one write a transform: its `forward` is the base's."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def transform(self, inpt, params):
        return inpt.to(self.dtype)


FILE = """
import torch
from torchvision.transforms import v2

STRENGTH, WEIGHTS = {strength}, [1.0, {strength}]

def helper(image):
    return {strength} * image if image.ndim else entry(image)

class Fade(v2.Transform):
    def transform(self, inpt, params):
        return {strength} * inpt

class Uses:
    def helper(self, image):
        return {strength} * image

    def __call__(self, image):
        return self.helper(image)

def by_constant(image):
    return STRENGTH * image

def by_attribute(image):
    return image.WEIGHTS

def by_list(image):
    return [WEIGHTS[1] * row for row in image]

def by_helper(image):
    return helper(image)

def entry(image):
    return (lambda: helper(image))()

def by_class(image):
    return Fade()(image)
"""


def of_a_file(name):
    """What a file of somebody's own defines by that name, where it was edited."""

    def make(strength):
        module = types.ModuleType("mine")
        exec(FILE.format(strength=strength), vars(module))  # what an import does
        thing = getattr(module, name)
        return thing() if isinstance(thing, type) else thing

    return make


@pytest.mark.parametrize(
    "make",
    [
        Fog,
        lambda s: v2.Compose([v2.RandomHorizontalFlip(), Fog(s)]),
        lambda s: v2.RandomApply([v2.Compose([Fog(s)])]),
        lambda s: nn.Sequential(Fog(s)),
        lambda s: v2.Lambda(dim(s)),
        dim,
        lambda s: [Fog(s)],
        lambda s: v2.Lambda(functools.partial(faded, strength=s)),
        lambda s: Around(Around(Fog(s))),
        lambda s: Around(dim(s)),
        lambda s: Around(Own(s).__call__),
        lambda s: Around(torch.relu if s == 0.1 else torch.tanh),
        lambda s: Own(np.float32(s)),
        lambda s: Halved(torch.float16 if s == 0.1 else torch.float32),
        *map(of_a_file, ("by_constant", "by_list", "by_helper", "entry", "by_class", "Fade", "Uses")),
    ],
)
def test_transforms_of_another_strength_are_others(make):
    about = [Nuisance(make(strength)).about() for strength in (0.1, 0.1, 0.9)]
    assert about[0] == about[1] != about[2]


def test_what_holds_itself_is_described():
    first, second = Fog(0.1), Fog(0.1)
    first.owner, second.owner = [first], [second]
    assert describe(first) == describe(second) != describe(Fog(0.1))


def test_a_model_is_its_normalisation_too():
    """Which no file of its weights holds: it is a setting of a layer, or a buffer that is not saved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    other = nn.Sequential(v2.Normalize([0.5] * 3, [0.2] * 3), model)
    assert model_sha256(other) == model_sha256(nn.Sequential(v2.Normalize([0.5] * 3, [0.2] * 3), model))
    assert model_sha256(other) != model_sha256(nn.Sequential(v2.Normalize([0.5] * 3, [0.3] * 3), model))
    wrapped = [ia.timm.wrap(model, mean=(mean,) * 3, std=(0.2,) * 3) for mean in (0.5, 0.5, 0.4)]
    shas = [model_sha256(one) for one in wrapped]
    assert shas[0] == shas[1] != shas[2]
    wrapped[0].train()
    assert model_sha256(wrapped[0]) == shas[0]


def test_helpers_that_name_each_other_in_every_way_are_told_once():
    """One by one along every way they would be 25!."""
    names = [f"f{i}" for i in range(25)]
    module = types.ModuleType("mine")
    exec(
        "".join(f"def {name}(x):\n    return {', '.join(f'{other}(x)' for other in names)}\n" for name in names),
        vars(module),
    )
    assert len(describe(module.f0)) < 1000


def test_attributes_are_not_taken_for_what_the_file_calls_so():
    by_attribute = of_a_file("by_attribute")
    assert describe(by_attribute(0.1)) == describe(by_attribute(0.9))


def test_addresses_in_capitals_are_addresses():
    """Another in each process: nothing could be resumed on Windows."""
    assert describe(np.random.default_rng(0)) == describe(np.random.default_rng(0))
    generators = [np.random.default_rng(0) for _ in range(20)]  # at different places, all of them
    assert len({repr(one) for one in generators}) == 20 and len({describe(one) for one in generators}) == 1


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


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_installed_packages_are_no_code_of_ones_own():
    """Of them alone there is none: what an older version kept of a timm model goes on."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)).eval()))
    timms = ia.timm.create_classifier("test_vit", num_classes=3)
    for model in (layer, frozen, timms, resnet18(), torch.compile(resnet18()), ia.TTAModel(timms, ia.LearnedAugment())):
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
