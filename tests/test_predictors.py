import numpy as np
import pytest
import torch
from PIL import Image

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.families.base import GAIN
from instaaug_transforms.families.boxes import box_windows
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.predictors import ConvPredictor, EquivariantPredictor, PatchPredictor, conv, copies

from .conftest import make_lively


def test_size_and_start():
    aug = ia.LearnedAugment(["crop", "rotate", "hsv"])
    assert sum(p.numel() for p in aug.predictor.parameters()) <= 100_000
    probs = aug.distribution(torch.rand(4, 3, 64, 64)).parts["crop"].categorical.probs
    assert torch.allclose(probs[:, 0], torch.full((4,), 0.9), atol=0.01)
    assert torch.allclose(probs[:, 1:5].sum(1), torch.full((4,), 0.1 / 3), atol=0.01)


@pytest.mark.parametrize("crop", [Crop(), Crop(scales=(1.0, 0.75, 0.375), grids=(1, 8, 16))])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_a_patch_at_an_anchor_changes_that_anchors_logit_most(crop, size):
    """With an anti-transposed map unit (i, j) would crop at the wrong place.

    Through the whole network, at the finest scale, whose boxes overlap least; the other scales follow below.
    """
    members = (crop.anchors[:, 2] - min(crop.scales)).abs() < 1e-4
    boxes = crop.anchors[members]
    response = torch.zeros(len(boxes), len(boxes))  # (patch, anchor)
    for seed in range(20):  # random weights answer with random signs: their mean size is what counts
        torch.manual_seed(seed)
        aug = ia.LearnedAugment([crop])
        head = aug.predictor.heads["crop"]
        with torch.no_grad():
            head.context.weight.zero_()  # what is common to all anchors
            head.weight.copy_(torch.rand_like(head.weight))
            texture = 0.5 * torch.rand(1, 3, *size)
            patched = texture.repeat(len(boxes), 1, 1, 1)
            for k, (cx, cy) in enumerate(boxes[:, :2].tolist()):
                y, x, r = int(cy * size[0]), int(cx * size[1]), size[0] // 32
                patched[k, :, y - r : y + r, x - r : x + r] = 1
            response += (aug.predictor(patched)["crop"] - aug.predictor(texture)["crop"])[:, members].abs()
    strongest = response.argmax(1)
    offset = (boxes[strongest, :2] - boxes[:, :2]).abs().max(1).values
    # The grid of 16 is finer than the feature map, whose units are 1/8 apart: one unit off at most.
    assert (offset <= (1e-6 if len(boxes) == 16 else 0.13)).all()
    mirrored = torch.stack([1 - boxes[:, 1], 1 - boxes[:, 0]], 1)  # where an anti-transposed map would answer
    assert (boxes[strongest, :2] - mirrored).abs().max(1).values.mean() > 0.2


@pytest.mark.parametrize("crop", [Crop(), Crop(scales=(1.0, 0.75, 0.375), grids=(1, 8, 16)), Crop(flips=True)])
def test_what_lies_at_an_anchors_centre_counts_most_for_that_anchor(crop):
    n = sum(g * g for g in crop.grids)
    size = 96
    windows = box_windows(crop.anchors[:n], (size, size)).T.unflatten(1, (size, size))  # (A, h, w)
    assert torch.allclose(windows.sum((1, 2)), torch.ones(n), atol=1e-5)
    for a, (cx, cy, side, _, _) in enumerate(crop.anchors[:n].tolist()):
        same = (crop.anchors[:n, 2] - side).abs() < 1e-4
        here = windows[:, min(int(cy * size), size - 1), min(int(cx * size), size - 1)]
        assert here[a] >= here[same].max() * (1 - 1e-3)


def test_every_head_and_the_trunk_get_gradients_from_their_family(images):
    for name in ("crop", "rotate", "hsv"):
        aug = ia.LearnedAugment(["crop", "rotate", "hsv"])
        params = aug.distribution(images)
        part = params.parts[name]
        part.entropy().mean().backward()
        trunk = [p.grad for p in aug.predictor.embed.parameters()]
        assert all(g is not None and g.isfinite().all() for g in trunk) and sum(g.abs().sum() for g in trunk) > 0
        for other, head in aug.predictor.heads.items():
            total = sum(p.grad.abs().sum() for p in head.parameters() if p.grad is not None)
            assert (total > 0) == (other == name)


