"""Predictors that do not look: one range for all, per class, symmetric."""

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.families.rotate import Rotate
from instaaug_transforms.predictors import ClassPredictor


def angles(aug, images, **kwargs):
    _, sample = aug.sample(images, **kwargs)
    return sample.distribution.parts["rotate"].fields["angle"]


def test_the_start_is_that_of_the_looking_predictor(images):
    blind = ia.LearnedAugment(["crop", "rotate", "hsv"], predictor="global").distribution(images)
    probs = blind.parts["crop"].categorical.probs
    assert probs[:, 0].allclose(torch.tensor(0.9), atol=1e-4)
    assert probs[:, 1:5].sum(1).allclose(torch.tensor(0.1 / 3), atol=1e-4)
    for fields in (blind.parts["rotate"].fields, blind.parts["hsv"].fields):
        for u in fields.values():
            assert ((u.hi - u.lo) / (u.bounds[1] - u.bounds[0])).allclose(torch.tensor(0.02), atol=1e-4)


def test_every_image_gets_the_same_and_it_learns(images):
    aug = ia.LearnedAugment(["crop", "rotate"], predictor="global")
    objective = ia.InstaAugObjective(aug)
    views, sample = aug.sample(images, 2)
    objective(views.mean((1, 2, 3)), sample).backward()
    assert all(p.grad.abs().sum() > 0 for p in aug.parameters())
    entropy = aug.distribution(images).entropy()
    assert torch.equal(entropy, entropy[:1].expand(6))


def test_symmetric_ranges_stay_centred_whatever_is_learned(images):
    aug = ia.LearnedAugment([Rotate(bounds=(-90, 90))], predictor="symmetric")
    with torch.no_grad():
        for parameter in aug.predictor.parameters():
            parameter.normal_()
    angle = angles(aug, images)
    assert angle.lo.allclose(-angle.hi, atol=1e-4) and (angle.hi > 5).all()


def test_class_specific_reads_the_label_and_averages_without_one(images):
    aug = ia.LearnedAugment(["rotate"], predictor=ClassPredictor(3))
    with torch.no_grad():
        aug.predictor.raw["rotate"].copy_(torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    angle = angles(aug, images, labels=torch.tensor([0, 1, 2, 2, 1, 0]))
    widths = (angle.hi - angle.lo) / 360
    assert widths.tolist() == pytest.approx(torch.tensor([-1.0, 0, 1, 1, 0, -1]).sigmoid().tolist(), abs=1e-5)
    mean = aug.distribution(images).parts["rotate"].fields["angle"]
    assert ((mean.hi - mean.lo) / 360).allclose(torch.tensor(0.5), atol=1e-5)


@pytest.mark.parametrize(
    "kwargs", [{"predictor": "global"}, {"predictor": "symmetric"}, {"predictor": ClassPredictor(4)}]
)
def test_saved_and_loaded(kwargs, images, tmp_path):
    aug = ia.LearnedAugment(["rotate", "hsv"], **kwargs)
    with torch.no_grad():
        for parameter in aug.predictor.parameters():
            parameter.normal_()
    aug.save(tmp_path / "a.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors")
    assert again.predictor.config() == aug.predictor.config()
    assert torch.equal(again.distribution(images).mode.hue, aug.distribution(images).mode.hue)


def test_making_one_leaves_the_random_state_alone():
    torch.manual_seed(3)
    ia.LearnedAugment(["crop"], predictor="global")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_making_one_asks_for_no_accelerator(monkeypatch):
    """With two of them, a fork of all generators warns."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ia.LearnedAugment(["crop"], predictor="global")


def test_errors(images):
    with pytest.raises(
        ia.InstaAugError, match="predictor: unknown name 'magic'; known are class, conv, equivariant, features, global"
    ):
        ia.LearnedAugment(["rotate"], predictor="magic")
    with pytest.raises(ia.InstaAugError, match="'class' needs arguments"):
        ia.LearnedAugment(["rotate"], predictor="class")
    with pytest.raises(ia.InstaAugError, match="n_classes: expected a whole number in 1 … 1,000,000, got 0"):
        ClassPredictor(0)
    with pytest.raises(ia.InstaAugError, match="'crop' has none"):
        ia.LearnedAugment(["crop"], predictor="symmetric")
    with pytest.raises(ia.InstaAugError, match="identity in the middle"):
        ia.LearnedAugment([Rotate(bounds=(0, 90))], predictor="symmetric")
    with pytest.raises(ia.InstaAugError, match="labels: expected .6,. classes in 0 … 1"):
        ia.LearnedAugment(["rotate"], predictor=ClassPredictor(2)).sample(images, labels=torch.full((6,), 2))
    with pytest.raises(ia.InstaAugError, match="labels: .* in 0 … 1, .* torch.int64, from 1 to 2"):
        ia.LearnedAugment(["rotate"], predictor=ClassPredictor(2)).sample(images, labels=torch.arange(6) % 2 + 1)
    with pytest.raises(ia.InstaAugError, match=r"labels: expected a tensor \(6,\), got list"):
        ia.LearnedAugment(["rotate"], predictor=ClassPredictor(2)).sample(images, labels=[0] * 6)
    with pytest.raises(ia.InstaAugError, match="labels: .* torch.float32"):
        ia.LearnedAugment(["rotate"], predictor=ClassPredictor(2)).sample(images, labels=torch.ones(6))
    with pytest.raises(
        ia.InstaAugError, match="aug: a ClassPredictor learns which label means what, and fit shows φ none"
    ):
        ia.fit(
            ia.LearnedAugment(["crop"], predictor=ClassPredictor(2)), torch.nn.Flatten(), (images, torch.arange(6) % 2)
        )
    for predictor in ("conv", "global"):
        with pytest.raises(ia.InstaAugError, match="labels: only ClassPredictor reads them"):
            ia.LearnedAugment(["rotate"], predictor=predictor).sample(images, labels=torch.zeros(6, dtype=torch.long))
