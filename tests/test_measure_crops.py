import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.measure import RandomResizedCropPart, crop_statistics, gain_recovered
from instaaug_transforms.measure.crops import ARMS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_full_is_torchvisions_random_resized_crop():
    image = torch.rand(3, 40, 50)
    for seed in range(5):
        torch.manual_seed(seed)
        ours = RandomResizedCropPart(24)(image)
        torch.manual_seed(seed)
        assert torch.equal(ours, v2.RandomResizedCrop(24, antialias=True)(image))


def test_none_is_the_centre_square():
    image = torch.rand(3, 40, 50)
    oracle = v2.Compose([v2.CenterCrop(40), v2.Resize(24, antialias=True)])
    assert torch.allclose(RandomResizedCropPart(24, "none")(image), oracle(image), atol=1e-5)


@pytest.mark.parametrize("arm", ARMS)
def test_takes_what_v2_transforms_take(arm):
    part = RandomResizedCropPart((8, 8), arm)
    image = tv_tensors.Image(torch.randint(255, (3, 32, 32), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.ones(32, 32, dtype=torch.uint8))
    out, moved, label = part(image, mask, 3)
    assert isinstance(out, tv_tensors.Image) and out.shape == (3, 8, 8) and out.dtype == torch.uint8
    assert moved.shape == (8, 8) and label == 3 and f"arm={arm!r}" in repr(part)
    assert part(v2.functional.to_pil_image(image)).size == (8, 8)


def test_translation_moves_by_whole_pixels_and_shows_black():
    image = torch.rand(1, 32, 32) + 0.1
    part = RandomResizedCropPart(32, "translation")
    torch.manual_seed(1)
    out = part(image)
    torch.manual_seed(1)
    box = part.make_params([image])
    assert box["height"] == box["width"] == 32 and (box["top"], box["left"]) != (0, 0)
    padded = np.pad(image.numpy(), ((0, 0), (32, 32), (32, 32)))
    at = (slice(None), slice(32 + box["top"], 64 + box["top"]), slice(32 + box["left"], 64 + box["left"]))
    assert np.allclose(out, padded[at], atol=1e-5)


def test_arms_keep_the_marginals_and_drop_the_rest():
    rows = {row["arm"]: row for row in crop_statistics(256, n=3000, seed=1).rows()}
    joint = rows["no_aspect"]
    for arm in ("scale", "independent"):
        assert rows[arm]["area"] == pytest.approx(joint["area"], abs=0.02)
        assert rows[arm]["area_std"] == pytest.approx(joint["area_std"], abs=0.01)
    for arm in ("translation", "independent"):
        assert rows[arm]["shift_x"] == pytest.approx(joint["shift_x"], abs=0.006)
    assert rows["scale"]["shift_x"] < 0.002 and rows["translation"]["area_std"] == 0
    assert joint["area_shift"] < -0.6 and abs(rows["independent"]["area_shift"]) < 0.06
    assert rows["full"]["log_aspect_std"] > 0.1 and joint["log_aspect_std"] == 0
    assert joint["visible"] == rows["full"]["visible"] == 1 > rows["independent"]["visible"]
    assert rows["none"]["area"] == 1 and rows["none"]["shift_y"] == 0


def test_statistics_leave_the_random_state_alone():
    before = torch.get_rng_state()
    first = crop_statistics(32, arms=["full"], n=20, seed=4)
    assert torch.equal(torch.get_rng_state(), before) and "full" in first.summary()
    assert first.rows() == crop_statistics(32, arms=["full"], n=20, seed=4).rows()


def test_gain_recovered():
    rng = np.random.default_rng(0)
    none = rng.random(4000) < 0.5
    full = none | (rng.random(4000) < 0.4)  # +0.2
    part = none | (full & (rng.random(4000) < 0.75))  # three quarters of what full adds
    found = gain_recovered(none, part, full)
    assert found.full_gain.estimate == pytest.approx((full ^ none).mean())
    assert found.share.low < 0.75 < found.share.high and found.share.high - found.share.low < 0.08
    assert "% recovered" in found.summary()
    assert gain_recovered(none, full, full).share == (1.0, 1.0, 1.0)
    assert gain_recovered(none, none, full).share == (0.0, 0.0, 0.0)
    several = gain_recovered(np.stack([none, none]), np.stack([part, part]), np.stack([full, full]))
    assert several.share == found.share


def test_the_share_of_no_gain_is_undefined():
    rng = np.random.default_rng(0)
    none, full = rng.random(200) < 0.5, rng.random(200) < 0.5
    found = gain_recovered(none, none, full)
    assert np.isnan(found.share.estimate) and "undefined" in found.summary()


def test_errors():
    with pytest.raises(ia.InstaAugError, match="arm: expected one of none, scale.*'zoom'"):
        RandomResizedCropPart(8, "zoom")
    for name, bad in (("n", 0), ("n", 2.5), ("image_size", 0), ("image_size", (3,))):
        with pytest.raises(ia.InstaAugError, match=f"{name}: expected .* ≥ 1"):
            crop_statistics(**{"n": 1, name: bad})
    with pytest.raises(ia.InstaAugError, match="same N ≥ 2"):
        gain_recovered(np.ones(3), np.ones(4), np.ones(3))
