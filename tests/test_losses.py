import functools
import types

import pytest
import torch
from torch import nn

from instaaug_transforms.learning.losses import cross_entropy, describe_loss


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
    assert len({describe_loss(loss) for loss in DIFFERENT}) == len(DIFFERENT)


def test_the_same_loss_made_twice_is_the_same():
    for make in (
        lambda: functools.partial(weighted, weight=2.0),
        lambda: nn.CrossEntropyLoss(weight=torch.arange(3.0), reduction="none"),
        lambda: scaled(2),
        lambda: Own(2),
        lambda: Own(2).plain,
        lambda: OwnModule((1.0, 2.0)),
    ):
        assert describe_loss(make()) == describe_loss(make())


@pytest.mark.parametrize("soft", [False, True])
def test_classes_that_are_ruled_out_cost_nothing(soft):
    """Logits of −∞, as a classifier gives that knows some classes cannot be."""
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 3.0, -torch.inf]])
    targets = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]) if soft else torch.tensor([0, 1])
    expected = nn.functional.cross_entropy(logits[:, :2], targets[:, :2] if soft else targets, reduction="none")
    assert torch.allclose(cross_entropy(logits, targets), expected, atol=1e-5)


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
    assert describe_loss(first) == describe_loss(second)
