import pytest
import torch
from torch import nn

from instaaug_transforms.learning.losses import cross_entropy


@pytest.mark.parametrize("soft", [False, True])
def test_classes_that_are_ruled_out_cost_nothing(soft):
    """Logits of −∞, as a classifier gives that knows some classes cannot be."""
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 3.0, -torch.inf]])
    targets = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]) if soft else torch.tensor([0, 1])
    expected = nn.functional.cross_entropy(logits[:, :2], targets[:, :2] if soft else targets, reduction="none")
    assert torch.allclose(cross_entropy(logits, targets), expected, atol=1e-5)
