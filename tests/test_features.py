"""φ on a classifier's own features."""

import math
import threading
import time

import numpy as np
import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.integrations.timm import wrap
from instaaug_transforms.predictors.features import levels_of
from instaaug_transforms.predictors.taps import Taps, as_map, find_layer
from instaaug_transforms.utils.describe import model_sha256
from instaaug_transforms.utils.hashing import fingerprint

from .conftest import Small
from .test_fit import corner_images


def test_what_is_tapped_is_what_the_layers_give(model):
    images = torch.rand(2, 3, 32, 32)
    assert find_layer(model, images) == ("stem", 3)
    model.train()
    tapped = Taps(model, "stem", 3)(images)
    assert all(m.training for m in model.modules()) and not model._forward_hooks and not model.stem._forward_hooks
    model.eval()
    with torch.no_grad():
        maps = model.stem(images)
        assert torch.equal(tapped.map, maps)
        assert torch.equal(tapped.penultimate, model.deep(maps).mean((2, 3)))
        assert torch.equal(tapped.logits, model(images))


class Wide(nn.Module):
    """Maps twice as wide as high, which are not found by themselves."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.idle = nn.Conv2d(3, 8, 3, (2, 1), 1), nn.Linear(8, 4), nn.Identity()

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def test_a_layer_that_is_named_need_not_be_found():
    model, images = Wide().eval(), torch.rand(2, 3, 32, 32)
    with pytest.raises(
        ia.InstaAugError, match=r"feature map that is square; name one, FeaturesPredictor\(…, layer=…\)"
    ):
        ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(model, 32))
    aug = ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(model, 32, layer="conv"))
    tapped = aug.predictor.tap(images)
    with torch.no_grad():
        assert torch.allclose(tapped.map, nn.functional.adaptive_avg_pool2d(model.conv(images), 8))
    assert tapped.logits.shape == (2, 4) and aug(images).shape == images.shape


@pytest.mark.parametrize(("layer", "given"), [("head", r"gives a tensor \(2, 4\)"), ("idle", "was not run")])
def test_a_named_layer_that_gives_no_map_is_named(layer, given):
    with pytest.raises(ia.InstaAugError, match=f"layer: expected maps .*, and '{layer}' {given}"):
        ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(Wide().eval(), 32, layer=layer))


def test_threads_that_ask_a_classifier_in_training_mode_take_turns():
    """The second came while the first was under way, found eval mode, lost it halfway and left the classifier in it."""

    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.1)
            return x

    norm = nn.BatchNorm2d(4)
    layers = nn.Conv2d(3, 4, 3, 2, 1), Slow(), norm, nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(256, 3)
    model, images, found = nn.Sequential(*layers), torch.rand(4, 3, 32, 32), []
    taps, before = Taps(model, "2", 3), norm.running_mean.clone()
    with torch.no_grad():
        alone = model.eval()(images)
    model.train()
    threads = [threading.Thread(target=lambda: found.append(taps(images).logits)) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(torch.equal(logits, alone) for logits in found)
    assert all(module.training for module in model.modules()) and torch.equal(norm.running_mean, before)


@pytest.mark.parametrize(
    ("name", "layer", "channels"),
    [
        ("resnet18", "model.layer2", 128),
        ("vit_tiny_patch16_224", "model.blocks", 192),
        ("convnext_atto", "model.stages.1", 80),
        ("swin_s3_tiny_224", "model.layers.1", 192),
    ],
)
def test_layers_are_found_in_timm_models(name, layer, channels):
    size = {"img_size": 64} if "vit" in name or "swin" in name else {}
    if "vit" in name:
        size["patch_size"] = 8
    model = wrap(timm.create_model(name, num_classes=7, **size))
    images = torch.rand(2, 3, 64, 64)
    found, classes = find_layer(model, images)
    tapped = Taps(model, found, classes)(images)
    assert found.startswith(layer) and classes == 7
    assert tapped.map.shape[:2] == (2, channels) and max(tapped.map.shape[2:]) == 8
    assert tapped.penultimate.ndim == 2 and tapped.logits.shape == (2, 7)


def test_keys_of_an_attention_are_no_map():
    """Few tokens: the normalised keys (B, heads, tokens, d) are larger than the map, and were taken for one."""
    model = wrap(timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64, qk_norm=True))
    layer, classes = find_layer(model, torch.rand(2, 3, 64, 64))
    assert Taps(model, layer, classes)(torch.rand(2, 3, 64, 64)).map.shape == (2, 192, 4, 4)  # 64/16


@pytest.mark.parametrize("name", ["mixer", "attention", "channels"])
def test_what_mixes_tokens_is_no_map(name):
    """The token layers of a mixer, and attention weights, are as square as a map; but a patch of the image is not found there."""
    torch.manual_seed(0)
    if name == "mixer":
        model = MlpMixer(num_classes=7, img_size=32, patch_size=8, embed_dim=64, num_blocks=2)
    elif name == "attention":
        model = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64, depth=2)
        for block in model.blocks:
            block.attn.fused_attn = False  # then its weights pass a module
    else:
        model = timm.create_model("edgenext_xx_small", num_classes=7)
    size = {"mixer": 32, "attention": 64, "channels": 224}[name]
    model = wrap(model)
    images = torch.full((5, 3, size, size), 0.5)
    layer, classes = find_layer(model, images[:2])
    for i in range(4):  # one quadrant each
        top, left = size // 2 * (i // 2), size // 2 * (i % 2)
        images[i, :, top : top + size // 2, left : left + size // 2] = torch.rand(3, size // 2, size // 2)
    maps = Taps(model, layer, classes)(images).map
    changed = torch.nn.functional.adaptive_avg_pool2d((maps[:4] - maps[4:]).abs().mean(1), 2)
    assert changed.flatten(1).argmax(1).tolist() == [0, 1, 2, 3]


def test_tokens_become_maps_in_reading_order():
    tokens = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    maps = as_map(tokens)  # the class token comes first
    assert maps.shape == (2, 3, 2, 2) and torch.equal(maps[0, :, 0, 1], tokens[0, 2])
    assert as_map(torch.zeros(2, 4, 4, 6)).shape == (2, 6, 4, 4)


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
    [(nn.Flatten(), "none of its layers"), (nn.Conv2d(3, 4, 3), r"logits \(B, classes\)")],
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
    assert (report.recommended.name == "ours") == levels


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
