import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.families.turn import Turn


@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_are_those_of_torch(quarters):
    image = torch.rand(1, 3, 20, 20)
    params = Turn().candidates().index(slice(quarters, quarters + 1))
    out = functional.apply(image, params, [Turn()])
    assert torch.allclose(out, torch.rot90(image, quarters, (-2, -1)), atol=1e-5)


@pytest.mark.parametrize("angle", [30.0, 200.0, -15.0])
def test_finer_angles_are_those_of_torchvision(angle):
    family, image = Turn(angles=(0.0, angle)), torch.rand(1, 3, 21, 21)
    out = functional.apply(image, family.candidates().index(slice(1, 2)), [family])
    expected = F.rotate(image, angle, F.InterpolationMode.BILINEAR)
    assert (out - expected)[..., 5:-5, 5:-5].abs().max() < 1e-3


def test_composition_is_addition_of_angles():
    family = Turn()
    compose, image = family.compose_index(), torch.rand(1, 3, 8, 8)
    for a in range(4):
        for b in range(4):
            twice = torch.rot90(torch.rot90(image, a, (-2, -1)), b, (-2, -1))
            assert torch.equal(twice, torch.rot90(image, int(compose[a, b]), (-2, -1)))
    assert Turn(angles=(0.0, 30.0)).compose_index() is None


def test_a_turned_batch_keeps_its_canvas():
    family, images = Turn(), torch.rand(4, 3, 10, 16)
    out = functional.apply(images, family.candidates(), [family], fill=0.5)
    assert out.shape == images.shape
    assert torch.allclose(out[1, :, :, 3:13], torch.rot90(images[1], 1, (-2, -1))[:, 3:13], atol=1e-4)  # rigid
    assert torch.allclose(out[1, :, :, :2], torch.tensor(0.5), atol=1e-4)  # what lies outside


@pytest.mark.parametrize("angles", [(90.0,), (0.0, 0.0), (0.0, 360.0), (0.0, float("nan")), ()])
def test_bad_angles(angles):
    with pytest.raises(ia.InstaAugError, match="turn: angles"):
        Turn(angles=angles)


def test_every_way_of_using_a_family_works_at_once():
    aug, images = ia.LearnedAugment(["turn"]), torch.rand(5, 3, 32, 32)
    assert aug(images).shape == images.shape
    views, sample = aug.sample(images, n="all")
    assert torch.allclose(views[5:10], torch.rot90(images, 1, (-2, -1)), atol=1e-5)
    assert sample.n == 4
    objective = ia.InstaAugObjective(aug, estimator="exact")
    objective(views.mean((1, 2, 3)), sample).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in aug.parameters())


def test_a_single_image_swaps_its_sides_with_all_that_goes_with_it():
    aug, image = ia.LearnedAugment(["turn"]), torch.rand(3, 10, 16)
    mask = tv_tensors.Mask(torch.randint(5, (10, 16)))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[2.0, 1.0, 7.0, 5.0]]), format="XYXY", canvas_size=(10, 16))
    tilted = tv_tensors.BoundingBoxes(torch.tensor([[8.0, 5, 4, 2, 25]]), format="CXCYWHR", canvas_size=(10, 16))
    points = tv_tensors.KeyPoints(torch.tensor([[2.5, 1.5]]), canvas_size=(10, 16))
    params = ia.AugmentParams(turn_angle=torch.tensor([90.0]), turn=torch.tensor([1]))
    out = aug((image, mask, boxes, tilted, points), params=params)
    assert torch.equal(out[0], torch.rot90(image, 1, (-2, -1))) and torch.equal(out[1], torch.rot90(mask, 1, (-2, -1)))
    for moved, before in zip(out[2:], (boxes, tilted, points), strict=True):
        expected = F.rotate(before, 90, expand=True)
        assert torch.allclose(moved, expected, atol=1e-4) and moved.canvas_size == expected.canvas_size == (16, 10)
    assert aug(F.to_pil_image(image), params=params).size == (10, 16)
