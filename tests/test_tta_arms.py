"""What learned views are compared with, by enumeration and in closed form."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.augment_distribution import AugmentDistribution
from instaaug_transforms.families import create
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.light import Light
from instaaug_transforms.tta import arms

from .conftest import make_lively


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def rows_of(params, *names):
    return [tuple(row) for row in torch.stack([params[name] for name in names], -1).tolist()]


SIDES = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6]


def test_centre_zooms_are_eight_sides_plain_and_mirrored():
    zooms = arms.zoom_candidates()
    expected = torch.tensor([(0.5, 0.5, side, side, flip) for flip in (0, 1) for side in SIDES])
    assert torch.equal(torch.stack([zooms[name] for name in ("cx", "cy", "w", "h", "flip")], 1), expected)


def test_a_union_has_every_view_and_the_identity_where_a_part_says_nothing():
    parts = [
        ia.AugmentParams(angle=torch.tensor([10.0, 20.0])),
        ia.AugmentParams(w=torch.tensor([0.5]), hue=torch.tensor([0.1])),
    ]
    made = arms.union(create(["crop", "rotate", "hsv"]), parts)
    assert {name: field.tolist() for name, field in made.items()} == {
        "w": [1.0, 1.0, 0.5],
        "angle": [10.0, 20.0, 0.0],
        "hue": pytest.approx([0.0, 0.0, 0.1]),
    }


def test_candidates_of_one_table_or_of_each_family_where_combinations_are_many():
    """Four turns and 64 lights are 256 combinations, with 65 too many."""
    turn = create(["turn"])
    few, many = (Light(exposures=tuple(k / 4 for k in range(n)), white_balances=(0.0,)) for n in (64, 65))
    (product,) = arms.own_candidates(ia.LearnedAugment([*turn, few]))
    assert product.batch_shape == (256,) and {"turn", "light"} <= set(product)
    alone = arms.own_candidates(ia.LearnedAugment([*turn, many]))
    assert [part.batch_shape[0] for part in alone] == [4, 65]
    assert arms.own_candidates(ia.LearnedAugment(["rotate"])) == []


def test_candidates_of_policies_are_zooms_own_ones_and_mirror_images_of_crops():
    crop = Crop(scales=(1.0, 0.5), grids=(1, 2))
    made = arms.policy_candidates(ia.LearnedAugment([crop]))
    boxes = [(x, y, 0.5) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    expected = [(0.5, 0.5, side, flip) for flip in (0.0, 1.0) for side in SIDES]
    expected += [(*box, 0.0) for box in boxes] + [(*box, 1.0) for box in boxes]
    assert np.allclose(rows_of(made, "cx", "cy", "w", "flip"), expected)
    both = arms.policy_candidates(ia.LearnedAugment([Crop(scales=(1.0, 0.5), grids=(1, 2), flips=True), "rotate"]))
    assert both.batch_shape == (16 + 9 + 8,)  # mirrored ones are among its own
    assert both.angle.tolist() == [0.0] * 25 + [-45.0, -30.0, -20.0, -10.0, 10.0, 20.0, 30.0, 45.0]
    turned = arms.policy_candidates(ia.LearnedAugment(["turn"]))
    assert turned.turn_angle.tolist() == [0.0] * 16 + [90.0, 180.0, 270.0] and (turned.w[16:] == 1).all()
    assert "angle" not in turned and arms.families_for(ia.LearnedAugment(["turn"]))[0].name == "turn"


def test_extras_come_after_the_views_without_the_image_itself():
    aug = ia.LearnedAugment(["turn"])
    made = arms.with_extras(aug, aug.families[0].candidates())
    assert made.turn_angle.tolist() == [0.0, 90.0, 180.0, 270.0] + [0.0] * 15
    assert made.w.tolist() == pytest.approx([1.0] * 4 + SIDES[1:] + SIDES)
    assert made.flip.tolist() == [0.0] * 11 + [1.0] * 8


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_a_greedy_policy_is_numpys(again, scale):
    """Step by step the view whose likelihood, added to the others', has the largest mean log; at least 1e−12, where a view is sure of wrong answers."""
    losses = scale * torch.rand(30, 7, generator=seeded(1))
    losses[3] += 200
    p, chosen = np.exp(-losses.double().numpy()), []
    for _ in range(5):
        total = p[:, chosen].sum(1, keepdims=True)
        score = np.log(np.maximum(total + p, 1e-12)).mean(0)
        if not again:
            score[chosen] = -np.inf
        chosen.append(int(score.argmax()))
    assert arms.greedy(losses, 5, **({} if again else {"again": False})) == chosen
    assert again or len(set(chosen)) == 5


