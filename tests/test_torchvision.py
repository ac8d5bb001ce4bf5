"""Beside torchvision's own transforms: containers, MixUp and CutMix, and the pipelines of its gallery."""

from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, default_collate
from torchvision import datasets, tv_tensors
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.functional.targets import perspective_coefficients

from .conftest import make_lively

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def photograph():
    return Image.fromarray(torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8).numpy())


def test_classification_pipeline_of_the_gallery(photograph):
    """ "Getting started with transforms v2", RandomResizedCrop swapped for ours."""
    plain = [v2.RandomHorizontalFlip(p=0.5), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=MEAN, std=STD)]
    ours = make_lively(["crop"], output_size=(224, 224))
    out = v2.Compose([v2.ToImage(), ours, *plain])(photograph)
    same = v2.Compose([v2.ToImage(), v2.RandomResizedCrop(size=(224, 224), antialias=True), *plain])(photograph)
    assert type(out) is type(same) and out.shape == same.shape == (3, 224, 224) and out.dtype == same.dtype
    assert -2.2 < out.min() < -0.5 and 0.5 < out.max() < 2.7  # normalised once


@pytest.mark.parametrize("ours", [["crop"], ["crop", "rotate", "hsv"]])
def test_colour_jitter_swapped_for_ours(photograph, ours):
    pipeline = v2.Compose(
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), make_lively([*ours, "local_colour"])]
    )
    out = pipeline(photograph)
    assert out.shape == (3, 60, 80) and out.min() >= 0 and out.max() <= 1


def test_detection_pipeline_of_the_gallery():
    """RandomResizedCrop and RandomPhotometricDistort swapped for ours; boxes, masks and labels stay together."""
    image = tv_tensors.Image(torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8))
    corners = torch.tensor([[15.0, 10.0, 70.0, 65.0], [80.0, 60.0, 155.0, 115.0], [0.0, 0.0, 6.0, 5.0]])
    target = {
        "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(120, 160)),
        "masks": tv_tensors.Mask(torch.zeros(3, 120, 160, dtype=torch.bool)),
        "labels": torch.tensor([1, 2, 3]),
    }
    pipeline = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomZoomOut(fill={tv_tensors.Image: (123, 117, 104), "others": 0}),
            make_lively(["crop", "rotate", "hsv"], output_size=(96, 96)),
            v2.RandomHorizontalFlip(p=1),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    kept = set()
    for _ in range(30):
        out, moved = pipeline(image, target)
        n = len(moved["labels"])
        kept.add(n)
        assert out.shape == (3, 96, 96) and out.dtype == torch.float32
        assert moved["boxes"].shape == (n, 4) and moved["masks"].shape == (n, 96, 96)
        assert moved["boxes"].canvas_size == (96, 96) and moved["masks"].dtype == torch.bool
        assert (moved["boxes"] >= 0).all() and (moved["boxes"] <= 96).all()
    assert len(kept) > 1  # objects that left the image are gone, with their labels and masks


