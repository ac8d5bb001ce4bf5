"""The resample itself, against Kornia, torchvision and Pillow: what shrinks, what is copied, and labels."""

import numpy as np
import PIL.Image
import pytest
import torch
from kornia.geometry.transform import warp_affine
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.functional.resample import resample_labels

from ._geometry import GEOMETRY, random_params


def warp_by_kornia(images, matrix, size, padding):
    """Kornia takes in→out in pixels, pixel centres at whole numbers."""

    def to_pixels(height, width):
        rows = [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]]
        return torch.tensor(rows, dtype=matrix.dtype)

    forward = to_pixels(*size) @ matrix.inverse() @ to_pixels(*images.shape[-2:]).inverse()
    return warp_affine(images, forward[:, :2], size, padding_mode=padding, align_corners=False)


@pytest.mark.parametrize("size", [(48, 48), (40, 61), (96, 50)])
def test_resample_agrees_with_kornia_and_so_do_its_gradients(size):
    """In double precision, where both are right to the last digits that matter."""
    for inside in (False, True):
        images = torch.rand(6, 3, 40, 50, dtype=torch.float64, requires_grad=True)
        matrix = functional.geometry_matrix(GEOMETRY, random_params(6), 40, 50).double().requires_grad_()
        out = functional.resample(images, matrix, size, inside=inside)
        oracle = warp_by_kornia(images, matrix, size, "border" if inside else "zeros")
        assert (out - oracle).abs().max() < 1e-9
        weight = torch.rand_like(out)
        (by_pixel, by_matrix), (kornia_by_pixel, kornia_by_matrix) = (
            torch.autograd.grad((o * weight).sum(), (images, matrix)) for o in (out, oracle)
        )
        assert (by_pixel - kornia_by_pixel).abs().max() < 1e-9
        # The last row is (0, 0, 1) whatever φ says; Kornia's inverses have a slope there.
        assert torch.allclose(by_matrix[:, :2], kornia_by_matrix[:, :2], rtol=1e-9)


def test_a_large_crop_is_antialiased_as_torchvision():
    images = torch.rand(1, 3, 200, 300)
    params = ia.AugmentParams(**{k: torch.tensor([v]) for k, v in {"cx": 0.5, "cy": 0.5, "w": 0.8, "h": 0.8}.items()})
    out = functional.apply(images, params, families.create(["crop"]), output_size=(20, 30))
    oracle = F.resized_crop(images, 20, 30, 160, 240, [20, 30], antialias=True)
    aliased = F.resized_crop(images, 20, 30, 160, 240, [20, 30], antialias=False)
    assert (out - oracle).abs().mean() < 0.02 < (out - aliased).abs().mean()


