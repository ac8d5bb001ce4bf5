import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.learning.losses import (
    binary_cross_entropy,
    cross_entropy,
    find_loss,
    own_answers,
    per_view,
    squared_error,
)


@pytest.mark.parametrize("soft", [False, True])
def test_classes_that_are_ruled_out_cost_nothing(soft):
    """Logits of −∞, as a classifier gives that knows some classes cannot be."""
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 3.0, -torch.inf]])
    targets = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]) if soft else torch.tensor([0, 1])
    expected = nn.functional.cross_entropy(logits[:, :2], targets[:, :2] if soft else targets, reduction="none")
    assert torch.allclose(cross_entropy(logits, targets), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 2, 4)])
def test_losses_of_numbers_and_of_several_classes_in_numpy(shape):
    """A mean over an image's numbers; targets may lack a dimension of 1, or have one more."""
    outputs, targets = 3 * torch.randn(shape), torch.rand(shape)
    x, t = (part.double().numpy().reshape(5, -1) for part in (outputs, targets))
    p = 1 / (1 + np.exp(-x))
    expected = {
        squared_error: ((x - t) ** 2).mean(1),
        binary_cross_entropy: -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(1),
    }
    for loss, values in expected.items():
        for given in (targets, targets[..., None], targets.double()):
            assert loss(outputs, given).shape == (5,) and np.allclose(loss(outputs, given), values, atol=1e-5)
        assert loss(outputs.bfloat16(), targets).dtype == torch.float32


def test_targets_of_other_numbers_are_refused():
    for outputs, targets in (
        (torch.rand(4, 3), torch.rand(4, 2)),
        (torch.rand(4, 3), torch.rand(3, 4)),
        (torch.rand(4), torch.rand(5)),
    ):
        for loss in (squared_error, binary_cross_entropy):
            with pytest.raises(ia.InstaAugError, match=f"{loss.__name__}: expected as many numbers in the targets"):
                loss(outputs, targets)
    with pytest.raises(ia.InstaAugError, match="binary_cross_entropy: expected .* outputs list and targets"):
        binary_cross_entropy([0.5], torch.rand(1))


@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan")])
def test_targets_of_several_classes_lie_in_0_to_1(bad):
    assert binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])).item() == pytest.approx(np.log(2))
    with pytest.raises(
        ia.InstaAugError, match=r"binary_cross_entropy: expected targets in \[0, 1\].*missing, .*loss=f"
    ):
        binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, bad]]))


def test_certainties_have_finite_losses():
    """As large as a logit of ten thousand says."""
    sure = torch.tensor([[torch.inf, -torch.inf]])
    assert binary_cross_entropy(sure, torch.tensor([[1.0, 0.0]])).item() == 0
    assert binary_cross_entropy(sure, torch.tensor([[0.0, 0.0]])).item() == pytest.approx(5e3)
    assert cross_entropy(sure, torch.tensor([1])).item() == pytest.approx(2e4)


def test_a_loss_is_known_by_its_name():
    for loss in (cross_entropy, squared_error, binary_cross_entropy):
        assert find_loss(loss.__name__) is loss and find_loss(loss) is loss
    for wrong in ("mse", 3, None, ["squared_error"]):
        with pytest.raises(
            ia.InstaAugError, match="loss: expected one of cross_entropy, squared_error, binary_cross_entropy"
        ):
            find_loss(wrong)


def test_a_models_own_answers_are_probabilities_or_its_numbers():
    outputs = torch.randn(4, 3)
    assert torch.equal(own_answers(cross_entropy)(outputs), outputs.softmax(-1))
    assert torch.equal(own_answers(squared_error)(outputs.double()), outputs.double().float())
    assert torch.equal(own_answers(binary_cross_entropy)(outputs), outputs.sigmoid())
    with pytest.raises(ia.InstaAugError, match="a loss of one's own needs labels"):
        own_answers(lambda outputs, targets: outputs)


def test_a_loss_is_one_number_a_view():
    outputs, targets = torch.randn(4, 3), torch.zeros(4).long()
    assert torch.equal(per_view(cross_entropy, outputs, targets, 4), cross_entropy(outputs, targets))
    for wrong, shape in (
        (lambda o, t: o.mean(), r"\(\)"),
        (lambda o, t: o, r"\(4, 3\)"),
        (lambda o, t: o[:3, 0], r"\(3,\)"),
        (lambda o, t: 0.5, "float"),
    ):
        with pytest.raises(ia.InstaAugError, match=rf"loss: expected one loss per view, \(4,\), got {shape}"):
            per_view(wrong, outputs, targets, 4)


@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy"])
@pytest.mark.parametrize("labelled", [False, True])
def test_outputs_that_are_not_one_tensor_are_named(loss, labelled):
    class Outputs(torch.nn.Module):
        def forward(self, images):
            return {"value": images.mean((2, 3))}

    images = torch.rand(20, 3, 8, 8)
    data = (images, torch.rand(20, 3)) if labelled else images
    nuisance = None if labelled else ["turn"]
    with pytest.raises(ia.InstaAugError, match=f"{loss}: expected .* dict"):
        ia.fit(ia.LearnedAugment(["turn"]), Outputs(), data, loss=loss, nuisance=nuisance)
