"""What a fit notices of held-out images, and of the classifier that its recommendation is for."""

import pytest
import torch
from torch import nn

import instaaug_transforms as ia

from .test_harmless import Corners, corners


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("copies", [0, 10])
def test_held_out_images_that_are_among_the_others_are_noticed(copies, features, caplog):
    torch.set_num_threads(1)
    (images, labels), (others, theirs) = corners(40), corners(30)
    others[:copies], theirs[:copies] = images[:copies], labels[:copies]
    classifier = ia.timm.create_classifier("test_resnet", num_classes=4).eval()
    predictor = ia.FeaturesPredictor(classifier, 16) if features else "patches"
    aug, config = ia.LearnedAugment(["turn"], predictor=predictor), ia.FitConfig(max_steps=1, progress=False)
    ia.fit(aug, classifier, (images, labels), (others, theirs), config)
    said = "val_data: 10 of the 30 held-out images are among those φ learns from" in caplog.text
    assert said == bool(copies)


def test_held_out_images_are_counted_once_though_a_nuisance_leaves_two_of_each(caplog):
    torch.set_num_threads(1)
    (images, _), (others, _) = corners(40), corners(30)
    others[:10] = images[:10]
    aug, config = ia.LearnedAugment(["turn"]), ia.FitConfig(max_steps=1, progress=False)
    ia.fit(aug, Corners().eval(), images, others, config, nuisance=["turn"])
    assert "val_data: 10 of the 30 held-out images are among those φ learns from" in caplog.text


def test_what_is_recommended_is_of_one_classifier_and_one_fit(tmp_path, caplog):
    torch.set_num_threads(1)
    data = corners(40)
    aug, config = ia.LearnedAugment(["turn"]), ia.FitConfig(max_steps=1, held_out=0.5, progress=False)
    one, other = (nn.Sequential(Corners(), nn.Linear(4, 4).eval()) for _ in range(2))
    ia.fit(aug, one, data, config=config)
    aug.save(tmp_path / "w.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "w.safetensors")
    ia.TTAModel.recommended(one, again)
    assert "another one" not in caplog.text
    ia.TTAModel.recommended(other, again)
    assert "found on held-out images of another one" in caplog.text
    maps = nn.Sequential(Corners(), nn.Unflatten(1, (4, 1, 1)), nn.Upsample(40))  # whose pixels move with the views
    loss = lambda outputs, targets: outputs.square().flatten(1).mean(1)  # noqa: E731
    result = ia.fit(again.requires_grad_(True), maps, data, loss=loss, config=config)
    assert result.report is None and "report: none" in caplog.text
    objective = ia.InstaAugObjective(aug)
    views, sample = aug.sample(data[0][:4])
    objective(views.mean((1, 2, 3)), sample)
    for changed in (again, aug):
        with pytest.raises(ia.InstaAugError, match="nothing says which setting won"):
            ia.TTAModel.recommended(one, changed)
