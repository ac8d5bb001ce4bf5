import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

import instaaug_transforms as ia
from instaaug_transforms.augment_distribution import AugmentDistribution
from instaaug_transforms.distributions import AnchorCategorical, BoundedUniform

from .conftest import make_lively

P = torch.tensor([[0.5, 0.2, 0.2, 0.05, 0.05], [0.02, 0.08, 0.3, 0.3, 0.3]])


def test_anchor_samples_follow_p():
    """Gumbel noise of the wrong sign and one logarithm short samples from another law."""
    d = AnchorCategorical(P.log())
    draws = d.sample((20_000,), torch.Generator().manual_seed(3))
    for b in range(2):
        observed = torch.bincount(draws[:, b], minlength=5)
        assert stats.chisquare(observed, 20_000 * P[b]).pvalue > 0.001


def test_the_chi_square_test_can_fail():
    wrong = (P.log() - torch.log(torch.rand(20_000, 2, 5))).argmax(-1)  # the original's noise
    assert stats.chisquare(torch.bincount(wrong[:, 0], minlength=5), 20_000 * P[0]).pvalue < 1e-6


def test_anchor_log_prob_and_entropy_match_torch():
    d, oracle = AnchorCategorical(P.log() + 3), torch.distributions.Categorical(probs=P)
    value = torch.randint(5, (7, 2))
    assert torch.allclose(d.log_prob(value), oracle.log_prob(value), atol=1e-6)
    assert torch.allclose(d.entropy(), oracle.entropy(), atol=1e-6)


def test_anchor_icdf_covers_the_ends():
    d = AnchorCategorical(P.log())
    assert d.icdf(torch.zeros(2)).tolist() == [0, 0]
    assert d.icdf(torch.full((2,), math.nextafter(1.0, 0.0))).tolist() == [4, 4]
    assert d.icdf(torch.ones(2)).tolist() == [4, 4]  # what a number a hair below 1 may be rounded to
    assert d.icdf(torch.ones(3, 2)).tolist() == [[4, 4]] * 3


def test_a_number_on_the_border_of_two_anchors_is_of_the_second():
    """[0, ¼) is of the first, [¼, ½) of the second: one number or several an image, a border is not drawn twice."""
    d = AnchorCategorical(torch.tensor([0.25, 0.25, 0.5]).log()[None])
    borders = torch.tensor([[0.0], [0.25], [0.5]])
    assert d.icdf(borders).tolist() == [[0], [1], [2]]
    assert [d.icdf(border).item() for border in borders] == [0, 1, 2]


def test_anchor_of_no_probability_is_never_drawn():
    d = AnchorCategorical(torch.tensor([[-math.inf, 0.0, -math.inf]]))
    assert d.sample((1000,)).unique().tolist() == [1]


