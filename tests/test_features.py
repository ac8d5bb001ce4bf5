"""φ on a classifier's own features."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

import instaaug_transforms as ia
from instaaug_transforms.predictors.features import levels_of
from instaaug_transforms.utils.describe import model_sha256
from instaaug_transforms.utils.hashing import fingerprint

from .conftest import Small
from .test_fit import corner_images


def test_the_classifier_is_no_part_of_the_transform(model, aug):
    names = list(aug.state_dict())
    assert not any("stem" in name or "deep" in name for name in names)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in aug.parameters()}
    assert aug.predictor.classifier is model


def test_it_starts_near_the_identity_and_samples(aug):
    images = torch.rand(16, 3, 32, 32)
    dist = aug.eval().distribution(images)
    assert dist.parts["crop"].categorical.probs[:, 0].mean() > 0.8
    angle = dist.parts["rotate"].fields["angle"]
    assert (angle.hi - angle.lo).max() < 20
    assert aug(images).shape == images.shape


def test_eval_output_does_not_depend_on_the_batch(aug):
    images = torch.rand(5, 3, 32, 32)
    together = aug.eval().predictor(images)
    alone = aug.predictor(images[2:3])
    assert all(torch.allclose(together[name][2:3], alone[name], atol=1e-5) for name in together)


def test_larger_images_are_looked_at_as_copies(aug):
    aug.eval()
    small = torch.rand(2, 3, 32, 32)
    large = nn.functional.interpolate(small, size=96, mode="nearest")
    a, b = (aug.distribution(x).parts["crop"].categorical.probs for x in (small, large))
    assert torch.allclose(a, b, atol=1e-3)


def test_what_is_kept_says_the_same_as_a_forward(aug):
    images = torch.rand(4, 3, 32, 32)
    aug.eval()
    kept = aug.predictor.encode(images)
    assert all(part.dtype == torch.float16 for part in kept)
    for name, raw in aug.predictor.decode(*kept).items():
        assert torch.allclose(raw, aug.predictor(images)[name], atol=5e-3), name


def test_it_learns_what_the_classifier_knows():
    """Corners are in the classifier's map, so crops find the object."""

    class Bright(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.AvgPool2d(4)
            self.head = nn.Linear(3, 2)
            with torch.no_grad():
                self.head.weight.copy_(torch.tensor([[0.0] * 3, [4.0] * 3]))
                self.head.bias.copy_(torch.tensor([0.0, -4.2]))

        def forward(self, x):
            return self.head(self.map(x).mean((2, 3)))

    images, labels, _ = corner_images(256)
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["crop"], predictor=ia.FeaturesPredictor(Bright(), image_size=32))
    config = ia.FitConfig(
        entropy=ia.EntropyConfig({"crop": (0.1, 0.3)}, rate=0.02), epochs=25, batch_size=32, lr=5e-3, progress=False
    )
    ia.fit(aug, aug.predictor.classifier, (images, labels), config=config)
    test_images, _, corner = corner_images(100, seed=1)
    anchor = aug.eval().distribution(test_images).mode
    assert ((anchor.cx > 0.5).long() == corner % 2).float().mean() > 0.95
    assert ((anchor.cy > 0.5).long() == corner // 2).float().mean() > 0.95


def test_dropout_is_seeded_and_leaves_the_global_generator_alone(model):
    images, labels, _ = corner_images(24)
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(0)
        aug = ia.LearnedAugment(["crop"], predictor=ia.FeaturesPredictor(model, image_size=32))
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        ia.fit(aug, model, (images, labels), config=ia.FitConfig(epochs=2, batch_size=8, progress=False))
        assert torch.equal(before, torch.get_rng_state())
        states.append(aug.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_weights_come_back_with_their_classifier_alone(tmp_path, model, aug):
    path = tmp_path / "mine.safetensors"
    aug.save(path)
    images = torch.rand(3, 3, 32, 32)
    loaded = ia.LearnedAugment.from_pretrained(path, classifier=model)
    for name, raw in loaded.predictor(images).items():
        assert torch.equal(raw, aug.eval().predictor(images)[name])
    with pytest.raises(ia.InstaAugError, match="classifier=model"):
        ia.LearnedAugment.from_pretrained(path)
    other = Small()
    with torch.no_grad():
        other.head.bias.add_(1e-6)
    with pytest.raises(ia.InstaAugError, match="features of another classifier"):
        ia.LearnedAugment.from_pretrained(path, classifier=other)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (nn.Flatten(), "none of its layers"),
        (nn.Conv2d(3, 4, 3), r"logits \(B, classes\)"),
        (nn.Conv2d(1, 4, 3), r"classifier: it does not take images \(2, 3, 64, 64\): .*channels.*image_size=224"),
        (
            VisionTransformer(32, 16, 1, 1, 16, 16),
            r"classifier: it does not take images \(2, 3, 64, 64\): Wrong.*height",
        ),
    ],
)
def test_errors(classifier, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.LearnedAugment(["crop"], predictor=ia.FeaturesPredictor(classifier))


def test_classes_that_the_classifier_rules_out_leave_finite_features(model, images):
    """Logits of −∞: of an image whose other two are equal, the posterior is ½ and ½, entropy ln 2, the lead 0."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            logits = self.inner(x)
            return torch.stack([logits[:, 0], logits[:, 0], torch.full_like(logits[:, 0], -torch.inf)], 1)

    aug = ia.LearnedAugment(["crop", "rotate"], predictor=ia.FeaturesPredictor(Masked(), image_size=32)).eval()
    for seen in (aug.predictor.tap(images), aug.predictor.encode(images)):  # as it is looked at, and as a fit keeps it
        vector = aug.predictor.features(*seen).vector[:, -6:]
        expected = torch.tensor([1.5**0.5, 1.5**0.5, 0.0, -math.log(2), math.log(2), 0.0])
        assert torch.allclose(vector, expected.expand_as(vector), atol=1e-3)
    loss = sum(raw.sum() for raw in aug.predictor(images).values())
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in aug.parameters())


def test_levels_are_quantiles_of_a_small_copy():
    images = torch.rand(3, 3, 32, 32)
    pixels = images.flatten(2).numpy()
    expected = np.stack([np.quantile(pixels, q, 2, method="nearest") for q in (0.02, 0.1, 0.5, 0.9, 0.98)], 2)
    assert np.array_equal(levels_of(images).numpy(), expected)
    larger = images.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert levels_of(larger).shape == (3, 3, 5)
    assert (levels_of(larger) - levels_of(images)).abs().max() < 0.2  # antialiased, so smoother


def test_levels_are_read_where_a_family_changes_colours(tmp_path, model):
    for families, levels in ((["crop", "turn"], False), (["light"], True), (["rotate", "hsv"], True)):
        aug = ia.LearnedAugment(families, predictor=ia.FeaturesPredictor(model, image_size=32))
        assert aug.predictor.config()["levels"] is levels
    images = torch.rand(3, 3, 32, 32)
    aug.save(tmp_path / "mine.safetensors")
    loaded = ia.LearnedAugment.from_pretrained(tmp_path / "mine.safetensors", classifier=model)
    assert torch.equal(loaded.predictor(images)["hsv"], aug.eval().predictor(images)["hsv"])
    # Files from before there were levels have none.
    config = {name: value for name, value in aug.predictor.config().items() if name != "levels"}
    assert ia.FeaturesPredictor.from_config(config, model).levels is False


@pytest.mark.parametrize("levels", [False, True])
def test_levels_tell_the_light_that_a_classifier_takes_out(levels):
    """φ reads a network that sees every image at the same brightness, and is fitted to one that does not."""
    torch.set_num_threads(1)

    class Blind(Small):
        def forward(self, x):
            mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
            return super().forward((x - mean) / (std + 1e-6))

    class Exposed(
        nn.Module
    ):  # sure which side of a picture is brighter where half of it is, and of nothing darker or brighter
        def forward(self, x):
            off, side = (x.mean((2, 3)) - 0.5).abs().mean(1), 200 * (x[..., :16] - x[..., 16:]).mean((1, 2, 3))
            return torch.stack([4 - 40 * off + side, 4 - 40 * off - side, torch.zeros_like(off)], 1)

    torch.manual_seed(0)
    images = torch.rand(160, 3, 32, 32)
    predictor = ia.FeaturesPredictor(Blind().eval(), image_size=32, levels=levels)
    aug = ia.LearnedAugment(["light"], predictor=predictor)
    config = ia.FitConfig(max_steps=300, batch_size=32, nuisance_probability=1, progress=False)
    report = ia.fit(aug, Exposed(), images, nuisance=["light"], config=config).report
    right = {(arm.name, arm.n_views): float(arm.correct.mean()) for arm in report.arms}
    assert (right["ours", 1] - max(right["one view", 1], right["best input-free", 1]) > 0.15) == levels
    assert report.recommended.name == "ours" or not levels


def test_a_compiled_classifier_is_the_same_one(model, images):
    """And its features are read past the compiler, which goes past hooks."""
    model.eval()
    compiled = torch.compile(model, backend="eager")
    compiled(images), compiled(images)
    torch.manual_seed(1)
    plain = ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(model, image_size=32)).eval()
    torch.manual_seed(1)
    other = ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(compiled, image_size=32)).eval()
    assert plain.predictor.classifier_sha256 == other.predictor.classifier_sha256
    raw, again = plain.predictor(images), other.predictor(images)
    assert torch.equal(raw["turn"], again["turn"])
    spread = nn.DataParallel(model)
    assert fingerprint(spread) == fingerprint(compiled) == fingerprint(model)
    assert model_sha256(spread) == model_sha256(compiled) == model_sha256(model)


def test_weights_trained_along_with_their_classifier_are_loaded_with_what_it_became(model, tmp_path, images):
    model.eval()
    aug = ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(model, image_size=32)).eval()
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    aug.save(tmp_path / "a.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors", classifier=model).eval()
    assert torch.equal(again.predictor(images)["turn"], aug.predictor(images)["turn"])
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    with pytest.raises(ia.InstaAugError, match="features of another classifier"):
        ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors", classifier=model)


def test_models_that_keep_more_than_tensors_have_a_fingerprint():
    class Versioned(nn.Linear):
        version = 3

        def get_extra_state(self):
            return {"version": self.version}

        def set_extra_state(self, state):
            self.version = state["version"]

    torch.manual_seed(0)
    layer, other = Versioned(4, 3), Versioned(4, 3)
    other.load_state_dict(layer.state_dict())
    assert fingerprint(layer) == fingerprint(other)
    other.version = 4
    assert fingerprint(layer) != fingerprint(other)
