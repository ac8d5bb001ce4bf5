import itertools

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.families import CandidateProduct, create
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.light import Light


def families():
    return create([Crop(scales=(1.0, 0.5), grids=(1, 2)), "turn", "light"])


def test_columns_are_every_combination_the_last_family_fastest():
    product = CandidateProduct(families())
    params = product.candidates()
    expected = list(itertools.product(range(5), range(4), range(15)))
    assert product.n_candidates == 300
    assert list(zip(params.anchor.tolist(), params.turn.tolist(), params.light.tolist(), strict=True)) == expected
    assert torch.equal(product.column(params), torch.arange(300))


def test_joint_probabilities_are_products_and_the_expected_loss_is_a_double_sum():
    aug = ia.LearnedAugment(["turn", "light"])
    parts = aug.distribution(torch.rand(3, 3, 32, 32)).parts
    log_p = CandidateProduct(aug.anchor_families).log_p(parts)
    losses, (turn, light) = torch.rand(3, 60), (part.categorical.probs for part in parts.values())
    double = sum(turn[:, a] * light[:, b] * losses[:, 15 * a + b] for a in range(4) for b in range(15))
    assert torch.allclose((log_p.exp() * losses).sum(1), double, atol=1e-6)


def test_too_many_columns_say_so():
    with pytest.raises(ia.InstaAugError, match=r"crop 5 × turn 4 × light 15 = 300 columns, more than 100"):
        CandidateProduct(families(), 100)
    with pytest.raises(ia.InstaAugError, match="at least one anchor family"):
        CandidateProduct([])


@pytest.mark.parametrize("k", [1, 7, 60, 61, 130])
def test_the_likeliest_combinations_are_those_of_an_enumeration(k):
    """Of 60; where more are asked for, they come again in the same order."""
    aug = ia.LearnedAugment(["turn", "light"])
    with torch.no_grad():
        for head in aug.predictor.heads.values():
            head.out.weight.normal_(0, 0.2)
            head.out.bias.normal_()
    distribution = aug.distribution(torch.rand(3, 3, 32, 32))
    turn, light = (part.categorical.probs.detach() for part in distribution.parts.values())
    top = distribution.top(k)
    for b in range(3):
        every = sorted(itertools.product(range(4), range(15)), key=lambda ab: -float(turn[b, ab[0]] * light[b, ab[1]]))
        expected = list(itertools.islice(itertools.cycle(every), k))
        assert list(zip(top.turn[:, b].tolist(), top.light[:, b].tolist(), strict=True)) == expected


def test_a_table_has_1024_columns_at_most_unless_asked_for():
    exact, more = (Light(*(tuple(k / 2 for k in range(size)) for size in (n, m))) for n, m in ((32, 32), (25, 41)))
    assert CandidateProduct([exact]).n_candidates == 1024
    with pytest.raises(ia.InstaAugError, match="1025 columns, more than 1024"):
        CandidateProduct([more])
    assert CandidateProduct([more], 1025).n_candidates == 1025


def test_priors_and_probabilities_of_combinations_are_products():
    first, second = Crop(scales=(1.0, 0.5), grids=(1, 2), initial_identity=0.6), Light((0.0, 1.0), (0.0,), 0.7)
    product = CandidateProduct([first, second])
    p, q = [0.6] + [0.1] * 4, [0.7, 0.3]
    assert torch.allclose(product.log_prior().exp(), torch.tensor([a * b for a in p for b in q]))
    assert product.sizes == (5, 2) and product.n_candidates == 10
    indices = product.unravel(torch.tensor([[0, 9], [3, 6]]))
    assert indices["anchor"].tolist() == [[0, 4], [1, 3]] and indices["light"].tolist() == [[0, 1], [1, 0]]
    taken = product.take(torch.tensor([9, 2]))
    assert taken["w"].tolist() == [0.5, 0.5] and taken["exposure"].tolist() == [1.0, 0.0]
    assert product.column(ia.AugmentParams(**taken)).tolist() == [9, 2]


def test_mirror_images_pair_the_candidates_of_one_family_alone():
    crop = Crop(scales=(1.0, 0.5), grids=(1, 2), flips=True)
    assert CandidateProduct([crop]).mirror_index().tolist() == [5, 7, 6, 9, 8, 0, 2, 1, 4, 3]
    assert CandidateProduct([crop, *create(["turn"])]).mirror_index() is None
    assert CandidateProduct(create(["turn"])).mirror_index() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["turn"],), "families: expected families with a table of candidates.* got 'turn'; families.create"),
        ((create(["rotate"]),), "families: .* got Rotate; .*ranges have no candidates"),
        ((create(["turn"]) * 2,), "families: expected at least one, each once"),
        ((create(["turn"]), "all"), "max_columns: expected a whole number ≥ 1, got 'all'"),
    ],
)
def test_what_makes_no_table_is_named(arguments, message):
    with pytest.raises(ia.InstaAugError, match=message):
        CandidateProduct(*arguments)


def test_columns_beyond_the_table_do_not_wrap_around():
    product = CandidateProduct(create(["turn"])[0])  # one by itself will do
    for column in (torch.tensor([0, 4]), torch.tensor([-1])):
        with pytest.raises(ia.InstaAugError, match="column: expected whole numbers from 0 to 3, got"):
            product.take(column)
