import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.functional import inputs
from instaaug_transforms.measure import prepare


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
        (
            torch.rand(2, 4, 8, 8),
            r"made for 3 channel.*with images\[..., :3, :, :\], which leaves alpha out.*in_channels=4",
        ),
        (torch.rand(2, 8, 9, 3), r"channels come last; give images.movedim\(-1, -3\)"),
        (torch.rand(8, 9, 3), r"channels come last; give images.movedim\(-1, -3\)"),
        (torch.rand(0, 3, 8, 8), "at least one image"),
        (torch.rand(2, 3, 0, 8), "at least one pixel"),
        (torch.full((3, 8, 8), float("nan")), "holds NaN"),
        (torch.randn(2, 3, 8, 8), "before v2.Normalize.*normalization="),
        (torch.rand(2, 3, 8, 8) * 255, "divide 0…255 floats by 255"),
        (torch.rand(3, 8, 8) > 0.5, "torch.bool"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "uint8"),
        (PIL.Image.new("RGBA", (8, 8)), "mode 'RGBA'.*convert\\('RGB'\\)"),
        (PIL.Image.new("L", (8, 8)), "mode 'L'"),
        (np.zeros((8, 8, 3)), "expected an image.*got ndarray alone"),
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


@pytest.mark.parametrize("name", ["fil", "families", "predictor"])
def test_what_pretrained_weights_cannot_change_is_named(name):
    """A misspelt argument was taken for damaged weights."""
    with pytest.raises(
        ia.InstaAugError, match=f"^{name}: of weights only backend, compile, fill, .* can be changed, got {name}=…"
    ):
        ia.LearnedAugment.from_pretrained("crop_tinyimagenet", **{name: "hsv"})


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
        (
            ia.AugmentParams(cx=torch.zeros(2, 2)),
            r"lead with \(B,\).*batch_shape=\(2, 2\)\); params.index\(0\) is the first view",
        ),
        (
            ia.LearnedAugment(["crop"]).sample(torch.rand(2, 3, 8, 8))[1],
            r"got AugmentSample; give its.*\.params\.index\(0\)",
        ),
        (ia.AugmentParams(cx=torch.zeros(0)), r"one or more.*batch_shape=\(0,\)"),
    ],
)
def test_bad_params(aug, params, message):
    with pytest.raises(ia.InstaAugError, match=f"(?s){message}"):
        aug(torch.rand(2, 3, 8, 8), params=params)


@pytest.mark.parametrize("n", [2, 3])
def test_params_of_another_batch(aug, n):
    """Two for four images, too: it is for the frames of clips that each is used several times in a row."""
    params = aug.distribution(torch.rand(n, 3, 8, 8)).mode
    with pytest.raises(ia.InstaAugError, match=f"{n} transformations do not go with 4 images"):
        aug(torch.rand(4, 3, 8, 8), params=params)


@pytest.mark.parametrize("name", ["params", "generator"])
def test_what_is_taken_by_name_alone_does_not_pass_for_a_label(aug, name):
    """As any other leaf it came back as it was, beside images that were transformed at random."""
    given = torch.Generator() if name == "generator" else ia.AugmentParams(flip=torch.ones(2))
    with pytest.raises(ia.InstaAugError, match=rf"by name, aug\(images, {name}={name}\)"):
        aug(torch.rand(2, 3, 8, 8), given)


@pytest.mark.parametrize(
    ("images", "params", "message"),
    [
        (torch.rand(2, 3, 8, 8), ia.AugmentParams(flp=torch.ones(2)), "fields of anchor, cx.*got AugmentParams.flp"),
        (torch.rand(2, 3, 8, 8), {"flip": torch.ones(2)}, "AugmentParams.*got dict"),
        (ia.AugmentParams(flip=torch.ones(2)), torch.rand(2, 3, 8, 8), "AugmentParams.*got Tensor"),
        (
            torch.rand(3, 8, 8),
            ia.AugmentParams(flip=torch.ones(3)),
            r"images: expected floats \(B, C, H, W\).*\(3, 8, 8\)",
        ),
        (torch.zeros(2, 3, 8, 8).byte(), ia.AugmentParams(flip=torch.ones(2)), "images: expected floats.*uint8"),
        (torch.rand(2, 3, 8, 8).numpy(), ia.AugmentParams(flip=torch.ones(2)), "images: expected floats.*got ndarray"),
    ],
)
def test_apply_names_what_it_cannot_apply(aug, images, params, message):
    """A misspelt field left every image as it was, and bytes went through colours as if they were in [0, 1]."""
    with pytest.raises(ia.InstaAugError, match=message):
        aug.apply(images, params)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5,) * 3, (0.5,)),
        ((0.5,) * 3, (0.5, 0.0, 0.5)),
        ((0.5,), (-1.0,)),
        ((), (1.0,)),
        ((float("nan"),), (1.0,)),
        ((0.5,), (float("inf"),)),
    ],
)
def test_a_normalisation_that_cannot_be_undone_is_refused(mean, std):
    with pytest.raises(
        ia.InstaAugError, match="normalization: mean and std need equal lengths, finite numbers and std > 0"
    ):
        ia.LearnedAugment(["turn"], normalization=(mean, std))