def test_shrinking_does_not_depend_on_the_batch():
    images, params = torch.rand(5, 3, 50, 70), random_params(5)
    together = functional.apply(images, params, GEOMETRY, (16, 16))
    alone = torch.cat([functional.apply(images[b : b + 1], params.index([b]), GEOMETRY, (16, 16)) for b in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_whole_image_is_torchvisions_resize_at_every_size(mode):
    image, inside = (
        torch.rand(1, 3, 37, 50),
        ia.AugmentParams(cx=torch.full((1,), 0.5), cy=torch.full((1,), 0.5), w=torch.ones(1), h=torch.ones(1)),
    )
    for width in range(1, 51):
        size = [max(1, 37 - width % 40), width]
        expected = F.resize(image, size, F.InterpolationMode(mode), antialias=True).clamp(0, 1)
        if width == 1:  # see test_one_column
            continue
        assert torch.equal(functional.apply(image, inside, families.create(["crop"]), tuple(size), mode=mode), expected)


@pytest.mark.parametrize("size", [40, 64, 96, 128, 190])
def test_a_box_drawn_smaller_is_as_sharp_as_torchvisions_crop(size):
    """Sampling the copy blurs once more; a copy with the result's own pixels would be twice as far from torchvision's."""
    from sklearn.datasets import load_sample_image

    image = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None, :, :300, :300] / 255
    squares = []
    for top, left in ((11, 80), (37, 3), (64, 55)):
        box = {"cx": (left + 105) / 300, "cy": (top + 105) / 300, "w": 0.7, "h": 0.7}
        params = ia.AugmentParams(**{name: torch.tensor([value]) for name, value in box.items()})
        out = functional.apply(image, params, families.create(["crop"]), (size, size))
        expected = F.resized_crop(image, top, left, 210, 210, [size, size], antialias=True)
        squares.append((out - expected)[..., 2:-2, 2:-2].square().mean())
    assert torch.stack(squares).mean().sqrt() < 0.0125


@pytest.mark.parametrize("side", [0.35, 0.6, 0.75, 0.85])
def test_a_box_comes_from_the_copy_nearest_its_own_size(side):
    """The copy, with pixels 1/√2 of the result's, is torchvision's; the box is cut out of it by Kornia: no other copy is a match."""
    image, n = torch.rand(1, 3, 40, 40), round(2**0.5 * 10 / side)
    params = ia.AugmentParams(
        **{k: torch.tensor([v]) for k, v in {"cx": 0.45, "cy": 0.5, "w": side, "h": side}.items()}
    )
    out = functional.apply(image, params, families.create(["crop"]), (10, 10))

    def cut_from(n):
        zoom, corner = 10 / (side * n), torch.tensor([0.45 - side / 2, 0.5 - side / 2]) * n
        matrix = torch.tensor([[zoom, 0.0], [0.0, zoom]])
        matrix = torch.cat([matrix, ((0.5 - corner) * zoom - 0.5)[:, None]], 1)[None]
        copy = F.resize(image, [n, n], antialias=True)
        return warp_affine(copy, matrix, (10, 10), padding_mode="border", align_corners=False)

    assert (out - cut_from(n)).abs().max() < 1e-5
    assert min((out - cut_from(n + step)).abs().max() for step in (-1, 1)) > 1e-2


@pytest.mark.parametrize(
    ("shape", "size"), [((7, 2), (4, 1)), ((30, 1), (13, 1)), ((1, 30), (1, 13)), ((9, 1), (1, 1))]
)
def test_one_column_and_one_row_are_pillows(shape, size):
    """`F.interpolate` to one column is wrong on a CPU (torch 2.15); Pillow's filter is the same by definition."""
    image = torch.rand(1, 1, *shape)
    resized = PIL.Image.fromarray(image[0, 0].numpy()).resize(size[::-1], PIL.Image.Resampling.BILINEAR)
    out = functional.resample(image, torch.eye(3)[None], size)
    assert torch.allclose(out[0, 0], torch.from_numpy(np.array(resized)).reshape(size), atol=1e-5)


def test_what_an_image_becomes_does_not_depend_on_its_batch():
    """Copies, antialiased and plain views, each alone and all together."""
    images, params = torch.rand(9, 3, 20, 28), random_params(9)
    scale = torch.tensor([0.0, -1.0, 0.5, -0.3, 0.0, -2.0, 0.0, -0.3, 0.0])
    params = params.replace(log2_scale=scale)
    whole = {"cx": 0.5, "cy": 0.5, "w": 1.0, "h": 1.0, "flip": 0.0, "angle": 0.0, "log2_scale": 0.0}
    same = ia.AugmentParams(**{name: torch.full((9,), value) for name, value in whole.items()})
    params = same.where(torch.arange(9) % 4 == 0, params)
    chain = families.create(["crop", "rotate", "scale"])
    for size in ((20, 28), (9, 30)):
        together = functional.apply(images, params, chain, size, fill=0.4)
        alone = [functional.apply(images[b : b + 1], params.index([b]), chain, size, fill=0.4) for b in range(9)]
        assert torch.equal(together, torch.cat(alone))
        images_grad = images.clone().requires_grad_()
        assert torch.equal(functional.apply(images_grad, params, chain, size, fill=0.4), together)
        (slope,) = torch.autograd.grad(
            (functional.apply(images_grad, params, chain, size, fill=0.4) ** 2).sum(), images_grad
        )
        for b in range(9):
            one = images[b : b + 1].clone().requires_grad_()
            (functional.apply(one, params.index([b]), chain, size, fill=0.4) ** 2).sum().backward()
            assert torch.allclose(slope[b], one.grad[0], atol=1e-5)


# The eight ways to lay an image on itself: linear part of out→in, and torch's own.
TURNS = {
    "as it is": ([[1, 0], [0, 1]], lambda x: x),
    "left to right": ([[-1, 0], [0, 1]], lambda x: x.flip(-1)),
    "upside down": ([[1, 0], [0, -1]], lambda x: x.flip(-2)),
    "half": ([[-1, 0], [0, -1]], lambda x: x.rot90(2, (-2, -1))),
    "quarter": ([[0, -1], [1, 0]], lambda x: x.rot90(1, (-2, -1))),
    "three quarters": ([[0, 1], [-1, 0]], lambda x: x.rot90(3, (-2, -1))),
    "transposed": ([[0, 1], [1, 0]], lambda x: x.transpose(-2, -1)),
    "the other diagonal": ([[0, -1], [-1, 0]], lambda x: x.rot90(2, (-2, -1)).transpose(-2, -1)),
}


def matrices(linear):
    matrix = torch.eye(3).repeat(len(linear), 1, 1)
    matrix[:, :2, :2] = torch.tensor(linear)
    return matrix


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(56, 56), (31, 57), (1, 9), (1, 1)])
def test_turns_are_torchs_to_the_bit(name, mode, shape):
    linear, turn = TURNS[name]
    images = torch.rand(3, 3, *shape)
    expected = turn(images)
    out = functional.resample(images, matrices([linear] * 3), expected.shape[-2:], 0.3, mode)
    assert torch.equal(out, expected) and out.is_contiguous()
    assert out.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()


