"""What README and docs/fit.md promise: what a camera did is undone without labels, and nothing is recommended that does harm."""

import pytest
import torch
from torch import nn

import instaaug_transforms as ia

pytestmark = pytest.mark.usefixtures("one_thread")


class KnowsUpright(nn.Module):
    """Class 0 or 1 by colour where the bright half is the left one, as in every upright image; class 2 otherwise."""

    def forward(self, images):
        upright = 40 * (images[..., :8].mean((1, 2, 3)) - images[..., 8:].mean((1, 2, 3))) - 5
        colour = 40 * (images[:, 0] - images[:, 2]).mean((1, 2))
        return torch.stack([upright + colour, upright - colour, torch.full_like(upright, 15)], 1)


class DoesNotCare(nn.Module):
    """Classes by colour, however the image lies."""

    def forward(self, images):
        colour = 40 * (images[:, 0] - images[:, 2]).mean((1, 2))
        return torch.stack([colour, -colour], 1)


def upright(n: int) -> torch.Tensor:
    """Red and blue images, the left half bright."""
    images = 0.1 * torch.rand(n, 3, 16, 16)
    images[..., :8] += 0.4
    images[::2, 0] += 0.3
    images[1::2, 2] += 0.3
    return images


def fit(classifier, n=200):
    aug = ia.LearnedAugment(["turn"], predictor=ia.ConvPredictor(image_size=16, width=8))
    config = ia.FitConfig(epochs=8, entropy_weights=(0.1,), held_out=0.3, progress=False)
    return aug, ia.fit(aug, classifier, upright(n), nuisance=["turn"], config=config)


def test_turned_images_are_put_right_without_labels(tmp_path):
    classifier = KnowsUpright()
    aug, result = fit(classifier)
    arms = {(arm.name, arm.n_views): arm.correct.mean() for arm in result.report.arms}
    assert result.report.against == "the classifier's own answers" and result.report.n_images == 60
    assert arms["one view", 1] < 0.8 and arms["ours", 1] > 0.95  # three quarters of one half are turned
    assert result.report.recommended.name == "ours" and "recommended: ours" in str(result.report)

    test = upright(40)
    turned = torch.cat([test[k * 10 : k * 10 + 10].rot90(k, (-2, -1)) for k in range(4)])
    model, answers = ia.TTAModel.recommended(classifier, aug, result), classifier(test).argmax(1)
    assert (model(test).argmax(1) == answers).float().mean() > 0.95
    assert (model(turned).argmax(1) == answers).float().mean() > 0.95
    assert (classifier(turned).argmax(1) == answers).float().mean() < 0.3

    aug.save(tmp_path / "turn.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "turn.safetensors")
    assert torch.equal(ia.TTAModel.recommended(classifier, again)(turned), model.eval()(turned))


def test_one_view_is_recommended_where_looking_does_not_pay():
    classifier = DoesNotCare()
    aug, result = fit(classifier, 60)
    assert result.report.recommended.name == "one view" and "use the classifier as it is" in str(result.report)
    model, test = ia.TTAModel.recommended(classifier, aug, result), upright(6)
    assert torch.allclose(model(test), classifier(test), atol=1e-5)


def test_a_policy_is_the_mean_over_its_views():
    classifier, images = KnowsUpright(), upright(5)
    model = ia.TTAModel(classifier, ia.LearnedAugment(["turn"]), 2, policy={"turn_angle": [0, 180]})
    mean = (classifier(images).softmax(1) + classifier(images.rot90(2, (-2, -1))).softmax(1)) / 2
    assert torch.allclose(model(images).softmax(1), mean, atol=1e-5)
