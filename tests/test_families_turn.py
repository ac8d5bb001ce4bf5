import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.families.rotate import Rotate
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


def test_hand_made_angles_are_the_nearest_on_the_circle():
    torch.manual_seed(0)
    distribution = ia.LearnedAugment(["turn"]).distribution(torch.rand(1, 3, 16, 16))
    every = distribution.log_prob(ia.AugmentParams(turn=torch.arange(4)[:, None]))
    for angle, candidate in ((-90.0, 3), (350.0, 0), (-170.0, 2), (100.0, 1), (720.0, 0)):
        assert distribution.log_prob(ia.AugmentParams(turn_angle=torch.tensor([[angle]]))) == every[candidate]


def test_what_a_turned_box_shows_from_outside_is_fill():
    """A jittered box need not be square: a tall one at the right edge, turned, leaves the image, as `rotate` has it."""
    crop = ia.families.create(["crop"], {"crop": {"jitter": True}})
    aug = ia.LearnedAugment([*crop, Turn()], fill=1.0).requires_grad_(False)
    other = ia.LearnedAugment([*crop, "rotate"], fill=1.0).requires_grad_(False)
    image = torch.zeros(1, 3, 60, 60)
    box = {"cx": [0.85], "cy": [0.5], "w": [0.3], "h": [0.6]}
    tall = {name: torch.tensor(value) for name, value in box.items()}
    turned = aug(image, params=ia.AugmentParams(**tall, turn_angle=torch.tensor([90.0])))
    rotated = other(image, params=ia.AugmentParams(**tall, angle=torch.tensor([90.0])))
    assert 0.1 < (turned == 1).float().mean() < 0.5 and torch.allclose(turned, rotated, atol=1e-5)


def test_left_out_angles_and_numbers_of_double_precision_are_as_good():
    aug, image = ia.LearnedAugment(["crop", "turn"]).requires_grad_(False), torch.rand(3, 20, 30)
    box = {"cx": 0.4, "cy": 0.5, "w": 0.5, "h": 0.5}
    single = aug(image, params=ia.AugmentParams(**{name: torch.tensor([value]) for name, value in box.items()}))
    batch = aug(image[None], params=ia.AugmentParams(**{name: torch.tensor([value]) for name, value in box.items()}))
    assert torch.equal(single, batch[0])
    exact = {name: torch.tensor([value], dtype=torch.float64) for name, value in box.items()}
    again = aug(image, params=ia.AugmentParams(**exact, turn_angle=torch.zeros(1, dtype=torch.float64)))
    assert torch.allclose(again, single, atol=1e-6)


def test_when_sides_swap_and_when_nothing_is_shown_from_outside():
    def swaps(*angles):
        return Turn().swaps_sides(ia.AugmentParams(turn_angle=torch.tensor(angles)))

    assert swaps(90.0) and swaps(90.0, 270.0) and swaps(-90.0) and swaps(450.0)
    assert not (swaps(0.0) or swaps(180.0) or swaps(90.0, 180.0) or swaps(45.0) or swaps(91.0))
    assert not Turn().swaps_sides(ia.AugmentParams(turn=torch.tensor([1])))
    assert Turn().keeps_inside(8, 8) and not Turn().keeps_inside(8, 9) and not Turn().keeps_inside(9, 8)
    assert not Turn(angles=(0.0, 45.0)).keeps_inside(8, 8) and Turn(angles=(0.0, 180.0)).keeps_inside(8, 8)


def test_a_quarter_turn_is_exact_and_rigid_where_sides_differ():
    """[cos −sin; sin cos] in pixels, y down: in coordinates of a frame of 2 : 1 its entries are 1/2 and 2."""
    params = ia.AugmentParams(turn_angle=torch.tensor([90.0, 180.0, 270.0, 0.0]))
    found = Turn().matrix(params, torch.full((4,), 2.0))
    expected = torch.tensor([[[0, -0.5], [2, 0]], [[-1, 0], [0, -1]], [[0, 0.5], [-2, 0]], [[1, 0], [0, 1]]])
    assert torch.equal(found[:, :2, :2], expected)
    assert torch.equal(found[:, 2], torch.tensor([0.0, 0, 1]).expand(4, 3)) and (found[:, :2, 2] == 0).all()
    sixth = Turn().matrix(ia.AugmentParams(turn_angle=torch.tensor([30.0])), torch.ones(1))[0]
    assert torch.allclose(sixth[:2, :2], torch.tensor([[3**0.5 / 2, -0.5], [0.5, 3**0.5 / 2]]), atol=1e-6)


def test_a_disturbance_is_undone_by_the_turn_back():
    family = Turn(angles=(0.0, 60.0, 120.0, 180.0, 240.0, 300.0))
    angles = torch.tensor([0.0, 60.0, 350.0, 29.0, 31.0, 180.0])
    assert family.undoing({"turn_angle": angles}).tolist() == [0, 5, 0, 0, 5, 3]
    compose = family.compose_index()
    for a, b in ((1, 2), (5, 1), (3, 3), (4, 5)):
        assert compose[a, b] == (a + b) % 6
    drawn = family.disturb(torch.tensor([[0.0], [0.99]]))
    assert drawn["turn_angle"].tolist() == [0.0, 300.0] and drawn["turn"].tolist() == [0, 5]
    assert Turn(angles=(0.0, -15.0, 375.0)).angles == (0.0, 345.0, 15.0)


def test_an_angle_that_cannot_be_composed():
    """A hundredth of a degree beside another is another one."""
    assert Turn(angles=(0.0, 120.0, 240.01)).compose_index() is None
    assert Turn(angles=(0.0, 120.0, 240.0)).compose_index().tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]


def test_weights_of_other_angles_are_said(caplog):
    """Four angles are four whichever they are: such weights load, and turn images by what they never saw."""
    quarter, other = (ia.LearnedAugment([Turn(angles)]) for angles in ((0, 90, 180, 270), (0, 10, 20, 30)))
    likely = ia.LearnedAugment([Turn(initial_identity=0.5), "rotate"], predictor="patches")
    for state in (quarter.state_dict(), {k: v for k, v in other.state_dict().items() if "_extra" not in k}):
        quarter.load_state_dict(state)
    likely.load_state_dict(quarter.state_dict(), strict=False)
    assert not caplog.text
    other.load_state_dict(quarter.state_dict())
    message = "turn were learned with angles=[0.0, 90.0, 180.0, 270.0], and this transform has [0.0, 10.0, 20.0, 30.0]"
    assert message in caplog.text
    assert all(
        torch.equal(tensor, other.state_dict()[name])
        for name, tensor in quarter.state_dict().items()
        if "_extra" not in name
    )
    caplog.clear()
    ranges = [ia.LearnedAugment([Rotate((-side, side))]) for side in (30, 180)]
    ranges[1].load_state_dict(ranges[0].state_dict())
    assert "rotate were learned with bounds=[-30.0, 30.0], and this transform has [-180.0, 180.0]" in caplog.text
    caplog.clear()
    ranges[1].load_state_dict({k: v.float() / 3 for k, v in ranges[0].state_dict().items()})  # what says nothing
    assert not caplog.text
