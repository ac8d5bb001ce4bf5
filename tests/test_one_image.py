"""One image at a time, the way of a DataLoader: the same as in a batch, and as torchvision's own resize and crop."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.engine import load
from instaaug_transforms.functional.warp import warp

from .conftest import make_lively


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def box(cx: float, cy: float, w: float, h: float, n: int = 1) -> ia.AugmentParams:
    return ia.AugmentParams(
        **{k: torch.full((n,), v) for k, v in zip(("cx", "cy", "w", "h"), (cx, cy, w, h), strict=True)}
    )


@pytest.mark.parametrize("size", [None, (24, 40), (90, 130)])
@pytest.mark.parametrize("where", [(0.5, 0.5, 1.0, 1.0), (0.4, 0.6, 0.8, 0.8), (0.3, 0.55, 0.4, 0.3)])
def test_a_crop_alone_is_what_it_is_in_a_batch(size, where):
    aug = make_lively(["crop"], output_size=size).requires_grad_(False)
    image = F.to_dtype(F.pil_to_tensor(picture(60, 84)), torch.float32, scale=True)
    alone = aug(image, params=box(*where))
    together = aug(torch.stack([image, image.flip(-1), image]), params=box(*where, n=3))
    assert torch.allclose(alone, together[0], atol=1e-5) and torch.allclose(alone, together[2], atol=1e-5)


def test_the_whole_image_is_torchvisions_resize_and_a_crop_is_its_resized_crop_inside():
    image = torch.rand(3, 60, 84)
    aug = make_lively(["crop"], output_size=(30, 40)).requires_grad_(False)
    whole = aug(image, params=box(0.5, 0.5, 1.0, 1.0))
    assert torch.allclose(whole, F.resize(image, [30, 40], antialias=True), atol=1e-5)
    aug = make_lively(["crop"], output_size=(90, 120)).requires_grad_(False)
    view = aug(image, params=box(0.5, 0.5, 0.5, 0.5))  # rows 15 … 45, columns 21 … 63
    expected = F.resized_crop(image, 15, 21, 30, 42, [90, 120], antialias=True)
    # torchvision repeats the crop's own border; we look half a pixel beyond it.
    assert torch.allclose(view[:, 3:-3, 3:-3], expected[:, 3:-3, 3:-3], atol=1e-5)


def test_what_is_only_sampled_or_stays_takes_no_other_way(monkeypatch):
    aug = make_lively(["crop"]).requires_grad_(False)
    image = torch.rand(3, 20, 30)
    view = aug(image, params=box(0.4, 0.6, 0.7, 0.7))
    matrix = torch.tensor([[[0.7, 0, -0.2], [0, 0.7, 0.2], [0, 0, 1]]])
    assert torch.allclose(view[None], warp(image[None], matrix, (20, 30), 0.0, "bilinear", True, "torch"), atol=1e-6)
    same = aug(image, params=box(0.5, 0.5, 1.0, 1.0))
    assert torch.equal(same, image) and same.data_ptr() != image.data_ptr()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pil_images_come_back_in_kind_with_the_pixels_of_tensors(mode):
    image, channels = picture(37, 53, mode), {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    aug = make_lively(["crop", "rotate"], in_channels=channels).requires_grad_(False)
    params = aug.distribution(F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)).sample()
    out = aug(image, params=params)
    assert out.mode == mode and out.size == image.size
    assert torch.equal(F.pil_to_tensor(out), aug(F.pil_to_tensor(image), params=params))


def test_a_lone_image_draws_what_a_sample_with_a_label_draws():
    aug = make_lively(["crop", "rotate", "hsv"]).requires_grad_(False)
    image = tv_tensors.Image(torch.rand(3, 32, 32))
    torch.manual_seed(3)
    alone = aug(image)
    torch.manual_seed(3)
    beside, label = aug(image, 7)
    assert type(alone) is tv_tensors.Image and torch.equal(alone, beside) and label == 7


def test_views_of_a_frozen_transform_can_be_trained_on_and_those_of_a_learning_one_carry_gradients():
    image = torch.rand(3, 32, 32)
    layer = torch.nn.Conv2d(3, 2, 3)
    frozen = make_lively(["crop", "rotate"]).requires_grad_(False)
    params = frozen.make_params([image])["params"]
    assert not any(field.is_inference() for field in params.values())
    layer(frozen(image)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    learning = make_lively(["rotate"])
    for name, weight in learning.predictor.named_parameters():
        weight.requires_grad_(name.startswith("heads"))  # one part of φ is enough
    assert learning(image).requires_grad and not frozen(image).is_inference()


@pytest.mark.parametrize(
    "where", [(0.5, 0.5, 1.0, 1.0), (0.4, 0.6, 0.8, 0.8), (0.3, 0.55, 0.4, 0.3), (0.85, 0.8, 0.3, 0.4)]
)
@pytest.mark.parametrize("size", [(24, 40), (90, 130), (60, 84)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_crop_of_a_pil_image_is_pils_resize_of_that_box(where, size, mode):
    image, (cx, cy, w, h) = picture(60, 84, mode), where
    aug = make_lively(["crop"], in_channels=len(mode), output_size=size).requires_grad_(False)
    corners = (84 * (cx - w / 2), 60 * (cy - h / 2), 84 * (cx + w / 2), 60 * (cy + h / 2))
    expected = np.asarray(image.resize(size[::-1], Image.BILINEAR, [round(c, 3) for c in corners]), int)
    out = aug(image, params=box(*where))
    assert out.mode == mode and out is not image and abs(np.asarray(out, int) - expected).max() <= 2
    mirrored = aug(image, params=box(*where).replace(flip=torch.ones(1)))
    # Boxes in float32 are off by 1e-5 of a pixel: of each of PIL's two roundings one may go the other way.
    assert abs(np.asarray(mirrored, int) - expected[:, ::-1]).max() <= 2


@pytest.mark.parametrize("where", [(0.4, 0.6, 0.8, 0.8), (0.31, 0.55, 0.4, 0.33), (0.5, 0.5, 0.75, 0.75)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_crop_of_a_pil_image_alone_is_torchvisions_resized_crop(where, mode):
    """Whole pixels, as RandomResizedCrop cuts: a box between pixels is moved to them. Beside a mask it stays where it is."""
    image, (cx, cy, w, h) = picture(227, 301, mode), where
    aug = make_lively(["crop"], in_channels=len(mode), output_size=(90, 130)).requires_grad_(False)
    left, right = round(301 * (cx - w / 2)), round(301 * (cx + w / 2))
    top, bottom = round(227 * (cy - h / 2)), round(227 * (cy + h / 2))
    torchvisions = F.resized_crop(image, top, left, bottom - top, right - left, [90, 130])
    for params in (box(*where), box(*where).replace(flip=torch.ones(1))):
        expected = F.horizontal_flip(torchvisions) if "flip" in params else torchvisions
        out = aug(image, params=params)
        assert out.mode == mode and abs(np.asarray(out, int) - np.asarray(expected, int)).max() <= 1
    corners = (301 * (cx - w / 2), 227 * (cy - h / 2), 301 * (cx + w / 2), 227 * (cy + h / 2))
    beside, _ = aug(image, tv_tensors.Mask(torch.zeros(227, 301)), params=box(*where))
    expected = np.asarray(image.resize((130, 90), Image.BILINEAR, [round(c, 3) for c in corners]), int)
    assert abs(np.asarray(beside, int) - expected).max() <= 2


@pytest.mark.parametrize("families", [["crop"], ["crop", "scale"], ["turn"], ["crop", "translate"]])
def test_a_pil_image_is_seen_and_cut_as_its_tensor(families):
    """Smooth pictures: there PIL's rounding between its two passes, and the copy φ sees, differ by little."""
    rows = torch.linspace(0, 1, 48)
    image = F.to_pil_image(torch.stack([rows[:, None].expand(48, 48), rows.expand(48, 48), rows.outer(rows)]))
    aug = make_lively(families, output_size=40).requires_grad_(False)
    tensor = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
    for seed in range(5):
        params = []
        for given in (image, tensor):
            torch.manual_seed(seed)
            params.append(aug.make_params([given])["params"])
        for name, field in params[0].items():
            assert torch.allclose(field, params[1][name], atol=0.01)
        alone = F.to_dtype(F.pil_to_tensor(aug(image, params=params[1])), torch.float32, scale=True)
        assert (alone - aug(tensor, params=params[1])).abs().max() < 0.02
        torch.manual_seed(seed)
        assert aug(image).tobytes() == aug(image, params=params[0]).tobytes()
    assert params[0].batch_shape == (1,)


