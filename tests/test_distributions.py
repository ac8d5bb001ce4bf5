import math

import pytest
import torch
from scipy import stats

from instaaug_transforms.distributions import AnchorCategorical, BoundedUniform

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
