"""Where boxes, points and masks come to lie, by linear programming and in closed form."""

import math

import numpy as np
import PIL.Image
import pytest
import scipy.optimize
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.functional.targets import (
    owners,
    perspective_coefficients,
    pixel_matrix,
    transform_mask,
    transform_points,
)

from .conftest import make_lively
from .test_boxes import boxes, seeded


@pytest.mark.parametrize("names", [["crop"], ["crop", "rotate"], ["rotate", "shear"]], ids="-".join)
def test_what_is_visible_of_a_box_is_what_linear_programming_finds(names):
    """The extremes of the points of a parallelogram that lie on the canvas; of one that shows nothing, its box clamped."""
    aug, size, seen = make_lively(names), (40, 56), 0
    image = tv_tensors.Image(torch.rand(3, *size))
    generator = seeded(1)
    for seed in range(10):
        params = aug.distribution(image).sample((), seeded(seed))
        low = torch.rand(4, 2, generator=generator) * 70 - 15
        given = torch.cat([low, low + 1 + 40 * torch.rand(4, 2, generator=generator) ** 2], 1)
        _, found = aug(image, boxes(given, size), params=params)
        matrix = functional.geometry_matrix(aug.families, params, *size)
        forward = pixel_matrix(matrix, size, size)[0].detach().numpy()
        for box, got in zip(given.double().numpy(), found.as_subclass(torch.Tensor).numpy(), strict=True):
            start = forward[:2, :2] @ box[:2] + forward[:2, 2]
            edges = forward[:2, :2] * (box[2:] - box[:2])  # columns: along x, along y
            limits = np.array([56.0, 40.0])
            ends = []
            for axis in (0, 1):
                for sign in (1, -1):
                    made = scipy.optimize.linprog(
                        sign * edges[axis],
                        A_ub=np.vstack([edges, -edges]),
                        b_ub=np.concatenate([limits - start, start]),
                        bounds=[(0, 1)] * 2,
                    )
                    ends.append(start[axis] + sign * made.fun if made.status == 0 else None)
            if None not in ends:
                expected, seen = np.array(ends)[[0, 2, 1, 3]], seen + 1
            else:
                corners = start + np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ edges.T
                expected = np.clip(np.concatenate([corners.min(0), corners.max(0)]), 0, np.tile(limits, 2))
            assert np.allclose(got, expected, atol=2e-3)
    assert 10 < seen < 40


@pytest.mark.parametrize("point", [(10.0, 12.0), (-5.0, 12.0), (70.0, 50.0)])
def test_a_box_without_extent_stays_one(point):
    """On the canvas where it is, outside at the nearest edge, as torchvision clamps it."""
    aug, image = ia.LearnedAugment(["rotate"]), tv_tensors.Image(torch.rand(3, 40, 56))
    given = boxes([[*point, *point]], (40, 56))
    _, moved = aug(image, given, params=ia.AugmentParams(angle=torch.zeros(1)))
    expected = F.clamp_bounding_boxes(given)
    assert torch.allclose(moved.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor), atol=1e-4)
    half = ia.AugmentParams(angle=torch.tensor([180.0]))
    _, turned = aug(image, given, params=half)
    x, y = min(max(56 - point[0], 0.0), 56.0), min(max(40 - point[1], 0.0), 40.0)
    assert torch.allclose(turned.as_subclass(torch.Tensor), torch.tensor([[x, y, x, y]]), atol=1e-3)