def test_images_that_weigh_more_count_as_often():
    losses, times = torch.rand(30, 7, generator=seeded(1)), torch.arange(30) % 3 * 4 + 1
    chosen = arms.greedy(losses.repeat_interleave(times, 0), 4)
    assert arms.greedy(losses, 4, weights=times.float()) == chosen != arms.greedy(losses, 4)


def test_a_view_may_be_best_twice_in_a_policy_but_not_among_different_ones():
    losses = -torch.tensor([[0.9, 0.1, 0.2]] * 4).log()
    assert arms.greedy(losses, 3) == [0, 0, 0] and arms.greedy(losses, 3, again=False) == [0, 2, 1]


def test_fixed_views_are_the_same_for_all_images():
    views = ia.AugmentParams(angle=torch.tensor([0.0, 10.0, 20.0]))
    made = arms.fixed(views)(torch.rand(2, 3, 4, 4), None)
    assert made.angle.tolist() == [[0.0, 0.0], [10.0, 10.0], [20.0, 20.0]]


def test_random_views_are_the_image_itself_and_draws_from_a_quarter_of_every_range():
    aug = ia.LearnedAugment(["crop", "rotate", "hsv"])
    images = torch.rand(50, 3, 8, 8)
    made = arms.random_views(aug, 40)(images, seeded())
    assert made.batch_shape == (40, 50)
    assert (
        (made.w[0] == 1).all()
        and (made.angle[0] == 0).all()
        and (made.flip[0] == 0).all()
        and (made.value[0] == 1).all()
    )
    for name, (low, high) in {"angle": (-45, 45), "hue": (-0.125, 0.125), "saturation": (0.75, 1.25)}.items():
        drawn = made[name][1:]
        assert low <= drawn.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < drawn.max() <= high
    assert 0.45 < made.flip[1:].mean() < 0.55 and made.flip.unique().tolist() == [0.0, 1.0]
    assert made.anchor[1:].unique().numel() == 30
    again = arms.random_views(aug, 40)(images, seeded())
    assert all(torch.equal(made[name], again[name]) for name in made)


def test_autoaugments_views_are_torchvisions_and_leave_the_global_generator_alone():
    images = torch.rand(3, 3, 16, 16)
    before = torch.get_rng_state()
    made = arms.auto_augment(4)(images, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(int(torch.randint(2**31, (), generator=seeded())))
    pixels, policy = (images * 255).round().to(torch.uint8), v2.AutoAugment()
    expected = [[policy(image) for image in pixels] for _ in range(3)]
    assert made.shape == (3, 3, 3, 16, 16)
    assert torch.allclose(made, torch.stack([torch.stack(row) for row in expected]).float() / 255)


@pytest.mark.parametrize("select", ["top", "stratified"])
@pytest.mark.parametrize("identity", [True, False])
def test_our_views_are_those_of_the_narrowed_distribution(select, identity):
    """Shuffled, those of the image before in the batch."""
    aug, images = make_lively(["rotate"]), torch.rand(4, 3, 32, 32)
    distribution = aug.distribution(images)
    expected = distribution.narrowed(0.5).select(3, select, seeded()).angle.detach()
    if identity:
        expected = torch.cat([torch.zeros(1, 4), expected[:2]])
    options = {"select": select, "range_fraction": 0.5, "include_identity": identity}
    ours, shuffled = (arms.learned(aug, 3, shuffled=s, **options)(images, seeded()) for s in (False, True))
    assert torch.allclose(ours.angle, expected, atol=1e-3) and not ours.angle.requires_grad
    assert torch.allclose(shuffled.angle, expected[:, [3, 0, 1, 2]], atol=1e-3)
    seen = []

    def predict(given):
        seen.append(given)
        return AugmentDistribution(aug.families, {"rotate": torch.zeros(4, 2)})

    made = arms.learned(aug, 2, predict=predict)(images, seeded())
    assert seen[0] is images and torch.equal(made.angle[0], torch.zeros(4))


def test_the_most_confident_view_has_the_highest_probability():
    """Not the largest logit."""
    logits = torch.tensor([[[9.0, 8.9, 0.0], [0.0, 1.0, 0.0]], [[3.0, 0.0, 0.0], [5.0, 5.0, 4.0]]])
    assert arms.most_confident(logits).tolist() == [[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
