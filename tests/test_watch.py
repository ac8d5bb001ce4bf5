"""What is said in the log: trouble in training, and data, looks and classifiers that do not go together."""

import logging
import re

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.learning.watch import Watch, warn_outside_band

from ._scenes import moving_scenes


@pytest.mark.parametrize(
    ("entropy", "weight", "said"),
    [(-4.0, 1.0, "(almost) nothing is augmented"), (-0.001, 1.0, "widest range"), (-1.2, 30.0, "λ is at its limit")],
)
def test_trouble_is_said_once(entropy, weight, said, caplog):
    aug = ia.LearnedAugment(["rotate"])
    controller = ia.InstaAugObjective(aug, entropy=ia.EntropyConfig(initial_weight=weight)).controller
    watch = Watch(aug.families, patience=20)
    with caplog.at_level(logging.WARNING):
        for _ in range(4 if said == "widest range" else 19):
            watch.update({"rotate": entropy}, controller)
        assert not caplog.records
        for _ in range(20):
            watch.update({"rotate": entropy}, controller)
    assert len(caplog.records) == 1 and said in caplog.records[0].getMessage()
    caplog.clear()
    watch.update({"rotate": -0.6}, controller)
    assert not caplog.records


@pytest.mark.parametrize("given", [True, False])
def test_a_predictor_that_no_optimizer_has_is_said_once(given, caplog):
    aug, model = ia.LearnedAugment(["rotate"]), nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    objective = ia.InstaAugObjective(aug)
    objective.watch.patience = 20
    optimizer = torch.optim.SGD([*model.parameters(), *(objective.parameters() if given else [])], lr=1e-3)
    with caplog.at_level(logging.WARNING):
        for _ in range(25):
            views, sample = aug.sample(torch.rand(2, 3, 8, 8))
            optimizer.zero_grad()
            objective(model(views).square().mean(1), sample).backward()
            optimizer.step()
    said = [record.getMessage() for record in caplog.records if "objective.parameters()" in record.getMessage()]
    assert len(said) == (not given)


@pytest.mark.parametrize(("entropy", "said"), [(3.2, True), (2.5, False)])
def test_a_table_that_runs_open_as_training_begins_is_said_in_time(entropy, said, caplog):
    """Of thirty crops the band is 1.8 to 2.1 nats, and all alike 3.4: short runs from scratch ended 26 points below none."""
    aug = ia.LearnedAugment(["crop"])
    watch, controller = Watch(aug.families), ia.InstaAugObjective(aug).controller
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            watch.update({"crop": entropy}, controller)
    assert ("begin it without augmentation" in caplog.text) == said


@pytest.mark.parametrize(
    ("entropy", "said"),
    [
        (-3.9, r"below its band.*epochs, EntropyConfig\(initial_weight=0.2\) or a higher lr"),
        (0.0, r"above its band.*initial_weight=0.05"),
    ],
)
def test_a_fit_that_ends_outside_its_band_says_what_to_change(entropy, said, caplog):
    controller = ia.InstaAugObjective(ia.LearnedAugment(["rotate"])).controller
    with caplog.at_level(logging.WARNING):
        warn_outside_band({"rotate": -0.6}, controller)
        assert not caplog.records
        warn_outside_band({"rotate": entropy}, controller)
    assert re.search(said, caplog.records[0].getMessage())


def test_a_fit_of_one_epoch_says_that_it_has_not_learned(caplog):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    data = torch.rand(20, 3, 16, 16), torch.randint(3, (20,))
    with caplog.at_level(logging.WARNING):
        ia.fit(ia.LearnedAugment(["rotate"]), model, data, config=ia.FitConfig(epochs=1, progress=False))
    assert "rotate: the epoch that was kept has entropy -3.9" in caplog.text and "more epochs" in caplog.text