def test_out_to_in_becomes_in_to_out_in_pixels():
    """The left half of 40 × 60 pixels shown on 20 × 30: what lay at x lies at x."""
    matrix = torch.tensor([[0.5, 0.0, -0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = pixel_matrix(matrix, (40, 60), (20, 30))
    assert found.dtype == torch.float64 and torch.allclose(
        found, torch.diag(torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))
    )
    coefficients = perspective_coefficients(matrix, (40, 60), (20, 30))
    assert coefficients == pytest.approx([1, 0, 0, 0, 2, 0, 0, 0], abs=1e-9)
    right = perspective_coefficients(matrix * torch.tensor([[1.0, 1, -1], [1, 1, 1], [1, 1, 1]]), (40, 60), (20, 30))
    assert right == pytest.approx([1, 0, 30, 0, 2, 0, 0, 0], abs=1e-9)


def test_whose_targets_they_are():
    """A leaf of a kind for each image, in their order; one alone, too few or a batch of masks belong to all."""
    one, other = (boxes([[0.0, 0, 1, 1]], (4, 4)) for _ in range(2))
    masks = [tv_tensors.Mask(torch.zeros(1, 4, 4)) for _ in range(2)]
    points = [tv_tensors.KeyPoints(torch.zeros(1, 2), canvas_size=(4, 4)) for _ in range(2)]
    assert owners([one, "label", other, *masks, *points], 2) == {
        id(leaf): [i] for pair in ((one, other), masks, points) for i, leaf in enumerate(pair)
    }
    assert owners([one, one, other], 3) == {id(one): [0, 1], id(other): [2]}
    assert owners([one, other], 3) == owners([one], 1) == owners([], 2) == {}
    batched = [tv_tensors.Mask(torch.zeros(2, 1, 4, 4)) for _ in range(2)]
    assert owners([*batched, one, other], 2) == {id(one): [0], id(other): [1]}


@pytest.mark.parametrize(
    ("shape", "n"), [((3, 1, 4, 4), 2), ((4, 4), 2), ((1, 4, 4), 2), ((2, 1, 4, 4), 1), ((4, 5, 1, 4, 4), 2), ((4,), 1)]
)
def test_masks_of_another_number_of_images_are_refused(shape, n):
    params = ia.AugmentParams(angle=torch.zeros(n))
    with pytest.raises(ia.InstaAugError, match=f"mask: shape .* does not go with {n} image"):
        transform_mask(tv_tensors.Mask(torch.zeros(shape)), params, families.create(["rotate"]), None)
    with pytest.raises(ia.InstaAugError, match="BoundingBoxes: one canvas goes with one image, got a batch of 2"):
        transform_points(
            boxes([[0.0, 0, 1, 1]], (4, 4)), ia.AugmentParams(angle=torch.zeros(2)), families.create(["rotate"]), None
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_points_of_any_dtype_are_rounded_once(dtype):
    """Turned by 30 degrees about the middle and drawn three times as large, by hand."""
    places, middle = torch.tensor([[3.0, 5.0], [7.0, 2.0], [12.0, 14.0]]), torch.tensor([10.0, 8.0])
    points = tv_tensors.KeyPoints(places.to(dtype), canvas_size=(16, 20))
    turn = ia.AugmentParams(angle=torch.tensor([30.0]))
    moved = transform_points(points, turn, families.create(["rotate"]), (48, 60))
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)  # counter-clockwise, y down
    exact = 3 * ((places - middle) @ torch.tensor([[cos, -sin], [sin, cos]]) + middle)
    assert torch.equal(moved, (exact if dtype.is_floating_point else exact.round()).to(dtype))
    assert moved.canvas_size == (48, 60) and moved.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rotated_boxes_of_half_precision_are_those_of_full_precision(dtype):
    places = torch.tensor([[8.0, 6, 4, 2, 15], [10.0, 8, 6, 3, -20]])
    how = {"format": "CXCYWHR", "canvas_size": (16, 20)}
    turn = ia.AugmentParams(angle=torch.tensor([30.0]))
    exact, moved = (
        transform_points(tv_tensors.BoundingBoxes(given, **how), turn, families.create(["rotate"]), (32, 40))
        for given in (places, places.to(dtype))
    )
    assert moved.dtype == dtype and torch.allclose(moved.float(), exact.to(dtype).float(), rtol=1e-2)


def test_masks_of_a_clip_are_of_its_frames():
    """As each frame's by itself; a clip has one transformation. They were refused, as those of so many images."""
    aug, clip = make_lively(["crop", "rotate"]).requires_grad_(False), tv_tensors.Video(torch.rand(4, 3, 16, 20))
    masks = torch.randint(3, (4, 2, 16, 20))
    moved, together = aug(clip, tv_tensors.Mask(masks))
    params = aug.make_params([clip])["params"].replace(angle=torch.tensor([30.0]))
    moved, together = aug(clip, tv_tensors.Mask(masks), params=params)
    for i in range(4):
        frame, alone = aug(tv_tensors.Image(clip[i]), tv_tensors.Mask(masks[i]), params=params)
        assert torch.equal(together[i], alone) and torch.allclose(moved[i], frame, atol=1e-6)
    assert type(together) is tv_tensors.Mask and not torch.equal(together, masks)


def test_colours_leave_masks_and_points_alone_but_for_their_size():
    chain, params = families.create(["hsv"]), ia.AugmentParams(hue=torch.tensor([0.3]))
    mask = tv_tensors.Mask(torch.arange(16).reshape(4, 4))
    assert torch.equal(transform_mask(mask, params, chain, None), mask)
    larger = transform_mask(mask, params, chain, (8, 8))
    assert torch.equal(larger, mask.repeat_interleave(2, 0).repeat_interleave(2, 1))
    points = tv_tensors.KeyPoints([[1.0, 3.0]], canvas_size=(4, 4))
    assert torch.equal(transform_points(points, params, chain, None), points)
    moved = transform_points(points, params, chain, (8, 12))
    assert moved.tolist() == [[3.0, 6.0]] and moved.canvas_size == (8, 12)


def test_canvases_of_odd_sides_have_their_middle_in_the_middle_of_a_pixel():
    """A half turn of 7 × 5 pixels takes x to 5 − x and y to 7 − y; out to 3 × 9, by the ratio of the sides."""
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    forward = torch.tensor([[-1.0, 0, 5], [0, -1, 7], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(pixel_matrix(turn, (7, 5), (7, 5)), forward)
    larger = torch.diag(torch.tensor([9 / 5, 3 / 7, 1.0], dtype=torch.float64))
    assert torch.allclose(pixel_matrix(turn, (7, 5), (3, 9)), larger @ forward)
    aug = ia.LearnedAugment(["rotate"])
    given = boxes([[1.0, 2.0, 2.0, 6.0]], (7, 5))
    _, moved = aug(tv_tensors.Image(torch.rand(3, 7, 5)), given, params=ia.AugmentParams(angle=torch.tensor([180.0])))
    assert torch.allclose(moved.as_subclass(torch.Tensor), torch.tensor([[3.0, 1.0, 4.0, 5.0]]), atol=1e-5)


def test_outside_of_masks_is_0_unless_something_else_is_said():
    params, mask = ia.AugmentParams(shift_x=torch.tensor([0.5])), tv_tensors.Mask(torch.ones(2, 4, dtype=torch.int16))
    for fill, there in (({}, 0), ({"fill": -7}, -7)):
        out = transform_mask(mask, params, families.create(["translate"]), None, **fill)
        assert out.tolist() == [[there, there, 1, 1]] * 2


UPRIGHT = [[0.0, 10, 0, 20], [56.0, 10, 56, 20], [0.0, 0, 0, 40], [12.0, -9, 12, 50]]
LYING = [[10.0, 0, 20, 0], [10.0, 40, 20, 40], [0.0, 0, 56, 0], [-9.0, 12, 70, 12], [0.0, 0, 0, 0], [7.0, 7, 7, 7]]


@pytest.mark.parametrize("box", UPRIGHT + LYING)
def test_a_line_covers_no_corner_of_the_canvas(box):
    """A box without width or height, at an edge too, stays as long as it is, or as the canvas is."""
    given = boxes([box], (40, 56))
    image, still = tv_tensors.Image(torch.rand(3, 40, 56)), ia.AugmentParams(angle=torch.zeros(1))
    _, moved = ia.LearnedAugment(["rotate"])(image, given, params=still)
    assert moved.tolist() == F.clamp_bounding_boxes(given).tolist()


@pytest.mark.parametrize("kind", ["mask", "boxes", "points"])
def test_a_canvas_of_other_proportions_is_refused_as_torchvision_does(kind):
    image, pil = tv_tensors.Image(torch.rand(3, 40, 80)), PIL.Image.new("RGB", (80, 40))

    def on(size):
        boxes = {"format": "XYXY", "canvas_size": size}
        made = {
            "mask": tv_tensors.Mask(torch.zeros(1, *size)),
            "boxes": tv_tensors.BoundingBoxes([[1, 2, 9, 8]], **boxes),
        }
        return made[kind] if kind in made else tv_tensors.KeyPoints([[1.0, 2.0]], canvas_size=size)

    aug = ia.LearnedAugment(["crop", "rotate"])
    for size in ((80, 80), (80, 40)):
        with pytest.raises(ValueError, match="multiple HxW"):
            v2.RandomAffine(40)(image, on(size))
        for given in ((image, on(size)), {"image": pil, kind: on(size)}, {kind: on(size), "image": image}):
            with pytest.raises(
                ia.InstaAugError, match=rf"canvas \(height, width\) of \({size[0]}, {size[1]}\).*\(40, 80\)"
            ):
                aug(given) if isinstance(given, dict) else aug(*given)
    aug(image, on((40, 80))), aug(pil, on((20, 40))), aug(image, on((375, 750)))
    aug(tv_tensors.Image(torch.rand(3, 13, 27)), on((375, 750)))  # the image's sides were rounded


def test_a_mask_of_another_resolution_follows_the_image():
    """As torchvision turns both where they are of one size."""
    fine = torch.zeros(1, 80, 160)
    fine[:, 10:40, 20:100] = 1
    image, coarse = tv_tensors.Image(torch.rand(3, 80, 160)), tv_tensors.Mask(fine[:, ::2, ::2])
    params = ia.AugmentParams(angle=torch.tensor([40.0]))
    moved = ia.LearnedAugment(["rotate"])(image, coarse, params=params)[1]
    expected = F.rotate(fine, 40)[:, ::2, ::2]
    assert (moved.as_subclass(torch.Tensor) != expected).float().mean() < 0.02