def test_pathwise_gradient_reaches_the_trunk(images):
    aug = ia.LearnedAugment(["rotate", "hsv"])
    aug(images).square().mean().backward()
    for module in (aug.predictor.embed, *aug.predictor.heads.values()):
        grads = [p.grad for p in module.parameters()]
        assert all(g is not None and g.isfinite().all() for g in grads) and sum(g.abs().sum() for g in grads) > 0


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_output_does_not_depend_on_the_batch(images, mode):
    """An invariance module with BatchNorm that never enters eval mode."""
    aug = getattr(make_lively(["crop", "rotate", "hsv"]), mode)()
    together = aug.predictor(images)
    for b in range(len(images)):
        alone = aug.predictor(images[b : b + 1])
        assert all(torch.allclose(alone[name][0], together[name][b], atol=1e-5) for name in together)
    assert not list(aug.predictor.buffers(recurse=False)) and "running_mean" not in str(
        aug.predictor.state_dict().keys()
    )


def test_a_larger_copy_of_an_image_gets_the_same_ranges():
    small = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 128, 128), 8, 1)[..., ::2, ::2][..., :60, :60]
    large = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    aug = make_lively(["rotate"])
    a, b = (aug.distribution(x).parts["rotate"].fields["angle"] for x in (small, large))
    assert (a.hi - b.hi).abs().max() < 15 and (a.hi - a.lo).max() > 60


def test_bad_size():
    with pytest.raises(ia.InstaAugError, match="multiple of 16 up to 1024, got 50"):
        ia.LearnedAugment(["crop"], predictor=ia.ConvPredictor(image_size=50))


def test_parts_of_a_batch_and_folded_scaling_change_nothing_but_rounding(monkeypatch):
    predictor = ConvPredictor().build(families.create(["crop", "rotate"]))
    images = torch.rand(9, 3, 64, 64)
    whole = predictor(images)
    # The first convolution, written as the text says: of (x − 0.5) / 0.25.
    plain = predictor.trunk[0]((images - 0.5) / 0.25)
    assert torch.allclose(predictor._stem(images), plain, atol=1e-5)
    monkeypatch.setattr(conv, "CHUNK", 4)
    parts = predictor(images)
    assert all(torch.allclose(parts[name], whole[name], atol=1e-5) for name in whole)


def test_the_crop_head_is_its_formula():
    crop = Crop(flips=True)
    predictor = ConvPredictor().build([crop])
    head, images = predictor.heads["crop"], torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        head.weight.normal_()
    seen = {}
    head.register_forward_hook(lambda module, inputs, out: seen.update(features=inputs[0], logits=out))
    predictor(images)
    maps, vector = seen["features"]
    pooled = maps.flatten(2) @ head.windows
    hidden = torch.relu(head.local(pooled.transpose(1, 2)) + head.context(vector).unsqueeze(1))  # (B, A, H)
    scale = torch.tensor([k for k, grid in enumerate(crop.grids) for _ in range(grid * grid)])
    log_n = torch.tensor([float(grid * grid) for grid in crop.grids]).log()
    weight = GAIN * head.weight[:, scale]
    expected = torch.einsum("bah,fah->bfa", hidden, weight) + (head.bias - log_n)[:, scale]
    assert torch.allclose(seen["logits"], expected.flatten(1), atol=1e-5)


def test_multiplications_by_hand():
    def by_hand(trunk: int, wide: int) -> int:
        mix = 64 * wide * 25 + 64 * wide * wide  # depthwise 5 × 5, then 1 × 1, on an 8 × 8 map
        summary = 64 * wide * 16
        head = 64 * wide * 32 + 256 * 32 + 32 * 64 * 30 + 30 * 32 * 4  # 30 boxes, each by the weights of all 4 scales
        return trunk + mix + summary + head

    default = ConvPredictor().build([Crop()])
    assert default.multiplications() == by_hand(256 * 48 * 32 + 64 * 9 * 32 * 64, 64)


