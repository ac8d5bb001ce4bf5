"""Unbiasedness and variance of the gradient estimators, by enumerating everything that can be drawn."""

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning import estimators

ANCHORS, VIEWS = 5, 2


@pytest.fixture
def planted():
    """Logits (1, A), a loss per anchor around a level of 3, as an image that is hard as a whole has, and a rough critic."""
    generator = torch.Generator().manual_seed(3)
    losses = 3 + torch.randn(ANCHORS, generator=generator, dtype=torch.float64)
    critic = losses + 0.3 * torch.randn(ANCHORS, generator=generator, dtype=torch.float64)
    return torch.randn(1, ANCHORS, generator=generator, dtype=torch.float64).requires_grad_(), losses, critic[None]


def terms(name, losses, index, log_p, predicted):
    drawn = losses[index]  # (n, 1)
    log_prob = log_p.gather(1, index.T).T
    if name == "no baseline":
        return estimators.reinforce(drawn, log_prob, 0.0)
    if name == "reinforce":
        return estimators.reinforce(drawn, log_prob, 2.0)  # an average over other, easier images
    if name == "rloo":
        return estimators.rloo(drawn, log_prob)
    return estimators.critic(drawn, log_prob, index, log_p, predicted)


def moments(name, planted):
    """Mean (A,) and total variance of the gradient over all A² pairs of views."""
    logits, losses, predicted = planted
    pairs = torch.cartesian_prod(*[torch.arange(ANCHORS)] * VIEWS)
    p = logits.detach().softmax(-1)[0]
    grads, weights = [], []
    for pair in pairs:
        term = terms(name, losses, pair[:, None], logits.log_softmax(-1), predicted)
        grads.append(torch.autograd.grad(term.sum(), logits)[0][0])
        weights.append(p[pair].prod())
    grads, weights = torch.stack(grads), torch.stack(weights)[:, None]
    mean = (weights * grads).sum(0)
    return mean, (weights * (grads - mean).square()).sum().item()


def exact_gradient(planted):
    logits, losses, _ = planted
    p = logits.detach().softmax(-1)[0]
    return p * (losses - (p * losses).sum())  # closed form of the softmax's gradient


@pytest.mark.parametrize("name", ["no baseline", "reinforce", "rloo", "critic"])
def test_every_estimator_is_unbiased(name, planted):
    assert torch.allclose(moments(name, planted)[0], exact_gradient(planted), atol=1e-12)


def test_variances_are_in_the_order_that_baselines_promise(planted):
    variance = {name: moments(name, planted)[1] for name in ("no baseline", "reinforce", "rloo", "critic")}
    assert variance["critic"] < variance["rloo"] / 4
    assert variance["rloo"] < variance["reinforce"] < variance["no baseline"]


def test_a_critic_that_is_right_leaves_no_variance(planted):
    logits, losses, _ = planted
    assert moments("critic", (logits, losses, losses[None]))[1] < 1e-20


def test_exact_is_the_expectation(planted):
    logits, losses, _ = planted
    value = estimators.exact(losses[:, None], logits.log_softmax(-1))
    (grad,) = torch.autograd.grad(value.sum(), logits)
    assert torch.allclose(grad[0], exact_gradient(planted), atol=1e-12)


def test_leave_one_out_over_the_batch_where_there_is_one_view():
    """Two images, one view each: enumerated, the other image's loss as baseline leaves the gradient unbiased."""
    logits = torch.tensor([[0.3, -1.0], [0.5, 0.9]], dtype=torch.float64, requires_grad=True)
    losses = torch.tensor([[1.0, 4.0], [2.0, 0.5]], dtype=torch.float64)
    p, expected = logits.detach().softmax(-1), 0.0
    for a in range(2):
        for b in range(2):
            index = torch.tensor([[a, b]])
            drawn = losses.gather(1, index.T).T
            term = estimators.rloo(drawn, logits.log_softmax(-1).gather(1, index.T).T)
            expected = expected + p[0, a] * p[1, b] * torch.autograd.grad(term.sum(), logits)[0]
    assert torch.allclose(expected, p * (losses - (p * losses).sum(1, keepdim=True)), atol=1e-12)


def test_the_baseline_of_a_view_is_the_mean_loss_of_the_others():
    """Of the same image's other views; of one view an image, of the other images'. The score's gradient says which it was."""
    losses = torch.tensor([[1.0, 4.0, 2.5, 7.0], [3.0, 0.5, 6.0, 2.0], [8.0, 1.5, 0.25, 5.0]])
    for drawn in (losses, losses[:1]):
        log_prob = torch.zeros_like(drawn, requires_grad=True)
        (gradient,) = torch.autograd.grad(estimators.rloo(drawn, log_prob).sum(), log_prob)
        n, batch = drawn.shape
        for k in range(n):
            for b in range(batch):
                others = (
                    [drawn[j, b] for j in range(n) if j != k]
                    if n > 1
                    else [drawn[0, c] for c in range(batch) if c != b]
                )
                expected = (drawn[k, b] - sum(others) / len(others)) / n
                assert gradient[k, b] == pytest.approx(expected.item(), abs=1e-6)


