"""Scores of averages of views by losses of one's own, against NumPy and enumeration."""

import itertools

import numpy as np
import pytest
import torch

from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning.losses import binary_cross_entropy, squared_error
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.scores import ClassScores, OutputScores


def prepared(outputs: torch.Tensor, targets: torch.Tensor | None) -> Prepared:
    """Outputs ``(N, D, V, …)``; those of the images as they were are those of the first view of the first copy."""
    n, draws = outputs.shape[:2]
    rows = {}
    for name, values in (("logits", outputs), ("plain", outputs[:, 0, 0])):
        rows[name] = Rows(None, n, values.shape[1:], torch.float32, n, {})
        rows[name].put(slice(0, n), values)
    return Prepared(LabelledImages(torch.zeros(n, 3, 8, 8), targets), draws, rows, torch.device("cpu"))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 2)], ids=str)
def test_squared_errors_of_averages(shape):
    torch.manual_seed(0)
    outputs, targets = torch.randn(300, 2, 5, *shape), torch.randn(300, *shape)
    scores = OutputScores(prepared(outputs, targets), squared_error)
    views = torch.randint(5, (600, 3))
    flat = outputs.flatten(0, 1).numpy().reshape(600, 5, -1)
    means = np.stack([flat[r, views[r]].mean(0) for r in range(600)])
    errors = ((means - targets.numpy().reshape(300, -1).repeat(2, 0)) ** 2).mean(1)
    averaged = scores.average(views)
    assert averaged.shape == (600, *shape) and scores.average_loss(views) == pytest.approx(errors.mean(), rel=1e-5)
    arm = scores.arm("ours", 3, 3, averaged)
    assert arm.correct is None and np.allclose(arm.nll, errors.reshape(300, 2).mean(1), rtol=1e-4)
    single = ((flat - targets.numpy().reshape(300, 1, -1).repeat(2, 0)) ** 2).mean(2)
    assert np.allclose(scores.losses, single, rtol=1e-4)


def test_several_classes_an_image_by_torch():
    torch.manual_seed(0)
    outputs, targets = torch.randn(40, 1, 3, 5) * 3, torch.randint(2, (40, 5))
    scores = OutputScores(prepared(outputs, targets), binary_cross_entropy)
    p = outputs.squeeze(1).mean(1).sigmoid()
    expected = -torch.where(targets == 1, p, 1 - p).log().mean()
    assert scores.average_loss(torch.arange(3).expand(40, -1)) == pytest.approx(expected.item(), rel=1e-5)


def test_without_targets_it_is_the_models_own_outputs():
    outputs = torch.randn(30, 1, 3, 2)
    scores = OutputScores(prepared(outputs, None), squared_error)
    assert scores.average_loss(torch.zeros(30, 1, dtype=torch.long)) == 0
    assert torch.allclose(scores.losses[:, 1], (outputs[:, 0, 1] - outputs[:, 0, 0]).square().mean(1))
    several = OutputScores(prepared(outputs, None), binary_cross_entropy)
    p = outputs[:, 0, 0].sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean(1)
    assert torch.allclose(several.losses[:, 0], entropy, atol=1e-6)


def test_a_search_finds_what_enumeration_finds():
    """One view is a little off, two others far off to opposite sides: alone they are worst, together best."""
    torch.manual_seed(0)
    targets = torch.randn(300)
    outputs = targets[:, None, None] + torch.tensor([0.5, 3.0, 0.4, -3.1, 4.0]) + 0.01 * torch.randn(300, 1, 5)
    scores = OutputScores(prepared(outputs, targets), squared_error)
    rows = torch.arange(0, 300, 2)

    def loss(columns):
        return (outputs[rows, 0][:, columns].mean(1) - targets[rows]).square().mean()

    found: list[int] = []
    for k in range(1, 4):
        found.append(min(range(5), key=lambda a: loss([*found, a])))
        assert scores.search(rows, k) == found
    assert scores.search(rows, 1, columns=2) == [0]
    best = min(itertools.combinations(range(5), 2), key=lambda pair: loss(list(pair)))
    assert best == (1, 3)


def test_classes_by_numpy():
    torch.manual_seed(0)
    outputs, targets = torch.randn(50, 1, 4, 3) * 2, torch.randint(3, (50,))
    scores = ClassScores(prepared(outputs, targets))
    p = np.exp(outputs[:, 0].numpy())
    p /= p.sum(-1, keepdims=True)
    views = torch.randint(4, (50, 2))
    mean = np.stack([p[i, views[i]].mean(0) for i in range(50)])
    nll = -np.log(mean[np.arange(50), targets]).mean()
    assert scores.average_loss(views) == pytest.approx(nll, rel=1e-5)
    assert np.allclose(scores.average(views).exp(), mean, atol=1e-6)
    arm = scores.arm("ours", 2, 2, scores.average(views))
    assert (arm.correct == (mean.argmax(1) == targets.numpy())).all()