@pytest.mark.parametrize("given", [0.5, [0.485, 0.456, 0.406], (0.5, 0.2), "imagenet"])
def test_a_normalisation_that_is_no_pair_says_what_is(given):
    for make in (
        lambda: ia.LearnedAugment(["turn"], normalization=given),
        lambda: prepare(torch.rand(2, 3, 4, 4), normalization=given),
    ):
        with pytest.raises(
            ia.InstaAugError, match=r"normalization: expected \(mean, std\), each of a number per channel, got"
        ):
            make()


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


def test_values_may_lie_a_thousandth_outside_to_either_side():
    for values in ([0.0, 1.0009], [-0.0009, 1.0], [0.5, 0.5]):
        batch = torch.tensor(values).reshape(1, 1, 1, 2)
        assert (
            inputs.check_range(batch, False, "x") is batch
            and inputs.check_range(batch, False, "x", strict=False) is batch
        )
    for values in ([0.0, 1.0011], [-0.0011, 1.0]):
        batch = torch.tensor(values).reshape(1, 1, 1, 2)
        with pytest.raises(ia.InstaAugError, match=f"got x with values from {values[0]:.3g} to {values[1]:.3g}"):
            inputs.check_range(batch, False, "x")
        with pytest.warns(UserWarning, match="They are clamped"):
            assert inputs.check_range(batch, False, "x", strict=False).flatten().tolist() == [0.0, 1.0]


class Slide(tv_tensors.Image):
    """A kind of image of one's own."""


@pytest.mark.parametrize("kind", [tv_tensors.Image, tv_tensors.Video, tv_tensors.Mask, Slide])
def test_what_comes_back_is_of_the_kind_that_came(kind):
    given = torch.rand(3, 4, 4).as_subclass(kind)
    assert type(inputs.rewrap(torch.rand(3, 4, 4), given)) is kind
    assert type(inputs.plain(given)) is torch.Tensor and torch.equal(inputs.plain(given), torch.Tensor(given))
    alone = torch.rand(3, 4, 4)
    assert type(inputs.rewrap(alone, torch.rand(3, 4, 4))) is torch.Tensor and inputs.plain(alone) is alone


def test_what_is_an_image():
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(4, 4))
    images = (
        PIL.Image.new("L", (2, 2)),
        torch.rand(1),
        tv_tensors.Image(torch.rand(3, 2, 2)),
        tv_tensors.Video(torch.rand(1, 3, 2, 2)),
    )
    others = (boxes, tv_tensors.Mask(torch.zeros(2, 2)), np.zeros(3), "a.png", 3, None)
    assert all(map(inputs.is_image, images)) and not any(map(inputs.is_image, others))


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        (0, (0, 0)), (1, (1, 0)), ([0.5], (0.5, 0)), ((0.1, 0.2, 0.3), ((0.1, 0.2, 0.3), 0)), ({}, (0.0, 0)),
        ({tv_tensors.Image: 0.3}, (0.3, 0)), ({tv_tensors.Image: 0.3, "others": 7}, (0.3, 7)), ({"others": 0.2}, (0.2, 0)),
        ({tv_tensors.Mask: 255, "others": 0.2}, (0.2, 255)), ({tv_tensors.Mask: 9, tv_tensors.Image: 1, "others": 7}, (1, 9)),
    ],
)  # fmt: skip
def test_fills_by_kind(fill, expected):
    assert inputs.check_fill(fill, 3) == expected