def test_multiplications_of_patches_by_hand():
    patches, wide = PatchPredictor().build([Crop()]), 40
    layers = 64 * 48 * wide + 64 * 64 * wide + 64 * wide * wide + 64 * wide * 16  # patches, around, mix, summary
    head = 64 * wide * 32 + 256 * 32 + 32 * 64 * 30 + 30 * 32 * 4
    assert patches.multiplications(224) == layers + head <= 600_000


def test_patches_learn_see_the_place_and_come_back_from_a_file(tmp_path):
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["crop", "turn"], predictor=PatchPredictor(32, 8))
    images = torch.rand(2, 3, 40, 40)
    assert aug.predictor.spec().map_size == (8, 8)
    sum(value.square().sum() for value in aug.predictor(images).values()).backward()
    assert all(weight.grad is not None for weight in aug.predictor.parameters())
    aug.save(tmp_path / "small.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "small.safetensors")
    assert again.predictor.config() == {"kind": "patches", "image_size": 32, "width": 8}
    assert all(torch.equal(again.predictor(images)[name], value) for name, value in aug.predictor(images).items())


def test_patches_are_what_torch_nn_makes_of_them():
    """The same layers written with torch's modules: a strided convolution, GroupNorm, linear layers and pooling."""
    predictor = PatchPredictor(48, 8).build([Crop()])
    with torch.no_grad():
        for weight in predictor.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    copies = torch.rand(9, 3, 48, 48)
    maps = torch.nn.functional.conv2d(
        (copies - 0.5) * 4, predictor.embed.weight.view(8, 3, 6, 6), predictor.embed.bias, 6
    )
    maps = torch.relu(torch.nn.functional.group_norm(maps, 1, predictor.scale, predictor.shift))
    around = torch.einsum("pq,bcq->bcp", predictor.around, maps.flatten(2)).view_as(maps)
    maps = maps + torch.relu(predictor.mix((maps + around).movedim(1, 3)).movedim(3, 1))
    cells = torch.nn.functional.adaptive_avg_pool2d(predictor.summary(maps.movedim(1, 3)).movedim(3, 1), 4)
    for some in (copies, copies[:2]):  # a few images take another way to the same numbers
        features = predictor.features(some)
        assert torch.allclose(features.map, maps[: len(some)], atol=1e-5)
        assert torch.allclose(features.vector, predictor.norm(cells.flatten(1))[: len(some)], atol=1e-5)


@pytest.mark.parametrize("kind", [ConvPredictor, PatchPredictor, EquivariantPredictor])
def test_bytes_say_what_floats_say(kind):
    predictor = kind(64).build(families.create(["crop"]))
    pixels = torch.randint(256, (2, 3, 80, 100), dtype=torch.uint8)
    (said,), (expected,) = predictor(pixels).values(), predictor(pixels / 255).values()
    assert torch.allclose(said, expected, atol=0.02)  # the copy is rounded to bytes
    same = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    (said,), (expected,) = predictor(same).values(), predictor(same / 255).values()
    assert torch.allclose(said, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(224, 224), (300, 260), (37, 53), (8, 8), (513, 17), (1, 5), (64, 64)])
@pytest.mark.parametrize("side", [16, 32, 64])
def test_copies_are_those_of_pillow(size, side):
    images = torch.rand(2, 3, *size)
    flat = [
        Image.fromarray(plane.numpy()).resize((side, side), Image.Resampling.BILINEAR) for plane in images.flatten(0, 1)
    ]
    expected = torch.from_numpy(np.stack([np.asarray(plane) for plane in flat])).unflatten(0, (2, 3))
    assert torch.allclose(copies.shrink(images, side), expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(copies.shrink(images, side), expected, atol=1e-5)
    small = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    copies.shrink(small, side).square().sum().backward()
    assert small.grad.isfinite().all() and small.grad.any()