def test_one_number_for_one_image_is_looked_up_as_numpy_would():
    """Without tensors, so it has ends, borders and certainties of its own."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 30, 321):
        scores = rng.normal(0, 3, n)
        scores[rng.random(n) < 0.2] = -math.inf
        scores[rng.integers(n)] = 2.0
        cdf = np.cumsum(np.exp(scores - scores.max()))
        likely = np.flatnonzero(np.isfinite(scores))
        one = AnchorCategorical(torch.tensor(scores, dtype=torch.float32)[None])
        for u in (0.0, 1 - 2**-24, *rng.random(20)):
            index = one.icdf(torch.tensor([u], dtype=torch.float32))
            assert index.dtype == torch.long and index.shape == (1,)
            expected = likely[-1] if u > 0.99999 else np.searchsorted(cdf / cdf[-1], np.float32(u), side="right")
            assert index.item() == expected
    ruled_in = AnchorCategorical(torch.tensor([[1.0, -math.inf, math.inf, math.inf]]))
    assert [ruled_in.icdf(torch.tensor([u])).item() for u in (0.0, 0.4, 0.6)] == [2, 2, 3]
    assert ruled_in.icdf(torch.tensor([[[0.6]]])[0]).shape == (1, 1)
    unknown = AnchorCategorical(torch.full((1, 4), math.nan), validate_args=False).icdf(torch.tensor([0.5]))
    assert 0 <= unknown.item() < 4


def test_top_is_likeliest_first_and_repeats():
    d = AnchorCategorical(P.log())
    assert d.top(2)[:, 1].tolist()[0] in (2, 3, 4) and d.top(1)[0, 0] == 0
    assert d.top(7).shape == (7, 2) and torch.equal(d.top(7)[5:], d.top(2))
    assert torch.equal(d.mode, d.top(1)[0])


def test_uniform_samples_follow_their_range():
    u = BoundedUniform(torch.tensor([-30.0, 10.0]), torch.tensor([50.0, 12.0]), (-180, 180))
    draws = u.rsample((5000,), torch.Generator().manual_seed(5))
    for b, (lo, width) in enumerate([(-30, 80), (10, 2)]):
        assert stats.kstest(draws[:, b], stats.uniform(lo, width).cdf).pvalue > 0.001


def test_uniform_density_integrates_to_one_and_gives_its_entropy():
    u = BoundedUniform(torch.tensor([-30.0]), torch.tensor([50.0]), (-180, 180))
    grid = torch.linspace(-180, 180, 360_001)[:, None]
    log_p = u.log_prob(grid)
    p = log_p.exp()
    assert p.mean().item() == pytest.approx(1, abs=1e-3)  # relative to the uniform measure on the bounds
    entropy = -torch.where(p > 0, p * log_p, 0.0).mean().item()
    assert entropy == pytest.approx(u.entropy().item(), abs=1e-3)
    assert u.entropy().item() == pytest.approx(math.log(80 / 360), abs=1e-6)


def test_uniform_gradients_match_finite_differences():
    lo = torch.tensor([-1.0, 0.2], dtype=torch.float64, requires_grad=True)
    hi = torch.tensor([0.5, 0.9], dtype=torch.float64, requires_grad=True)
    noise = torch.rand(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: BoundedUniform(a, b, (-1, 1)).icdf(noise), (lo, hi))
    assert torch.autograd.gradcheck(lambda a, b: BoundedUniform(a, b, (-1, 1)).entropy(), (lo, hi))


def test_what_is_declared():
    """Supports and what samples carry, as callers of any `torch.distributions` ask for them."""
    d, u = AnchorCategorical(P.log()), BoundedUniform(torch.tensor([-30.0]), torch.tensor([50.0]), (-180, 180))
    assert d.support.check(torch.tensor([-1, 0, 4, 5])).tolist() == [False, True, True, False]
    assert u.support.check(torch.tensor([-31.0, -30.0, 50.0, 51.0])).tolist() == [False, True, True, False]
    assert (d.has_rsample, d.has_enumerate_support, u.has_rsample) == (False, True, True)
    assert (d.batch_shape, d.n_candidates, u.batch_shape) == ((2,), 5, (1,))
    assert u.log_prob(torch.tensor([[49.0], [-29.0], [51.0]])).exp().flatten().tolist() == pytest.approx([4.5, 4.5, 0])


@pytest.mark.parametrize("lead", [(), (7,), (4, 5), (0,)])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (0,)])
def test_each_number_is_looked_up_in_its_own_images_table(lead, batch):
    """As NumPy's `searchsorted` does, one by one."""
    logits = torch.randn(*batch, 6, dtype=torch.float64)
    u = torch.rand((*lead, *batch))
    found = AnchorCategorical(logits, validate_args=False).icdf(u)  # torch cannot check what has no images
    assert found.shape == u.shape and found.dtype == torch.int64
    cdf = np.cumsum(logits.softmax(-1).numpy(), -1)
    for place in np.ndindex(*u.shape):
        assert found[place] == np.searchsorted(cdf[place[len(lead) :]], u[place].item(), side="right")


