import functools

import pytest
import torch
from torch import nn

from instaaug_transforms.learning.losses import cross_entropy, describe_loss


def weighted(logits, targets, weight=1.0):
    return weight * nn.functional.cross_entropy(logits, targets, reduction="none")


def scaled(scale):
    return lambda logits, targets: scale * logits[:, 0]


DIFFERENT = [
    cross_entropy,
    weighted,
    functools.partial(weighted, weight=2.0),
    functools.partial(weighted, weight=3.0),
    nn.CrossEntropyLoss(reduction="none"),
    nn.CrossEntropyLoss(reduction="none", label_smoothing=0.9),
    nn.CrossEntropyLoss(weight=torch.ones(3), reduction="none"),
    nn.CrossEntropyLoss(weight=torch.arange(3.0), reduction="none"),
    lambda logits, targets: logits[:, 0],
    lambda logits, targets: logits[:, 1],
    scaled(1),
    scaled(2),
]


def test_losses_that_may_differ_are_told_apart():
    assert len({describe_loss(loss) for loss in DIFFERENT}) == len(DIFFERENT)


def test_the_same_loss_made_twice_is_the_same():
    for make in (
        lambda: functools.partial(weighted, weight=2.0),
        lambda: nn.CrossEntropyLoss(weight=torch.arange(3.0), reduction="none"),
        lambda: scaled(2),
    ):
        assert describe_loss(make()) == describe_loss(make())


@pytest.mark.parametrize("soft", [False, True])
def test_classes_that_are_ruled_out_cost_nothing(soft):
    """Logits of −∞, as a classifier gives that knows some classes cannot be."""
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 3.0, -torch.inf]])
    targets = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]) if soft else torch.tensor([0, 1])
    expected = nn.functional.cross_entropy(logits[:, :2], targets[:, :2] if soft else targets, reduction="none")
    assert torch.allclose(cross_entropy(logits, targets), expected, atol=1e-5)
