"""What `LearnedAugment.sample` refuses, because it would teach φ nothing."""

import pytest
import torch
import torch.nn.functional as F

import instaaug_transforms as ia

from .test_objective import grads, make


@pytest.mark.parametrize(
    ("families", "images", "kwargs", "message"),
    [
        (["rotate"], torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, "bytes carry no gradient; give floats"),
        (["crop", "hsv"], torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, "images: hsv learn through the views"),
        (["rotate"], torch.zeros(2, 3, 8, 8), {"interpolation": "nearest"}, "'nearest' no gradient reaches rotate"),
        (
            ["crop"],
            torch.zeros(2, 3, 8, 8),
            {"predictor": ia.predictors.ClassPredictor(3)},
            "labels: a ClassPredictor learns",
        ),
    ],
)
def test_views_that_would_teach_nothing_are_refused_while_phi_learns(families, images, kwargs, message):
    aug = ia.LearnedAugment(families, **kwargs)
    with pytest.raises(ia.InstaAugError, match=message):
        aug.sample(images)
    with torch.no_grad():
        assert len(aug.sample(images)[0]) == 2
    assert len(aug.requires_grad_(False).sample(images)[0]) == 2


def test_bytes_teach_candidates_as_floats_do():
    """A crop learns by the score function of the losses, through no pixel."""
    pixels, y = torch.randint(256, (4, 3, 16, 16)).byte(), torch.tensor([0, 1, 2, 1])
    found = []
    for images in (pixels, pixels / 255):
        aug, objective, model = make(["crop"])
        views, sample = aug.sample(images, 2, generator=torch.Generator().manual_seed(1))
        views = views / 255 if views.dtype == torch.uint8 else views
        objective(F.cross_entropy(model(views), y.repeat(2), reduction="none"), sample).backward()
        found.append(torch.cat([g.flatten() for g in grads(aug.predictor.heads)]))
    assert torch.allclose(*found, atol=2e-3) and found[0].abs().sum() > 0