def test_draws_are_uniform_numbers_looked_up():
    d = AnchorCategorical(P.log())
    drawn = d.sample((9,), torch.Generator().manual_seed(4))
    assert torch.equal(drawn, d.icdf(torch.rand(9, 2, generator=torch.Generator().manual_seed(4))))
    torch.manual_seed(4)
    assert torch.equal(d.sample((9,)), drawn) and d.sample().shape == (2,)
    u = BoundedUniform(torch.tensor([-30.0, 10.0]), torch.tensor([50.0, 12.0]), (-180, 180))
    drawn = u.rsample((9,), torch.Generator().manual_seed(4))
    noise = torch.rand(9, 2, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(drawn, torch.tensor([-30.0, 10.0]) + torch.tensor([80.0, 2.0]) * noise)
    assert u.rsample().shape == (2,)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_the_likeliest_of_tables_of_any_shape_are_sorted_and_repeat(k):
    logits = torch.randn(2, 4, 3)
    order = np.argsort(-logits.numpy(), -1)
    expected = np.stack([order[..., i % 3] for i in range(k)])
    assert np.array_equal(AnchorCategorical(logits).top(k), expected)
    assert np.array_equal(AnchorCategorical(logits[0, 0]).top(k), expected[:, 0, 0])


def test_a_number_may_lie_a_rounding_outside_its_range():
    """A hundred-thousandth of the bounds; further out its density is 0."""
    u = BoundedUniform(torch.tensor([-30.0]), torch.tensor([50.0]), (-180, 180))
    inside, outside = u.log_prob(torch.tensor([[-30.003], [50.003]])), u.log_prob(torch.tensor([[-30.005], [50.005]]))
    assert torch.allclose(inside, torch.tensor(math.log(360 / 80))) and (outside == -math.inf).all()


def test_what_is_ruled_out_and_what_is_certain_have_finite_entropies():
    d = AnchorCategorical(torch.tensor([[0.0, -math.inf, 0.0], [math.inf, 0.0, 0.0]]))
    assert d.entropy().tolist() == pytest.approx([math.log(2), 0.0])
    assert d.probs.tolist() == [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]


class Part:
    """What an `AugmentDistribution` needs of a family and of its distribution."""

    has_rsample = True

    def __init__(self, name, n):
        self.name, self.n_uniforms = name, n

    def distribution(self, raw):
        return self

    def from_uniform(self, uniform):
        return {f"{self.name}{i}": uniform[..., i] for i in range(self.n_uniforms)}


def test_every_family_takes_its_own_numbers_and_strata_are_latin():
    """Of n views, each number of each image lies once in every n-th part; where in it is chance, and in what order."""
    d = AugmentDistribution([Part("a", 2), Part("b", 1)], {"a": torch.zeros(5, 1), "b": torch.zeros(5, 1)})
    assert (d.n_uniforms, d.batch_shape, d.has_rsample) == (3, (5,), True)
    drawn = d.sample((4,), torch.Generator().manual_seed(1))
    noise = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(drawn[name], noise[..., i]) for i, name in enumerate(("a0", "a1", "b0")))
    spread = d.stratified(50, torch.Generator().manual_seed(1))
    fields = torch.stack([*spread.values()])  # (3, 50, 5)
    assert torch.equal((fields * 50).floor().long().sort(1).values, torch.arange(50)[None, :, None].expand(3, -1, 5))
    assert len({tuple(order) for order in fields.argsort(1).permute(0, 2, 1).reshape(15, 50).tolist()}) == 15
    assert stats.kstest((fields * 50 % 1).flatten(), "uniform").pvalue > 1e-3
    assert torch.equal(fields, torch.stack([*d.stratified(50, torch.Generator().manual_seed(1)).values()]))
    assert (fields < 1).all() and d.stratified(1)["a0"].shape == (1, 5)
    d.rand = lambda shape, _: torch.full(
        tuple(shape), 1 - 2**-24
    )  # the largest that are drawn: in fp32, 9 and that are 10
    assert all((field < 1).all() for field in d.stratified(10).values())