def test_a_single_view_of_a_single_image_has_no_baseline():
    log_prob = torch.zeros(1, 1, requires_grad=True)
    estimators.rloo(torch.tensor([[2.0]]), log_prob).sum().backward()
    assert log_prob.grad.item() == 2.0


@pytest.mark.parametrize("estimator", ["rloo", "reinforce", "critic"])
def test_the_objective_agrees_with_the_exact_one_on_average(estimator):
    """The whole path, sampling included: the mean of 150 gradients lies within the noise of their mean."""
    torch.manual_seed(0)
    aug = ia.LearnedAugment(
        [Crop(scales=(1.0, 0.5), grids=(1, 2), initial_identity=0.4)], predictor=ia.ConvPredictor(image_size=16)
    )
    images, table = torch.rand(2, 3, 16, 16), torch.rand(2, 5) * 2
    bias = aug.predictor.heads["crop"].bias

    def gradient(objective, n):
        distribution = aug.distribution(images)
        sample = (
            aug.sample(images, n)[1]
            if n == "all"
            else ia.AugmentSample(distribution.sample((n,)), distribution, images)
        )
        losses = table.gather(1, sample.params.anchor.T).T
        return torch.autograd.grad(objective(losses.flatten(), sample), bias, allow_unused=False)[0][0]

    exact = gradient(ia.InstaAugObjective(aug, estimator="exact").eval(), "all")
    objective = ia.InstaAugObjective(aug, estimator=estimator).eval()
    drawn = torch.stack([gradient(objective, 4) for _ in range(150)])
    error = drawn.std(0) / 150**0.5
    assert ((drawn.mean(0) - exact).abs() < 4 * error + 1e-6).all()


def test_means_and_counts_of_all_processes_take_the_place_of_the_batchs():
    """One view an image, two of five images here: the others' losses are those of all five."""
    every = torch.tensor([1.0, 4.0, 2.5, 7.0, 3.0])
    here = every[None, :2]
    expected = [(every.sum() - every[k]) / 4 for k in range(2)]
    assert torch.allclose(estimators.leave_one_out(here, every.mean(), 5)[0], torch.stack(expected))
    log_prob = torch.randn(1, 2)
    by_hand = (here - torch.stack(expected)) * log_prob
    assert torch.allclose(estimators.rloo(here, log_prob, every.mean(), 5), by_hand[0])
    assert torch.equal(estimators.leave_one_out(here[:, :1], torch.tensor(9.0), 1), torch.zeros(1, 1))
    several = torch.rand(3, 2)  # views of an image are each other's, whatever is known of other processes
    assert torch.equal(estimators.leave_one_out(several, torch.tensor(9.0), 7), estimators.leave_one_out(several))


def test_values_are_what_their_sums_say():
    """Three views of two images, four candidates: explicit loops."""
    losses, log_prob, index = torch.rand(3, 2), torch.randn(3, 2), torch.tensor([[0, 3], [2, 2], [2, 1]])
    log_p, predicted = torch.randn(2, 4).log_softmax(1), torch.rand(2, 4).requires_grad_()
    table = torch.rand(4, 2)
    for b in range(2):
        reinforce = sum((losses[k, b] - 0.25) * log_prob[k, b] for k in range(3)) / 3
        assert torch.allclose(estimators.reinforce(losses, log_prob, 0.25)[b], reinforce)
        all_of = sum(log_p[b, a].exp() * predicted[b, a] for a in range(4))
        rest = sum((losses[k, b] - predicted[b, index[k, b]]) * log_prob[k, b] for k in range(3)) / 3
        critic = estimators.critic(losses, log_prob, index, log_p, predicted)
        assert torch.allclose(critic[b], all_of + rest) and not critic.requires_grad
        exact = sum(log_p[b, a].exp() * table[a, b] for a in range(4))
        assert torch.allclose(estimators.exact(table, log_p)[b], exact)


def test_only_the_gradient_is_left():
    x = torch.tensor([1.5, -2.0], requires_grad=True)
    value = estimators.only_gradient(x**2)
    assert value.tolist() == [0.0, 0.0]
    assert torch.autograd.grad(value.sum(), x)[0].tolist() == [3.0, -4.0]