def test_a_look_at_another_size_than_the_classifiers_is_said(caplog):
    """On one size it is the classifier's own; views that are made another size count as that size."""
    torch.set_num_threads(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    data, config = (torch.rand(24, 3, 32, 32), torch.arange(24) % 3), ia.FitConfig(max_steps=1, progress=False)
    for size, output_size, said in ((32, None, False), (64, None, True), (16, 16, False)):
        caplog.clear()
        predictor = ia.FeaturesPredictor(model, image_size=size)
        aug = ia.LearnedAugment(["crop"], predictor=predictor, output_size=output_size)
        for call in (ia.fit, ia.recommend):
            call(aug, model.eval(), data, config=config)
            expected = (
                "of 64-pixel copies, and the classifier at 32 pixels; FeaturesPredictor(classifier, image_size=32)"
            )
            assert (expected in caplog.text) == said == ("copies" in caplog.text)
            caplog.clear()


def test_a_model_that_is_fitted_to_without_its_normalisation_is_named(caplog):
    """Bare models of timm and torchvision; not those that carry it, need none, or are somebody's own."""
    torch.set_num_threads(1)
    images, config = torch.rand(24, 3, 32, 32), ia.FitConfig(max_steps=1, progress=False)
    bare = timm.create_model("test_resnet", num_classes=3).eval()
    plain = timm.create_model(
        "test_resnet", num_classes=3, pretrained_cfg_overlay={"mean": (0, 0, 0), "std": (1, 1, 1)}
    )
    theirs = torchvision.models.squeezenet1_1(num_classes=3).eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    cases = [(bare, bare.pretrained_cfg["mean"]), (theirs, mean), (ia.timm.wrap(bare), None), (plain.eval(), None)]
    cases += [(torch.nn.Sequential(v2.Normalize(mean, std), theirs), None)]
    for model, expected in cases:
        aug = ia.LearnedAugment(["turn"])
        for call in (ia.fit, ia.recommend):
            caplog.clear()
            call(aug, model, images, nuisance=["turn"], config=config)
            assert ("normalised" in caplog.text) == (expected is not None)
            assert expected is None or f"v2.Normalize({tuple(expected)}, " in caplog.text


def test_few_numbers_that_are_alike_by_chance_are_no_copies(caplog):
    """Two classes through features: many images have the same rounded logits, and no two are the same."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(8))

        def forward(self, x):
            z = self.body(x).mean((1, 2, 3), keepdim=False)[:, None]
            return torch.cat([0 * z, (8 * z).round()], 1)

    images = torch.rand(80, 3, 16, 16)
    for data, copies in ((images, False), (images[:40].repeat(2, 1, 1, 1), True)):
        caplog.clear()
        aug = ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(Two(), 16))
        config = ia.FitConfig(max_steps=1, progress=False)
        train, val = ((part, torch.arange(40) % 2) for part in data.split(40))
        ia.fit(aug, Two(), train, val, config=config, labels=True)
        assert ("held-out images are among those" in caplog.text) == copies
    caplog.clear()
    ia.fit(ia.LearnedAugment(["turn"], predictor="global"), Two(), (images, torch.arange(80) % 2), config=config)
    assert "held-out images are among those" not in caplog.text


@pytest.mark.parametrize("family", ["turn", "crop", "light"])
def test_a_table_that_has_collapsed_is_said_however_small(family, caplog):
    """Its entropy cannot fall by a nat where its band begins at half a nat."""
    aug = ia.LearnedAugment([family])
    watch, controller = Watch(aug.families, patience=5), ia.EntropyController(aug.families)
    low = controller.bands[family][0]
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            watch.update({family: 0.6 * low}, controller)
        assert not caplog.records or low > 2
        caplog.clear()
        for _ in range(10):
            watch.update({family: 0.01}, controller)
    assert sum("nothing is augmented" in record.getMessage() for record in caplog.records) == 1 or low > 2


def test_frames_of_scenes_that_are_learned_from_are_said_of_val_data(caplog):
    """Where the user says which images to choose on, they are left as they are."""
    frames = moving_scenes(60, 8)
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 3)).eval()
    config = ia.FitConfig(max_steps=1, progress=False)
    for val, said in ((frames[:, 7], True), (moving_scenes(60, 1, seed=1)[:, 0], False)):
        caplog.clear()
        ia.fit(ia.LearnedAugment(["turn"]), model, frames[:, :7].flatten(0, 1), val, config, nuisance=["turn"])
        assert ("look nearly like one" in caplog.text and "groups=" in caplog.text) == said