def test_samples_know_how_many_they_are():
    params = ia.AugmentParams(angle=torch.zeros(3, 6))
    sample = ia.AugmentSample(params, None, torch.zeros(6, 3, 2, 2))
    assert (sample.n, sample.batch_size, sample.enumerated) == (3, 6, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.enumerated = True


@pytest.mark.parametrize("names", [["turn"], ["turn", "light"], ["turn", "rotate"]])
def test_offsets_move_candidates_before_the_likeliest_are_taken(names):
    """Of all combinations, the last family's candidates fastest; ranges are spread as without offsets."""
    aug = ia.LearnedAugment(names)
    for head in aug.predictor.heads.values():
        torch.nn.init.normal_(head.out.weight, std=0.3)
    with torch.no_grad():
        d = aug.distribution(torch.rand(3, 3, 16, 16))
        tables = [part.categorical.probs for name, part in d.parts.items() if name in ("turn", "light")]
    joint = tables[0] if len(tables) == 1 else (tables[0][:, :, None] * tables[1][:, None]).flatten(1)
    offsets = 3 * torch.randn(joint.shape[1])
    expected = (joint.log() + offsets).argsort(1, descending=True)[:, :4].T
    top = d.select(4, "top", offsets=offsets)
    n = tables[-1].shape[1] if len(tables) > 1 else 1
    assert torch.equal(top.turn, expected // n)
    if "light" in names:
        assert torch.equal(top.light, expected % n)
    if "rotate" in names:
        assert torch.equal(top.angle, d.top(4).angle)


def test_views_are_at_least_one_and_chosen_in_one_of_three_ways():
    d = ia.LearnedAugment(["turn"]).distribution(torch.rand(2, 3, 16, 16))
    for n in (0, -3, 2.0, "2", None):
        with pytest.raises(ia.InstaAugError, match="n: expected a whole number ≥ 1"):
            d.select(n, "top")
        with pytest.raises(ia.InstaAugError, match="k: expected a whole number ≥ 1"):
            d.top(n)
        with pytest.raises(ia.InstaAugError, match="n: expected a whole number ≥ 1"):
            d.stratified(n)
    for fraction in (0, 2, "x"):
        with pytest.raises(ia.InstaAugError, match=r"fraction: expected a number in \(0, 1\]"):
            d.narrowed(fraction)
    for how in ("", "best", None):
        with pytest.raises(ia.InstaAugError, match="select: expected one of sample, top, stratified"):
            d.select(2, how)
    assert (
        d.select(1, "top").batch_shape
        == d.select(1, "sample").batch_shape
        == d.select(1, "stratified").batch_shape
        == (1, 2)
    )


@pytest.mark.parametrize("seed", [0, 7, "cpu"])
def test_a_seed_is_no_generator(seed):
    aug, images = ia.LearnedAugment(["turn"]), torch.rand(2, 3, 16, 16)
    for call in (aug, lambda images, generator: aug.views(images, 2, generator=generator)):
        with pytest.raises(ia.InstaAugError, match="generator: expected a torch.Generator.*manual_seed"):
            call(images, generator=seed)


def test_a_distribution_shows_what_it_is_over():
    d = ia.LearnedAugment(["turn", "rotate"]).distribution(torch.rand(2, 3, 16, 16))
    assert repr(d) == "AugmentDistribution(turn: 4 candidates, rotate: range; batch_shape=(2,))"


def test_what_is_said_of_all_families_together():
    aug = ia.LearnedAugment(["turn", "rotate"])
    d = aug.distribution(torch.rand(2, 3, 16, 16))
    params = d.sample((5,))
    turn, rotate = d.parts["turn"], d.parts["rotate"]
    assert d.has_rsample is False and aug.distribution(torch.rand(2, 3, 16, 16)).parts["rotate"].has_rsample
    assert torch.allclose(d.log_prob(params), turn.log_prob(params) + rotate.log_prob(params))
    assert torch.allclose(d.entropy(), turn.entropy() + rotate.entropy()) and set(d.entropies()) == {"turn", "rotate"}
    identity = d.identity()
    assert all(identity[name].tolist() == [0, 0] for name in ("turn", "turn_angle", "angle"))
    narrow = d.narrowed(0.5)
    assert torch.allclose(narrow.entropies()["rotate"], rotate.entropy() - math.log(2), atol=1e-5)
    assert torch.equal(narrow.entropies()["turn"], turn.entropy()) and d.parts["rotate"] is rotate


@pytest.mark.parametrize(
    ("names", "place"), [(["rotate", "light"], 0), (["turn", "rotate"], 2), (["turn", "rotate", "light"], 5)]
)
def test_quantiles_are_in_the_order_of_their_place_among_the_fields(names, place):
    """After those of the families before, or after all of the candidates where these are ranked together."""
    d = ia.LearnedAugment(names).distribution(torch.rand(2, 3, 16, 16))
    angle = d.parts["rotate"].top(6, place)["angle"]
    assert torch.equal(d.top(6).angle, angle)
    assert not torch.equal(d.parts["rotate"].top(6, place + 1)["angle"], angle)


def test_a_density_needs_a_field_of_every_family():
    aug = make_lively(["crop", "rotate"]).requires_grad_(False)
    distribution = aug.distribution(torch.rand(2, 3, 16, 16))
    alone = ia.AugmentParams(angle=torch.zeros(2))
    with pytest.raises(
        ia.InstaAugError, match="params: no field of crop, got angle; give one of cx, cy, w, h, flip, anchor"
    ):
        distribution.log_prob(alone)
    whole = alone.replace(anchor=torch.zeros(2, dtype=torch.long))
    parts = distribution.parts
    expected = parts["crop"].categorical.log_prob(torch.zeros(2)) + parts["rotate"].log_prob(alone)
    assert torch.allclose(distribution.log_prob(whole), expected)


@pytest.mark.parametrize("shape", [3, 3.0, None])
def test_a_number_is_no_shape_of_samples(shape):
    distribution = ia.LearnedAugment(["crop", "rotate"]).distribution(torch.rand(2, 3, 16, 16))
    for draw in (distribution.sample, distribution.rsample):
        with pytest.raises(ia.InstaAugError, match=rf"sample_shape: expected a shape, \(3,\) say .*got {shape}"):
            draw(shape)
        assert draw([3]).batch_shape == draw((3,)).batch_shape == (3, 2) and draw().batch_shape == (2,)