@pytest.mark.parametrize("backend", ["torch", "kornia"])
def test_turns_in_one_batch_with_what_is_sampled(backend):
    images, moved = (
        torch.rand(len(TURNS) + 3, 3, 33, 33),
        torch.tensor([[0.8, 0.1, 0.1], [-0.2, 0.7, 0.0], [0.0, 0.0, 1.0]]),
    )
    matrix = torch.cat([matrices([linear for linear, _ in TURNS.values()]), moved.expand(3, 3, 3)])
    order = torch.randperm(len(images))
    out = functional.resample(images[order], matrix[order], (33, 33), backend=backend)[order.argsort()]
    for row, (_, turn) in enumerate(TURNS.values()):
        assert torch.equal(out[row], turn(images[row]))
    expected = torch.nn.functional.grid_sample(
        images[-3:],
        torch.nn.functional.affine_grid(moved[:2].expand(3, 2, 3), [3, 3, 33, 33], align_corners=False),
        align_corners=False,
    )
    assert torch.allclose(out[-3:], expected, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("learning", [False, True])
def test_most_of_a_batch_may_stay_as_it_is(layout, learning):
    images = torch.rand(7, 3, 20, 24).contiguous(memory_format=layout).requires_grad_(learning)
    before, matrix = images.detach().clone(), torch.eye(3).repeat(7, 1, 1)
    matrix[2, 0, 0] = -1.0
    matrix[5] = torch.tensor([[0.8, 0.1, 0.1], [-0.2, 0.7, 0.0], [0.0, 0.0, 1.0]])
    out = functional.resample(images, matrix, (20, 24))
    grid = torch.nn.functional.affine_grid(matrix[5:6, :2], [1, 3, 20, 24], align_corners=False)
    assert torch.equal(out[[0, 1, 3, 4, 6]], images[[0, 1, 3, 4, 6]]) and torch.equal(out[2], images[2].flip(-1))
    assert torch.allclose(out[5:6], torch.nn.functional.grid_sample(images[5:6], grid, align_corners=False), atol=1e-5)
    out.detach().zero_()  # which the images know nothing of
    assert torch.equal(images.detach(), before)


def test_a_shrunk_turn_is_the_turned_copy():
    image = torch.rand(1, 3, 40, 60)
    out = functional.resample(image, matrices([TURNS["quarter"][0]]), (30, 20))
    assert torch.equal(out, F.resize(image, [20, 30], antialias=True).rot90(1, (-2, -1)))


def test_turns_that_no_copy_can_do_are_sampled():
    """A turned canvas of another shape, a shift, an angle in fp32, a matrix that is being learned."""
    image, quarter = torch.rand(1, 3, 20, 30), matrices([TURNS["quarter"][0]])
    squeezed = functional.resample(image, quarter, (20, 30), inside=True)
    copy = F.resize(image.rot90(1, (-2, -1)), [20, 20], antialias=True)
    assert (squeezed - F.resize(copy, [20, 30], antialias=False)).abs().max() < 1e-5
    square, shifted = torch.rand(1, 3, 24, 24), quarter.clone()
    shifted[:, 0, 2] = 2 / 24  # one pixel
    expected = F.pad(square, [0, 0, 1, 0])[..., 1:].rot90(1, (-2, -1))
    assert torch.allclose(functional.resample(square, shifted, (24, 24)), expected, atol=1e-4)
    learned = quarter.clone().requires_grad_()
    out = functional.resample(square, learned, (24, 24))
    out.square().sum().backward()
    assert torch.allclose(out, square.rot90(1, (-2, -1)), atol=1e-4) and learned.grad.abs().sum() > 0


def test_a_turn_that_is_learned_is_sampled_beside_others_that_shrink():
    images, matrix = torch.rand(2, 3, 16, 16), matrices([[[2, 0], [0, 2]], TURNS["quarter"][0]]).requires_grad_()
    out = functional.resample(images, matrix, (16, 16))
    (slope,) = torch.autograd.grad(out.square().sum(), matrix)
    assert torch.allclose(out[1], images[1].rot90(1, (-2, -1)), atol=1e-4)
    assert (slope[:, :2].abs().sum((1, 2)) > 0).all()


def test_an_image_drawn_smaller_than_a_pixel_is_one_pixel():
    image, tiny = torch.rand(1, 3, 20, 30), torch.diag(torch.tensor([1000.0, 1000.0, 1.0]))[None]
    expected = torch.full((1, 3, 9, 9), 0.25)
    expected[..., 4:5, 4:5] = F.resize(image, [1, 1], antialias=True)
    assert torch.allclose(functional.resample(image, tiny, (9, 9), 0.25), expected, atol=1e-5)


LARGE = [
    (torch.int32, [0, -1, 2**24 + 1, 2**31 - 1, -(2**31)]),
    (torch.int64, [0, -1, 2**24 + 1, 2**53 + 1, -(2**63)]),
    (torch.uint8, [0, 1, 127, 128, 255]),
    (torch.int16, [0, -1, 300, 2**15 - 1, -(2**15)]),
    (torch.uint16, [0, 1, 300, 2**15, 2**16 - 1]),
    (torch.uint32, [0, 1, 2**24 + 1, 2**31, 2**32 - 1]),
    (torch.float64, [0.0, 0.1, 2.0**24 + 1, 1e300, -1e-300]),
    (torch.bool, [False, True, True, False, True]),
]


@pytest.mark.parametrize(("dtype", "values"), LARGE, ids=lambda x: str(x) if isinstance(x, torch.dtype) else "")
def test_labels_are_exact_for_every_dtype(dtype, values):
    """Labels looked up after the transformation are labels transformed: positions in a table are small numbers."""
    table, place = torch.tensor(values, dtype=dtype), torch.randint(0, 5, (4, 2, 21, 30))
    matrix = functional.geometry_matrix(GEOMETRY, random_params(4), 21, 30)
    expected = functional.resample(place.float(), matrix, (17, 33), mode="nearest").long()
    out = functional.resample_labels(table[place], matrix, (17, 33), fill=values[0])
    assert out.dtype == dtype and torch.equal(out, table[expected])
    assert (expected == 0).any() and (expected == 4).any()


def test_fill_of_labels():
    half = torch.eye(3)[None] * torch.tensor([2.0, 2.0, 1.0])
    labels = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    out = functional.resample_labels(labels, half, (8, 8), fill=255)
    assert torch.equal(out, F.pad(torch.full((1, 1, 4, 4), 7, dtype=torch.uint8), [2, 2, 2, 2], fill=255))
    with pytest.raises(ia.InstaAugError, match=r"fill: 256 does not fit masks of dtype torch.uint8"):
        functional.resample_labels(labels, half, (8, 8), fill=256)
    assert functional.resample_labels(labels[:, :0], half, (3, 5)).shape == (1, 0, 3, 5)


def test_labels_outside_are_what_the_dtype_can_hold():
    """Two pixels of four moved out: 0 and the largest of a byte can be said, what lies beyond cannot; a number is rounded."""
    moved = torch.tensor([[[1.0, 0, 1.0], [0, 1, 0], [0, 0, 1]]])  # by half of the width
    labels = torch.tensor([[[[3, 4, 5, 6]]]], dtype=torch.uint8)
    for fill, there in ((0, 0), (255, 255), (6.6, 7)):
        assert resample_labels(labels, moved, (1, 4), fill).flatten().tolist() == [5, 6, there, there]
    for fill in (-1, 256):
        with pytest.raises(ia.InstaAugError, match=f"fill: {fill} does not fit masks of dtype torch.uint8"):
            resample_labels(labels, moved, (1, 4), fill)
    assert resample_labels(labels.float(), moved, (1, 4), -1.5).flatten().tolist() == [5, 6, -1.5, -1.5]
    assert resample_labels(labels > 4, moved, (1, 4), 1).flatten().tolist() == [True] * 4
    assert resample_labels(labels, moved, (1, 4), inside=True).flatten().tolist() == [5, 6, 6, 6]
    assert resample_labels(labels, moved, (1, 4)).flatten().tolist() == [5, 6, 0, 0]  # by default


@pytest.mark.parametrize("function", [functional.resample, functional.resample_labels])
def test_each_image_needs_a_matrix(function):
    """Two for four masks gave two masks."""
    for matrix in (torch.eye(3).expand(2, 3, 3), torch.eye(3)):
        with pytest.raises(ia.InstaAugError, match=r"matrix: expected \(B, 3, 3\), one for each"):
            function(torch.rand(4, 1, 8, 8), matrix, (8, 8))
