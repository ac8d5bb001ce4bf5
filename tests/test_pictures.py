"""PIL images cut by PIL's own resize: which boxes, on which pixels, and where that is not enough."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.families import create
from instaaug_transforms.functional.pictures import _box, cut, picture, pixels

from .test_one_image import box
from .test_one_image import picture as noise

CROP = create(["crop"])


def corners(left: float, top: float, right: float, bottom: float) -> ia.AugmentParams:
    return box((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def far(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two images' bytes."""
    assert (one.mode, one.size) == (other.mode, other.size)
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(9, 11), (48, 64), (150, 200)])
@pytest.mark.parametrize("across", [(0.0, 0.25), (0.0, 1.0), (0.28125, 0.71875), (0.8125, 1.0)])
@pytest.mark.parametrize("down", [(0.0, 0.375), (0.0, 1.0), (0.34375, 0.40625), (0.75, 1.0)])
def test_a_box_is_pils_resize_of_it_wherever_it_lies(across, down, size, mode):
    """At every edge and inside, smaller and larger than it was, plain and mirrored; whole images among them."""
    image, (left, right), (top, bottom) = noise(48, 64, mode), across, down
    expected = image.resize(size[::-1], Image.BILINEAR, (64 * left, 48 * top, 64 * right, 48 * bottom))
    for params, view in (
        (corners(left, top, right, bottom), expected),
        (corners(left, top, right, bottom).replace(flip=torch.ones(1)), ImageOps.mirror(expected)),
    ):
        for alone, known in itertools.product((False, True, None), (None, pixels(image, len(mode)))):
            out = cut(image, params, CROP, len(mode), size, "bilinear", known, alone)
            assert far(out, view) <= 1 and out is not image


def test_without_another_size_a_view_is_as_large_as_the_image():
    image = noise(48, 64)
    assert far(cut(image, corners(0, 0, 1, 1), CROP, 3, None, "bilinear"), image) == 0
    expected = image.resize((64, 48), Image.BILINEAR, (0, 12, 32, 36))
    assert far(cut(image, corners(0, 0.25, 0.5, 0.75), CROP, 3, None, "bilinear"), expected) <= 1


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("wide", "high", "whole"), [(64, 64, True), (63, 90, False), (90, 63, False), (90, 64, True)])
@pytest.mark.parametrize("alone", [True, False])
def test_of_an_image_alone_boxes_of_64_pixels_and_more_lie_on_whole_pixels(wide, high, whole, alone, known):
    """As RandomResizedCrop's; of boxes 0.4 pixels to the right of some pixel, and 0.4 below it."""
    image, left, top = noise(128, 256), 32, 16
    # torchvision cuts first, and knows nothing of the pixels around the box.
    near = image.crop((left, top, left + wide, top + high)).resize((50, 40), Image.BILINEAR)
    exact = image.resize((50, 40), Image.BILINEAR, (left + 0.4, top + 0.4, left + wide + 0.4, top + high + 0.4))
    assert far(near, exact) > 30
    params = corners((left + 0.4) / 256, (top + 0.4) / 128, (left + wide + 0.4) / 256, (top + high + 0.4) / 128)
    given = pixels(image, 3) if known else None
    view = cut(image, params, CROP, 3, (40, 50), "bilinear", given, alone)
    assert far(view, near if whole and alone else exact) <= 2
    unsaid = cut(image, params, CROP, 3, (40, 50), "bilinear", given)  # there may be masks
    assert far(unsaid, exact) <= 2


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize(("by", "inside"), [(0.0, True), (5e-6, True), (2e-5, False), (0.01, False)])
def test_a_box_may_reach_beyond_the_image_by_no_more_than_rounding(side, by, inside):
    """Of what lies beyond, PIL knows nothing: the fill is somebody else's work."""
    edges = [0.25, 0.25, 0.75, 0.75]
    edges[side] = (0.0 - by, 0.0 - by, 1.0 + by, 1.0 + by)[side]
    image = noise(48, 64)
    view = cut(image, corners(*edges), CROP, 3, (40, 50), "bilinear")
    assert (view is not None) == inside
    if inside:
        inner = [min(max(edge, 0), 1) * n for edge, n in zip(edges, (64, 48, 64, 48), strict=True)]
        assert far(view, image.resize((50, 40), Image.BILINEAR, inner)) <= 1