def write_voc(folder, n=4):
    """A data set in Pascal VOC's layout: a bright rectangle per image."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for k in range(n):
        pixels = torch.randint(0, 90, (90, 120, 3), dtype=torch.uint8)
        pixels[20:60, 30 + k : 80 + k] = 220
        Image.fromarray(pixels.numpy()).save(root / "JPEGImages" / f"{k}.jpg")
        tree = ElementTree.Element("annotation")
        thing = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(thing, "name").text = "dog"
        box = ElementTree.SubElement(thing, "bndbox")
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), (30 + k, 20, 80 + k, 60), strict=True):
            ElementTree.SubElement(box, side).text = str(value)
        ElementTree.ElementTree(tree).write(root / "Annotations" / f"{k}.xml")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(map(str, range(n))))
    return folder


def test_detection_training_of_the_gallery(tmp_path):
    """ "End-to-end object detection": a torchvision dataset, its v2 wrapper, a DataLoader, a torchvision detector."""
    pipeline = v2.Compose(
        [
            v2.ToImage(),
            make_lively(["crop", "hsv"]),
            v2.RandomHorizontalFlip(p=0.5),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    raw = datasets.VOCDetection(write_voc(tmp_path), image_set="train", transforms=pipeline)
    dataset = datasets.wrap_dataset_for_transforms_v2(raw, target_keys=["boxes", "labels"])
    loader = DataLoader(dataset, batch_size=2, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    images, targets = next(iter(loader))
    assert all(isinstance(image, tv_tensors.Image) and not image.requires_grad for image in images)
    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=21).train()
    losses = model(images, targets)
    total = sum(losses.values())
    total.backward()
    assert set(losses) >= {"loss_classifier", "loss_box_reg"} and total.isfinite()


@pytest.mark.parametrize("mix", [v2.MixUp, v2.CutMix])
def test_mixup_and_cutmix_after_it(mix):
    aug = make_lively(["crop", "hsv"])
    data = [(torch.rand(3, 24, 24), k % 4) for k in range(8)]
    dataset = [(aug(image).detach(), label) for image, label in data]
    mixed = mix(num_classes=4)
    loader = DataLoader(dataset, 8, collate_fn=lambda batch: mixed(*default_collate(batch)))
    images, soft = next(iter(loader))
    assert images.shape == (8, 3, 24, 24) and torch.allclose(soft.sum(1), torch.ones(8))
    images, soft = v2.Compose([aug, mix(num_classes=4)])(torch.rand(8, 3, 24, 24), torch.arange(8) % 4)
    assert images.requires_grad and soft.shape == (8, 4)  # in the training loop gradients reach φ through it


def test_in_a_sequential():
    pipeline = nn.Sequential(make_lively(["rotate"]), v2.RandomHorizontalFlip(1.0), v2.Normalize(MEAN, STD))
    assert pipeline(torch.rand(2, 3, 16, 16)).shape == (2, 3, 16, 16)
    assert any("predictor" in name for name, _ in pipeline.named_parameters())  # unlike in v2.Compose


def test_random_apply_random_choice_and_random_order():
    aug = make_lively(["rotate"])
    images = torch.rand(1, 3, 16, 16)
    applied = v2.RandomApply([aug], p=0.3)
    changed = sum(not torch.equal(applied(images), images) for _ in range(300))
    assert 60 < changed < 120
    choice = v2.RandomChoice([aug, v2.RandomHorizontalFlip(1.0)], p=[0.5, 0.5])
    flipped = sum(torch.equal(choice(images), images.flip(-1)) for _ in range(300))
    assert 110 < flipped < 190
    assert v2.RandomOrder([aug, v2.RandomHorizontalFlip(1.0)])(images).shape == images.shape


def test_repr_in_a_compose_reads_like_torchvision():
    shown = repr(v2.Compose([v2.ToImage(), ia.LearnedAugment(["rotate"], output_size=32), v2.RandomHorizontalFlip()]))
    assert shown.splitlines()[2].strip() == (
        "LearnedAugment(families=[Rotate(bounds=(-180.0, 180.0))], output_size=(32, 32))"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda aug: lambda image, label: aug(image, label),
        lambda aug: lambda image, label: aug((image, label)),
        lambda aug: lambda image, label: tuple(aug({"i": image, "l": label}).values()),
        lambda aug: lambda image, label: aug([{"deep": (image, label)}])[0]["deep"],
    ],
)
def test_pytrees_come_back_in_their_shape(make):
    call = make(make_lively(["crop"]))
    image, label = call(tv_tensors.Image(torch.rand(3, 20, 20)), "leaf")
    assert isinstance(image, tv_tensors.Image) and label == "leaf"


def test_bicubic_as_torchvisions_resized_crop():
    aug = ia.LearnedAugment(["crop"], interpolation="bicubic")
    image = v2.functional.resize(torch.rand(1, 3, 9, 11), [40, 60]).clamp(0, 1)
    box = {"cx": 0.25 + 16 / 60, "cy": 0.25 + 6 / 40, "w": 0.5, "h": 0.5}  # left 16, top 6, 30 × 20 pixels
    out = aug(image, params=ia.AugmentParams(**{k: torch.tensor([v]) for k, v in box.items()}))
    mode = v2.InterpolationMode.BICUBIC
    part = v2.functional.crop(image, 3, 13, 26, 36)  # with a margin, which a crop of ours sees and theirs cuts off
    expected = v2.functional.resize(part, [52, 72], mode, antialias=False)[..., 6:-6, 6:-6].clamp(0, 1)
    assert torch.allclose(out, expected, atol=1e-4)
    linear = ia.LearnedAugment(["crop"])(
        image, params=ia.AugmentParams(**{k: torch.tensor([v]) for k, v in box.items()})
    )
    assert (out - linear).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill", [0.0, 0.4, (0.1, 0.5, 0.9)])
def test_interpolation_and_fill_as_torchvisions_perspective(mode, fill):
    """The oracle is torchvision's own warp by the same matrix, where it does not blend the border with its fill."""
    aug = make_lively(["crop", "rotate"], interpolation=v2.InterpolationMode(mode), fill=fill)
    images = v2.functional.resize(torch.rand(6, 3, 5, 6), [40, 52]).clamp(0, 1)
    params = aug.distribution(images).sample()
    out, matrix = aug(images, params=params), functional.geometry_matrix(aug.families, params, 40, 52)
    outside = torch.tensor(fill).expand(3)
    far = 0
    for b in range(6):
        coefficients = perspective_coefficients(matrix[b], (40, 52), (40, 52))

        def warp(image, coefficients=coefficients):
            return v2.functional.perspective(image, None, None, v2.InterpolationMode(mode), 0, coefficients)

        seen = warp(torch.ones(3, 40, 52))
        wide = seen > 1 - 1e-6
        worst = (out[b] - warp(images[b]).clamp(0, 1)).abs()[wide]
        assert wide.any() and (worst > 1e-3).float().mean() < (0.02 if mode == "nearest" else 1e-9)
        gone = torch.nn.functional.max_pool2d(seen.abs(), 5, 1, 2) == 0
        assert torch.allclose(out[b][gone], outside[:, None, None].expand(3, 40, 52)[gone], atol=1e-5)
        far += int(gone.sum())
    assert far > 1000


