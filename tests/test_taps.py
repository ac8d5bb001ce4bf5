"""Which of a classifier's layers are looked at, and what they give."""

import threading
import time

import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.integrations.timm import wrap
from instaaug_transforms.predictors.taps import Taps, as_map, find_layer


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
