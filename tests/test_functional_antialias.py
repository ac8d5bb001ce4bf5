"""Antialiased copies: how large they are, and what they hold, against torch, torchvision and Pillow."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from instaaug_transforms.functional.antialias import antialiased, copy_size, shrunk


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"), [((12, 15), (4, 5)), ((12, 15), (7, 15)), ((9, 14), (1, 3)), ((6, 6), (6, 6))]
)
def test_the_copies_that_a_compiler_makes_are_torchs(shape, size, inside, mode):
    """Without reading a number: the whole image's copy has the size of the result, and lies in a corner of a canvas."""
    images = torch.rand(2, 3, *shape)
    canvas, into = antialiased(images, torch.eye(3).expand(2, 3, 3), size, (0.1, 0.2, 0.3), mode, inside)
    copy = nn.functional.interpolate(images, size=size, mode=mode, antialias=True)
    beyond = torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand(2, 3, *shape)
    expected = (
        nn.functional.pad(copy, (0, shape[1] - size[1], 0, shape[0] - size[0]), mode="replicate")
        if inside
        else beyond.clone()
    )
    expected[:, :, : size[0], : size[1]] = copy
    assert torch.allclose(canvas, expected, atol=1e-5)
    # What was sampled from −1 to 1 is sampled from −1 to the copy's right (lower) edge.
    sides = torch.tensor([2 * size[1] / shape[1], 2 * size[0] / shape[0]])
    corners = torch.tensor([[-1.0, -1, 1], [1, 1, 1], [0, 0, 1]])
    assert torch.allclose(
        (into[0] @ corners.T).T[:, :2], torch.stack([-torch.ones(2), sides - 1, sides / 2 - 1]), atol=1e-6
    )
    assert torch.equal(into[:, 2], torch.tensor([[0.0, 0, 1]]).expand(2, 3))


@pytest.mark.parametrize("zoom", [0.35, 0.75, 1.0, 1.7])
def test_the_copies_that_a_compiler_makes_are_finer_than_the_result_where_they_are_sampled(zoom):
    """A box, a turned one and a mirrored image: of the box 1/√2 of the result's pixels; the mirror image needs no more than it has."""
    images, side = torch.rand(3, 1, 40, 40), min(40, round(2**0.5 * 10 / zoom))
    turned = [[0.6 * zoom, -0.8 * zoom, 0.1], [0.8 * zoom, 0.6 * zoom, 0], [0, 0, 1]]
    matrix = torch.tensor([[[zoom, 0, 0.1], [0, zoom, 0], [0, 0, 1]], turned, [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    canvas, into = antialiased(images, matrix, (10, 10), 0.0, "bilinear", False)
    for b, n in enumerate((side, side, 10)):
        assert torch.allclose(canvas[b, :, :n, :n], F.resize(images[b], [n, n], antialias=True), atol=1e-5)
        assert (canvas[b, :, n:] == 0).all() and (canvas[b, :, :, n:] == 0).all()
        scale = torch.tensor([[n / 40, 0, n / 40 - 1], [0, n / 40, n / 40 - 1], [0, 0, 1]])
        assert torch.allclose(into[b], scale @ matrix[b], atol=1e-5)


def test_one_pixel_of_the_result_is_one_of_the_copy():
    """A view of 10 × 6 pixels of a box of 0.5 × 0.25: the whole image would have 20 × 24 such; a turn changes nothing."""
    result = np.array([10, 6])
    assert np.allclose(copy_size(np.diag([0.5, 0.25])[None], np.array([40, 30]), result), [[20, 24]])
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 0.5  # of a square to a square
    assert np.allclose(copy_size(turn[None], np.array([40, 40]), np.array([10, 10])), [[20, 20]])
    sheared = np.array([[[1, 2.0], [0, 1]]]), np.array([30, 30])  # rows of pixels lie 1/√5 apart
    assert np.allclose(copy_size(*sheared, np.array([9, 9])), [[9, round(9 * 5**0.5)]])
    assert np.allclose(copy_size(*sheared, np.array([20, 20])), [[20, 30]])  # no more than the image has


@pytest.mark.parametrize("size", [(5, 1), (1, 1), (1, 7), (3, 2), (7, 7)])
def test_what_is_shrunk_to_a_line_is_pillows(size):
    image = torch.rand(1, 1, 8, 9)
    expected = PIL.Image.fromarray(image[0, 0].numpy()).resize(size[::-1], PIL.Image.Resampling.BILINEAR)
    out = shrunk(image, size, "bilinear")
    assert out.shape[2:] == size and torch.allclose(
        out[0, 0], torch.from_numpy(np.array(expected)).reshape(size), atol=1e-5
    )