def test_fill_by_kind():
    """torchvision's dictionary: masks of a segmentation get the label that its loss ignores."""
    aug = ia.LearnedAugment(["rotate"], fill={tv_tensors.Mask: 255, "others": 0.5})
    assert aug.fill == 0.5 and "mask_fill=255" in repr(aug)
    params = ia.AugmentParams(angle=torch.tensor([45.0]))
    image, mask = aug(
        tv_tensors.Image(torch.zeros(3, 40, 40)), tv_tensors.Mask(torch.ones(40, 40, dtype=torch.int64)), params=params
    )
    assert image[:, 0, 0].tolist() == [0.5] * 3 and mask[0, 0] == 255 and mask[20, 20] == 1
    assert set(mask.unique().tolist()) == {1, 255}


@pytest.mark.parametrize(
    ("fill", "of_images", "of_masks"),
    [
        (0.5, 0.5, 0),
        ({"others": 0.5}, 0.5, 0),
        ({tv_tensors.Image: 0.2, "others": 255}, 0.2, 255),
        ({tv_tensors.Mask: 255}, 0.0, 255),
        ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3), 0),
    ],
)
def test_what_fill_means(fill, of_images, of_masks):
    aug = ia.LearnedAugment(["rotate"], fill=fill)
    assert (aug.fill, aug.mask_fill) == (of_images, of_masks)


def test_fill_and_interpolation_are_saved(tmp_path):
    aug = make_lively(["rotate"], interpolation="bicubic", fill={tv_tensors.Mask: 7, "others": (0.1, 0.2, 0.3)})
    aug.save(tmp_path / "a.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors")
    assert (again.interpolation, again.fill, again.mask_fill) == ("bicubic", (0.1, 0.2, 0.3), 7)
    other = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors", fill=0.0, interpolation="bilinear")
    assert (other.interpolation, other.fill, other.mask_fill) == ("bilinear", 0.0, 0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fill": 128}, r"fill: expected a value in \[0, 1\].*also of uint8"),
        ({"fill": (0.1, 0.2)}, r"one per channel \(3\)"),
        ({"interpolation": "lanczos"}, "interpolation: expected one of bilinear, bicubic, nearest, got 'lanczos'"),
    ],
)
def test_bad_fill_and_interpolation(kwargs, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.LearnedAugment(["rotate"], **kwargs)
