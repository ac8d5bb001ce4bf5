"""Losses, transforms and models are told apart by what they do."""

import functools
import types

import numpy as np
import pytest
import torch
from torch import nn
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


def programs(make):
    """Models of torch.jit that differ in the weight inside alone, made three ways."""
    yield torch.jit.freeze(torch.jit.script(make().eval()))
    yield torch.jit.optimize_for_inference(torch.jit.script(make().eval()))
    yield nn.Sequential(torch.jit.freeze(torch.jit.trace(make().eval(), torch.zeros(1, 3, 8, 8))))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_frozen_program_is_its_weights_too():
    """They are constants inside it, and in no state: a loss table of one would be taken for another's."""

    def make(weight):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        for parameter in model.parameters():
            nn.init.constant_(parameter, weight)
        return model

    for one, same, other in zip(*(programs(functools.partial(make, w)) for w in (0.1, 0.1, 0.2)), strict=True):
        assert model_sha256(one) == model_sha256(same) != model_sha256(other)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_program_is_the_numbers_that_it_reads_too(tmp_path):
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, images):
            return self.scale * images

    for make in (torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(1, 3, 8, 8))):
        one, same, other = (code_sha256(make(Scaled(scale))) for scale in (2.0, 2.0, 3.0))
        assert one == same != other
    torch.jit.save(torch.jit.script(Scaled(2.0)), tmp_path / "model.pt")
    assert code_sha256(torch.jit.load(tmp_path / "model.pt")) == code_sha256(torch.jit.script(Scaled(2.0)))


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
