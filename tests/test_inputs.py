import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

import instaaug_transforms as ia


@pytest.fixture(scope="module")
def aug():
    return ia.LearnedAugment(["crop"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.arange(6), r"shape \(6,\) and dtype torch.int64.*labels.*images first"),
        (torch.rand(32, 32), r"\(C, H, W\) or \(B, C, H, W\).*\(32, 32\)"),
        (torch.rand(2, 2, 3, 8, 8), "tv_tensors.Video"),
        (torch.rand(2, 1, 8, 8), r"made for 3 channel.*v2.RGB\(\).*in_channels=1"),
        (torch.rand(0, 3, 8, 8), "at least one image"),
        (torch.rand(2, 3, 0, 8), "at least one pixel"),
        (torch.full((3, 8, 8), float("nan")), "holds NaN"),
        (torch.randn(2, 3, 8, 8), "before v2.Normalize.*normalization="),
        (torch.rand(2, 3, 8, 8) * 255, "divide 0…255 floats by 255"),
        (torch.rand(3, 8, 8) > 0.5, "torch.bool"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "uint8"),
        (PIL.Image.new("RGBA", (8, 8)), "mode 'RGBA'.*convert\\('RGB'\\)"),
        (PIL.Image.new("L", (8, 8)), "mode 'L'"),
        (np.zeros((8, 8, 3)), "expected an image.*nothing"),
        ("a.png", "expected an image"),
        (tv_tensors.Mask(torch.zeros(8, 8, dtype=torch.uint8)), "Mask alone"),
    ],
)
def test_one_clear_error(aug, given, message):
    with pytest.raises(ia.InstaAugError, match=f"(?s){message}"):
        aug(given)


def test_labels_first_is_told_apart(aug):
    with pytest.raises(ia.InstaAugError, match="labels"):
        aug(torch.arange(4), torch.rand(4, 3, 8, 8))


def test_a_rounding_outside_the_range_is_no_error(aug):
    aug(torch.rand(3, 8, 8) * 1.0005)


def test_pretrained_weights_of_another_number_of_channels():
    with pytest.raises(ia.InstaAugError, match=r"look at 3 channel.*v2.RGB\(\).*of your own"):
        ia.LearnedAugment.from_pretrained("crop_tinyimagenet", in_channels=1)
    aug = ia.LearnedAugment.from_pretrained("crop_tinyimagenet", in_channels=3)
    grey = torch.rand(1, 32, 32)
    with pytest.raises(ia.InstaAugError, match=r"v2.RGB\(\)"):
        aug(grey)
    assert v2.Compose([v2.RGB(), aug])(tv_tensors.Image(grey)).shape == (3, 32, 32)


def test_a_device_mismatch_inside_a_compose_names_the_fix(aug):
    pipeline = v2.Compose([aug, v2.Normalize([0.5] * 3, [0.5] * 3)])
    with pytest.raises(ia.InstaAugError, match=r"v2.Compose moves no weights: call aug.to\('meta'\)"):
        pipeline(torch.rand(2, 3, 8, 8, device="meta"))


def test_wrong_normalization_says_so():
    aug = ia.LearnedAugment(["crop"], normalization=((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(ia.InstaAugError, match="does not undo"):
        aug(torch.rand(3, 8, 8) * 9)


def test_device_mismatch_names_the_fix(aug):
    images = torch.rand(2, 3, 8, 8, device="meta")
    with pytest.raises(ia.InstaAugError, match=r"on meta.*weights on cpu.*v2.Compose moves no.*aug.to\('meta'\)"):
        aug(images)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"angle": torch.zeros(2)}, "AugmentParams.*dict"),
        (ia.AugmentParams(angle=torch.zeros(2)), "fields of anchor, cx"),
        (ia.AugmentParams(cx=torch.zeros(2, 2)), r"lead with \(B,\)"),
    ],
)
def test_bad_params(aug, params, message):
    with pytest.raises(ia.InstaAugError, match=f"(?s){message}"):
        aug(torch.rand(2, 3, 8, 8), params=params)


def test_params_of_another_batch(aug):
    params = aug.distribution(torch.rand(3, 3, 8, 8)).mode
    with pytest.raises(ia.InstaAugError, match="3 transformations do not go with 4 images"):
        aug(torch.rand(4, 3, 8, 8), params=params)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,) * 3, (0.5,)), ((0.5,) * 3, (0.5, 0.0, 0.5)), ((0.5,), (-1.0,)), ((), (1.0,))]
)
def test_a_normalisation_that_cannot_be_undone_is_refused(mean, std):
    with pytest.raises(ia.InstaAugError, match="normalization: mean and std need equal lengths and std > 0"):
        ia.LearnedAugment(["turn"], normalization=(mean, std))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_normalised_images_of_any_precision_are_undone(dtype):
    normalise = v2.Normalize(MEAN, STD)
    images = torch.rand(4, 3, 16, 16)
    images[:, :, 0], images[:, :, 1] = 0, 1
    aug = ia.LearnedAugment(["crop"], normalization=(torch.tensor(MEAN), torch.tensor(STD))).requires_grad_(False)
    identity = aug.distribution(normalise(images)).identity()
    out = aug(normalise(images).to(dtype), params=identity)
    assert out.dtype == dtype
    assert torch.allclose(out.double(), normalise(images).double(), atol=8 * torch.finfo(dtype).eps + 1e-6)
    with pytest.raises(ia.InstaAugError, match="does not undo"):
        aug(2 * normalise(images).to(dtype))


def test_a_normalisation_has_a_number_for_each_channel(tmp_path):
    with pytest.raises(ia.InstaAugError, match="normalization: .*for 1 channel"):
        ia.LearnedAugment(["crop"], in_channels=1, normalization=(MEAN, STD))
    aug = ia.LearnedAugment(["crop"], normalization=(torch.tensor(MEAN), torch.tensor(STD)))
    aug.save(tmp_path / "a.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors")
    assert again.normalization.mean == pytest.approx(MEAN) and again.normalization.std == pytest.approx(STD)
