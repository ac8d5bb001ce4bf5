import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import load
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.learning.config import FitConfig
from instaaug_transforms.learning.prepared import prepare, stored
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