@pytest.mark.parametrize("kind", ["image", "mask", tv_tensors.Video, int])
def test_a_fill_of_another_kind_is_not_left_aside(kind):
    with pytest.raises(
        ia.InstaAugError, match="fill: expected the kinds tv_tensors.Image, tv_tensors.Mask and 'others'"
    ):
        ia.LearnedAugment(["turn"], fill={kind: 0.5})


@pytest.mark.parametrize(
    "fill", [-0.01, 1.01, (0.1, 0.2), (0.1, 0.2, 1.2), (0.1, "x", 0.2), (0.5, 0.5, 0.5, 0.5), (), "a", None]
)
def test_fills_that_are_no_grey_and_no_colour(fill):
    with pytest.raises(ia.InstaAugError, match=r"fill: expected a value in \[0, 1\] or one per channel \(3\)"):
        inputs.check_fill(fill, 3)
    if isinstance(fill, (str, tuple)):
        with pytest.raises(ia.InstaAugError, match="fill: expected a number for masks"):
            inputs.check_fill({tv_tensors.Mask: fill}, 3)


def test_normalisations_are_torchvisions_there_and_back():
    images = torch.rand(2, 3, 5, 6)
    for mean, std in ((MEAN, STD), ((0.5,), (0.25,))):
        norm, theirs = inputs.Normalization(mean, std, 3), v2.Normalize(mean, std)
        assert torch.allclose(norm.redo(images), theirs(images), atol=1e-6)
        assert torch.allclose(norm.undo(theirs(images)), images, atol=1e-6)
    assert inputs.Normalization(MEAN, STD).mean == MEAN  # of any number of channels
    for mean, std, channels in ((MEAN[:2], STD[:2], 3), (MEAN, STD, 1), (MEAN, STD[:2], None)):
        with pytest.raises(ia.InstaAugError, match="normalization: mean and std need equal lengths"):
            inputs.Normalization(mean, std, channels)


def test_of_halves_only_roundings_are_cut_off():
    """What lies further outside than a half can round is left for the check of the range to see."""
    norm = inputs.Normalization((0.5,), (0.25,))
    exact = torch.tensor([-2.0, 2.0, 2.002, -2.002, 2.5, -3.0])  # 0, 1, a rounding beyond them, and more
    undone = norm.undo(exact.half())
    assert undone.dtype == torch.float32
    assert undone.flatten().tolist() == [0, 1, 1, 0, 1.125, -0.25]
    assert norm.undo(exact).flatten()[2] > 1  # of fp32 nothing is cut


def test_single_images_are_batches_of_one_and_no_tensor_is_none():
    image = torch.rand(3, 4, 5)
    assert inputs.batched(image).shape == (1, 3, 4, 5) and inputs.batched(image[None]).shape == (1, 3, 4, 5)
    with pytest.raises(ia.InstaAugError, match="images: expected a tensor .* got list; convert it"):
        inputs.batched([image])
    with pytest.raises(
        ia.InstaAugError, match=r"images: expected \(B, C, H, W\).*got \(2, 3, 3, 4, 5\); of clips, give the frames"
    ):
        ia.LearnedAugment(["crop"]).views(tv_tensors.Video(torch.rand(2, 3, 3, 4, 5)), 2)


def test_clips_are_batches_of_frames_and_come_back_as_clips():
    for lead in ((), (2,), (2, 4), (2, 1, 4)):
        given = torch.rand(*lead, 3, 5, 6)
        leaf = tv_tensors.Video(given) if len(lead) > 1 else given
        batch, back = inputs.to_batch(leaf, 3, None)
        assert (
            torch.equal(batch, given.reshape(-1, 3, 5, 6))
            and torch.equal(back(batch), leaf)
            and type(back(batch)) is type(leaf)
        )
        small = back(batch[..., :2])
        assert small.shape == (*lead, 3, 5, 2)


def test_bytes_are_255ths_and_come_back_rounded_and_clipped():
    given = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2) * 20
    batch, back = inputs.to_batch(given, 3, None)
    assert (
        batch.dtype == torch.float32
        and torch.allclose(batch[0] * 255, given.float())
        and torch.equal(back(batch), given)
    )
    out = back(torch.tensor([-0.2, 0.0021, 0.00195, 1.3]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2))
    assert out.dtype == torch.uint8 and out[0].flatten().tolist() == [0, 1, 0, 255]
