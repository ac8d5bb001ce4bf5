import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages, load
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.learning.config import FitConfig
from instaaug_transforms.learning.prepared import Prepared, prepare, stored
from instaaug_transforms.learning.task import Task


@pytest.mark.parametrize("offset", [0.0, -5e4, 1e4, 1e6])
@pytest.mark.parametrize("scale", [0.02, 1.0, 50.0])
def test_halves_say_what_the_logits_did(offset, scale):
    """What all classes have in common changes no probability: half precision has steps of 8 at 10,000, and takes 70,000 for infinity."""
    logits = scale * torch.randn(20, 3, 5) + offset
    logits[0, 0, 1] = -torch.inf
    kept = stored(logits, torch.float16)
    assert kept.dtype == torch.float16 and kept.isfinite().all()
    torch.testing.assert_close(kept.double().softmax(-1), logits.double().softmax(-1), atol=0.02, rtol=0)
    assert torch.equal(stored(logits, torch.float32), logits)


@pytest.mark.parametrize("output_size", [None, 8, (8, 12)])
def test_phi_learns_from_images_as_large_as_those_it_will_look_at(output_size):
    """Quarter turns of a quarter turn are taken from one table; what φ sees of each is the turned image itself."""
    images, classifier = torch.rand(3, 3, 64, 64), nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()).eval()
    aug = ia.LearnedAugment(["turn"], output_size=output_size)
    data = load(images)
    task = Task.of(aug, classifier, "cross_entropy", FitConfig(), ["turn"], None, data, False)
    rows = prepare(task, data, "table", CandidateProduct(aug.anchor_families).candidates()).rows
    for draw in range(4):
        copy = images.rot90(draw, (-2, -1))
        assert torch.equal(rows["seen-0"].tensor()[:, draw], aug.predictor.encode(copy)[0])
        target = classifier(aug.apply(images, ia.AugmentParams(turn_angle=torch.zeros(3)))).softmax(1)
        for a in range(4):
            answer = classifier(aug.apply(copy, ia.AugmentParams(turn_angle=torch.full((3,), 90.0 * a))))
            losses = nn.functional.cross_entropy(answer, target, reduction="none")
            assert torch.allclose(rows["losses"].tensor()[:, draw, a], losses, atol=1e-5)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("draws", [1, 2])
def test_every_held_out_image_is_there_disturbed_and_as_it_is(probability, draws):
    """Whatever the nuisance's probability, which is what the copies weigh; φ learns from as many disturbed ones as it says."""
    images, model = torch.rand(200, 3, 8, 8), nn.Sequential(nn.AvgPool2d(4), nn.Flatten()).eval()
    aug = ia.LearnedAugment(["turn"])
    config = FitConfig(nuisance_probability=probability, nuisance_draws=draws)
    data = load(images)
    task = Task.of(aug, model, "cross_entropy", config, [inverted], None, data, False)
    views = CandidateProduct(aug.anchor_families).candidates()
    held = prepare(task, data, "val_table", views, logits=torch.float32)
    said = held.rows["logits"].tensor()[:, :, 0]  # of the images as they came
    as_it_is, disturbed = (model(each)[:, None] for each in (images, 1 - images))
    left = (said - as_it_is).abs().amax(-1) < 1e-5
    assert torch.equal(left, ~((said - disturbed).abs().amax(-1) < 1e-5))
    assert held.draws == 2 * draws and (left.sum(1) == draws).all() and torch.equal(held.undisturbed, left.flatten())
    weights = held.weight(torch.arange(400 * draws))
    torch.testing.assert_close(weights, torch.where(left.flatten(), 2 - 2 * probability, 2 * probability))
    train = prepare(task, data, "table", views)
    turned = train.rows["losses"].tensor()
    assert turned.shape[:2] == (200, draws) and train.weights is None


def inverted(image):
    return 1 - image


@pytest.mark.parametrize("shape", [(), (3,)])
def test_means_over_copies_that_are_not_equally_likely(shape):
    weights, values = torch.rand(12), torch.rand(12, *shape)
    held = Prepared(LabelledImages(torch.zeros(4, 3, 8, 8)), 3, {}, torch.device("cpu"), weights)
    assert np.allclose(held.mean(values), np.average(values.numpy(), 0, weights) * weights.numpy().mean(), atol=1e-6)
    if not shape:
        by_hand = [(weights[i : i + 3] * values[i : i + 3]).mean() for i in range(0, 12, 3)]
        assert np.allclose(held.per_image(values), by_hand, atol=1e-6)
    assert held.copies(torch.tensor([2, 0])).tolist() == [6, 7, 8, 0, 1, 2]
