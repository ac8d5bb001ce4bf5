import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as TF

import instaaug_transforms as ia
from instaaug_transforms.measure.warp import FILLS, check_fills, fill_name, neighbours, warp

pytestmark = pytest.mark.usefixtures("one_thread")


def shift(right, down):
    """The out→in matrix of a shift by fractions of width and height."""
    return torch.tensor([[1.0, 0.0, -2 * right], [0.0, 1.0, -2 * down], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_move_by_whole_pixels_too(dtype):
    """Of 1,024 places half precision knows every second one at best."""
    images = torch.rand(1, 2, 3, 1024).to(dtype)
    moved = warp(images, shift(7 / 1024, 0), "wrap")
    assert moved.dtype == dtype and (moved - images.roll(7, -1)).abs().max() < 0.005


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_wrap_is_roll_for_whole_pixels(size):
    images = torch.rand(3, 2, *size)
    moved = warp(images, shift(3 / size[1], -2 / size[0]), "wrap")
    assert torch.allclose(moved, images.roll((-2, 3), (2, 3)), atol=1e-4)


@pytest.mark.parametrize(("fill", "mode"), [("border", "edge"), ("reflection", "symmetric")])
def test_fills_continue_as_numpy_pads(fill, mode):
    images = torch.rand(2, 3, 10, 10)
    moved = warp(images, shift(0.4, -0.3), fill)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (10, 10), (10, 10)), mode)
    assert np.allclose(moved, padded[..., 13:23, 6:16], atol=1e-4)


def test_constant_and_mean_fill():
    images = torch.rand(2, 3, 10, 10)
    assert torch.allclose(warp(images, shift(0.5, 0.0), 0.25)[..., :5], torch.tensor(0.25), atol=1e-6)
    level = images.mean((-2, -1), keepdim=True).expand(2, 3, 10, 5)
    assert torch.allclose(warp(images, shift(0.5, 0.0), "mean")[..., :5], level, atol=1e-5)


def test_content_turns_as_torchvision_turns():
    images = F.interpolate(torch.rand(2, 3, 6, 6), size=(40, 40), mode="bicubic").clamp(0, 1)
    cos, sin = np.cos(np.radians(25)), np.sin(np.radians(25))
    ours = warp(images, torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))
    oracle = TF.rotate(images, 25, interpolation=TF.InterpolationMode.BILINEAR)
    assert (ours - oracle)[..., 8:-8, 8:-8].abs().max() < 1e-4


def test_what_gets_smaller_is_antialiased():
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::2] = 1.0  # the finest stripes turn grey, where plain sampling keeps some
    small = warp(stripes, torch.diag(torch.tensor([2.5, 2.5, 1.0])), "border")
    assert (small[..., 12:20, 12:20] - 0.5).abs().max() < 0.1
    grid = F.affine_grid(torch.eye(2, 3)[None] * 2.5, [1, 1, 32, 32], align_corners=False)
    plain = F.grid_sample(stripes, grid, align_corners=False)
    assert (plain[..., 12:20, 12:20] - 0.5).abs().max() > 0.2


def test_memory_format_and_dtype_come_back():
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    out = warp(images, shift(0.1, 0.0), "border")
    assert out.is_contiguous(memory_format=torch.channels_last) and out.dtype == torch.float64


@pytest.mark.parametrize("fill", [0.3, *FILLS])
def test_neighbours_are_what_a_shift_shows(fill):
    images = torch.rand(2, 3, 8, 8)
    wide = neighbours(images, fill)
    assert torch.equal(wide[..., 1:-1, 1:-1], images)
    assert torch.allclose(wide[..., 1:-1, :-2], warp(images, shift(1 / 8, 0.0), fill), atol=1e-4)


def test_names_and_errors():
    for images, matrix in (
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.eye(3)),
        (torch.zeros(1, 3, 4, 4), torch.eye(3)[:2]),
        (torch.zeros(1, 3, 4, 4), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.2, 0, 1]])),  # a perspective
    ):
        with pytest.raises(
            ia.InstaAugError, match=r"images, matrix: expected .* \(3, 3\), the last row \(0, 0, 1\), got"
        ):
            warp(images, matrix)
    assert [fill_name(f) for f in check_fills((0, 0.5, 0.2, "wrap"))] == ["black", "grey", "grey 0.2", "wrap"]
    with pytest.raises(ia.InstaAugError, match=r"fill: expected a value in \[0, 1\] or one of mean.*'zeros'"):
        check_fills("zeros")
    assert check_fills(["black", "grey", "white", "mean"]) == [0, 0.5, 1, "mean"]  # as reports call them
    with pytest.raises(ia.InstaAugError, match="each once"):
        check_fills([0.0, 0])