def test_what_is_more_than_a_box_scaled_is_left_to_others():
    image, some = noise(48, 64), box(0.5, 0.5, 0.5, 0.5)
    families = create(["crop", "rotate", "hsv"])
    assert cut(image, some, families, 3, None, "bilinear") is not None
    assert cut(image, some, families, 3, None, "bicubic") is None
    assert cut(image, some.replace(hue=torch.full((1,), 0.1)), families, 3, None, "bilinear") is None
    assert cut(image, some.replace(angle=torch.full((1,), 20.0)), families, 3, None, "bilinear") is None
    assert cut(noise(48, 64, "RGBA"), some, families, 4, None, "bilinear") is None
    # An angle of 0 beside the crop leaves it a box, by its matrix.
    straight = cut(image, some.replace(angle=torch.zeros(1)), families, 3, None, "bilinear")
    assert far(straight, cut(image, some, families, 3, None, "bilinear")) <= 1


def test_a_map_shows_a_box_where_it_turns_nothing_and_leaves_up_where_it_is():
    def shown(xx, xy, x, yx, yy, y):
        return _box(torch.tensor([[[xx, xy, x], [yx, yy, y], [0.0, 0.0, 1.0]]]))

    # From −1 … 1 to 0.5 · (−1 … 1) + 0.25 = −0.25 … 0.75, which is 0.375 … 0.875 of the image; and down likewise.
    assert shown(0.5, 0.0, 0.25, 0.0, 0.25, -0.5) == (0.375, 0.125, 0.875, 0.375, False)
    assert shown(-0.5, 0.0, 0.25, 0.0, 0.25, -0.5) == (0.375, 0.125, 0.875, 0.375, True)
    assert shown(1.0, 0.0, 0.0, 0.0, 1.0, 0.0) == _box(None) == (0.0, 0.0, 1.0, 1.0, False)
    for other in ((0.5, 0.1, 0, 0, 0.5, 0), (0.5, 0, 0, 0.1, 0.5, 0), (0.5, 0, 0, 0, -0.5, 0)):
        assert shown(*other) is None
    # Of no width or height: nothing that could be scaled.
    assert shown(0.0, 0, 0, 0, 0.5, 0) is None and shown(0.5, 0, 0, 0, 0.0, 0) is None


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_bytes_of_a_picture_and_back(mode, channels):
    image = noise(5, 7, "RGB").convert(mode)
    if channels == 4:
        image.putalpha(noise(5, 7, "L"))
    given = pixels(image, channels)
    assert torch.equal(given[0], F.pil_to_tensor(image)) and given.is_contiguous(memory_format=torch.channels_last)
    assert far(picture(given[0]), image) == 0


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_pictures_without_pixels_are_refused(size):
    with pytest.raises(ia.InstaAugError, match=r"image: it has no pixels \(width {}, height {}\)".format(*size)):
        pixels(Image.new("RGB", size), 3)
    assert pixels(Image.new("L", (1, 1)), 1).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("mode", "channels", "advice", "mask"),
    [
        ("L", 3, r"convert it first with img.convert\('RGB'\)", True),
        ("1", 1, r"convert it first with img.convert\('L'\)", True),
        ("P", 4, r"convert it first with img.convert\('RGBA'\)", True),
        ("RGB", 1, r"convert it first with img.convert\('L'\)", False),
        ("CMYK", 3, r"convert it first with img.convert\('RGB'\)", False),
        ("I", 1, "give a tensor", False),
        ("F", 3, "give a tensor", False),
        ("RGB", 2, "give a tensor", False),
    ],
)
def test_a_picture_of_another_mode_is_refused_with_what_helps(mode, channels, advice, mask):
    """PIL's convert cuts off what is above 255; no mode has two channels; and what may be a mask has its own way in."""
    with pytest.raises(ia.InstaAugError, match=rf"made for {channels} .* of mode '{mode}'; {advice}") as raised:
        pixels(Image.new(mode, (4, 4)), channels)
    assert ("if it is a mask" in str(raised.value)) == mask