def test_a_pil_image_beside_its_mask_moves_with_it():
    image, aug = picture(40, 40), make_lively(["crop"]).requires_grad_(False)
    mask = tv_tensors.Mask(torch.arange(1600).view(40, 40) % 251)
    params = box(0.35, 0.6, 0.5, 0.5)
    view, moved = aug(image, mask, params=params)
    assert view.size == (40, 40) and moved.shape == (40, 40)
    assert torch.equal(moved[1::2, 1::2], mask[14:34, 4:24])  # rows 14 … 34, columns 4 … 24, each twice


@pytest.mark.parametrize("families", [["crop"], ["rotate"]])
def test_a_pil_image_without_pixels_is_named(families):
    with pytest.raises(ia.InstaAugError, match=r"image: it has no pixels \(width 0, height 5\)"):
        ia.LearnedAugment(families)(Image.new("RGB", (0, 5)))


def test_a_pil_image_of_another_mode_is_refused_as_before():
    aug = make_lively(["crop"]).requires_grad_(False)
    for call in (aug, lambda image: aug(image, params=box(0.5, 0.5, 0.5, 0.5))):
        with pytest.raises(ia.InstaAugError, match=r"mode 'L'; convert it first with img.convert\('RGB'\)"):
            call(picture(20, 20, "L"))


def test_sixteen_bits_are_not_cut_off_by_the_remedy():
    """PIL's convert("L") makes white of all above 255."""
    numbers = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    image, aug = Image.fromarray(numbers), ia.LearnedAugment(["turn"], in_channels=1)
    with pytest.raises(ia.InstaAugError, match=r"mode 'I;16'; give a tensor in \[0, 1\]") as e:
        aug(image)
    tensor = eval(str(e.value).split("of 16 bits ")[1], {"v2": v2, "img": image})
    torch.testing.assert_close(tensor, torch.tensor(numbers[None] / 65535).float())
    for given in (lambda: aug(v2.functional.to_image(image)), lambda: load(v2.functional.to_image(image)[None])):
        with pytest.raises(ia.InstaAugError, match=r"of 16 bits images.float\(\) / 65535"):
            given()


def test_eight_bits_are_not_made_dark_by_the_remedy():
    """It divided grey and alpha by 65535, as if they had 16 bits."""
    image, aug = picture(8, 8, "LA"), ia.LearnedAugment(["turn"], in_channels=2)
    with pytest.raises(ia.InstaAugError, match="mode 'LA'; give a tensor with these channels") as e:
        aug(image)
    tensor = eval(str(e.value).split("channels: ")[1], {"v2": v2, "img": image})
    assert np.array_equal(
        aug(tensor, params=ia.AugmentParams(turn_angle=torch.tensor([90.0]))), np.rot90(tensor, 1, (1, 2))
    )
    for given in (lambda: aug(tensor.int()), lambda: load(tensor.int()[None])):
        with pytest.raises(ia.InstaAugError, match=r"of 8 .*images.to\(torch.uint8\)"):
            given()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_whole_pil_image_is_pils_resize_whoever_asks(mode):
    image, other = picture(60, 84, mode), picture(84, 60, mode).rotate(90)
    aug = make_lively(["crop"], in_channels=len(mode), output_size=(24, 40)).requires_grad_(False)
    known = aug.make_params([image]) | {"params": box(0.5, 0.5, 1.0, 1.0)}
    for each in (image, other):  # the other's own pixels, not those that are known
        expected = np.asarray(each.resize((40, 24), Image.BILINEAR), int)
        for out in (aug.transform(each, known), aug(each, params=box(0.5, 0.5, 1.0, 1.0))):
            assert out.mode == mode and out.size == (40, 24) and abs(np.asarray(out, int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "P"])
def test_of_a_mask_that_is_a_pil_image_the_error_says_how_to_give_it(mode):
    """As VOC has them. What the message has one write keeps classes, and moves as the image does."""
    aug, image = make_lively(["crop"]).requires_grad_(False), picture(16, 20)
    classes = np.zeros((16, 20), dtype=np.uint8)
    classes[4:12, 5:15], classes[0, 0] = 7, 255
    mask = Image.fromarray(classes)
    if mode == "P":
        mask.putpalette([value for level in range(256) for value in (level, 0, 255 - level)])
    assert mask.mode == mode
    with pytest.raises(ia.InstaAugError, match="or, if it is a mask, give ") as caught:
        aug(image, mask)
    given = eval(str(caught.value).split("give ")[1], {"tv_tensors": tv_tensors, "v2": v2, "img": mask})
    assert torch.equal(given[0], torch.from_numpy(classes))
    _, moved = aug(image, given)
    assert moved.shape == (1, 16, 20) and set(moved.unique().tolist()) <= {0, 7, 255}
