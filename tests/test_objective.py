"""`InstaAugObjective` and `LearnedAugment.sample` in training loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

import instaaug_transforms as ia
from instaaug_transforms.learning.entropy import EntropyConfig


def small_model() -> nn.Sequential:
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3)
    )


@pytest.fixture
def batch():
    return torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 1])


def make(families=("crop", "rotate"), seed=0, **kwargs):
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(families, predictor=ia.ConvPredictor(image_size=16))
    return aug, ia.InstaAugObjective(aug, **kwargs), small_model()


def step(aug, objective, model, batch, n=2, **kwargs):
    images, y = batch
    views, sample = aug.sample(images, n, **kwargs)
    per_view = F.cross_entropy(model(views), y.repeat(sample.n), reduction="none")
    return objective(per_view, sample)


def grads(*modules):
    return [p.grad.clone() for module in modules for p in module.parameters()]


def test_views_are_view_major_and_those_of_the_parameters(batch):
    aug, _, _ = make()
    views, sample = aug.sample(batch[0], 3)
    assert views.shape == (12, 3, 16, 16) and (sample.n, sample.batch_size) == (3, 4)
    assert torch.allclose(views[4:8], aug(batch[0], params=sample.params.index(1)), atol=1e-6)


def test_one_backward_teaches_model_and_predictor(batch):
    aug, objective, model = make()
    step(aug, objective, model, batch).backward()
    assert all(g.abs().sum() > 0 for g in grads(model, aug.predictor.heads))


def test_the_model_learns_as_from_a_plain_mean_and_the_value_is_loss_minus_entropy(batch):
    aug, objective, model = make()
    views, sample = aug.sample(batch[0], 2)
    per_view = F.cross_entropy(model(views), batch[1].repeat(2), reduction="none")
    plain = torch.autograd.grad(per_view.mean(), list(model.parameters()), retain_graph=True)
    weight, entropies = objective.weights, sample.distribution.entropies()
    value = objective(per_view, sample)
    ours = torch.autograd.grad(value, list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(plain, ours, strict=True))
    expected = per_view.mean() - sum(weight[name] * h.mean() for name, h in entropies.items())
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)


def test_uniform_ranges_learn_pathwise(batch):
    """With λ at nothing, φ's gradient is that of the mean loss through the views."""
    aug, objective, model = make(["rotate", "hsv"], entropy=ia.EntropyConfig(initial_weight=1e-12))
    views, sample = aug.sample(batch[0], 2)
    per_view = F.cross_entropy(model(views), batch[1].repeat(2), reduction="none")
    parameters = list(aug.predictor.parameters())
    plain = torch.autograd.grad(per_view.mean(), parameters, retain_graph=True)
    ours = torch.autograd.grad(objective(per_view, sample), parameters)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, ours, strict=True))


def test_credit_is_what_anchors_learn_from_and_the_model_does_not(batch):
    """Each view answers for its pair's losses: the score function's closed form, and the model's gradient as before."""
    aug, objective, model = make(["crop"], entropy=ia.EntropyConfig(initial_weight=1e-12), estimator="reinforce")
    views, sample = aug.sample(batch[0], 2)
    per_view = F.cross_entropy(model(views), batch[1].repeat(2), reduction="none")
    pair = per_view + per_view.roll(4)  # the image's other view
    bias = aug.predictor.heads["crop"].bias
    log_prob = sample.distribution.log_prob(sample.params).flatten()
    expected = torch.autograd.grad(((pair - pair.mean()).detach() * log_prob).mean(), bias, retain_graph=True)[0]
    plain = torch.autograd.grad(per_view.mean(), list(model.parameters()), retain_graph=True)
    ours = torch.autograd.grad(objective(per_view, sample, credit=pair), [bias, *model.parameters()])
    assert torch.allclose(ours[0], expected, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(plain, ours[1:], strict=True))


def test_same_seed_same_bits(batch):
    results = []
    for _ in range(2):
        aug, objective, model = make()
        step(aug, objective, model, batch, generator=torch.Generator().manual_seed(5)).backward()
        results.append(grads(aug, model))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_regression_and_any_other_per_view_loss(batch):
    aug, objective, _ = make()
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    views, sample = aug.sample(batch[0])
    objective(F.mse_loss(model(views)[:, 0], torch.rand(4), reduction="none"), sample).backward()
    assert all(g.isfinite().all() for g in grads(aug, model))


def test_gradient_accumulation_adds_up(batch):
    """Two half batches are one batch, where the estimator looks at one image at a time; to λ, too, however fast it moves."""
    whole, halves = (make(entropy=ia.EntropyConfig(rate=1.0)) for _ in range(2))
    noise = torch.rand(2, 4, 2)
    for (aug, objective, model), parts in ((whole, [slice(0, 4)]), (halves, [slice(0, 2), slice(2, 4)])):
        for part in parts:
            images, y = batch[0][part], batch[1][part]
            _, sample = fixed_sample(aug, images, noise[:, part])
            views = aug.apply(images.repeat(2, 1, 1, 1), sample.params.flatten())
            per_view = F.cross_entropy(model(views), y.repeat(2), reduction="none")
            (objective(per_view, sample) / len(parts)).backward()
    for a, b in zip(grads(whole[0], whole[2]), grads(halves[0], halves[2]), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    states = [objective.get_extra_state()[:, :5] for _, objective, _ in (whole, halves)]  # of the controller alone
    assert torch.allclose(*states, atol=1e-6)


def fixed_sample(aug, images, noise):
    distribution = aug.distribution(images)
    sample = ia.AugmentSample(distribution.from_uniform(noise), distribution, images)
    return None, sample


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_gradscaler(batch, dtype):
    aug, objective, model = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.1)
    before = [p.detach().clone() for p in aug.parameters()]
    with torch.autocast("cpu", dtype):
        loss = step(aug, objective, model, batch)
    assert loss.dtype == torch.float32
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    after = list(aug.parameters())
    assert all(p.isfinite().all() for p in after) and any(
        not torch.equal(a, b) for a, b in zip(before, after, strict=True)
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo asks every input for it
def test_compiled_model_gives_the_same_gradients(batch):
    results = []
    for compiled in (False, True):
        aug, objective, model = make()
        torch.manual_seed(1)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        step(aug, objective, run, batch).backward()
        results.append(grads(aug, model))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_model_gives_the_same_gradients(batch, reentrant):
    results = []
    for checkpointed in (False, True):
        aug, objective, model = make()
        torch.manual_seed(1)

        def run(x, model=model, checkpointed=checkpointed):
            return checkpoint_sequential(model, 2, x, use_reentrant=reentrant) if checkpointed else model(x)

        step(aug, objective, run, batch).backward()
        results.append(grads(aug, model))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_entropy_goes_into_its_band():
    """Losses that grow with the width: the range must stop widening inside the band, λ must have moved for it."""
    entropy = ia.EntropyConfig({"rotate": (-1.6, -1.2)}, initial_weight=0.02, rate=0.02)
    aug, objective, _ = make(["rotate"], entropy=entropy)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3, weight_decay=0)
    images = torch.rand(8, 3, 16, 16)
    for _ in range(300):
        _, sample = fixed_sample(aug, images, torch.rand(1, 8, 1))
        width = sample.distribution.parts["rotate"].entropy().exp()
        loss = objective(0.5 * width, sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert -1.7 < objective.entropies["rotate"] < -1.1 and objective.weights["rotate"] > 0.05


def test_state_dict_goes_on_and_is_tensors_alone(batch):
    aug, objective, model = make(estimator="reinforce")
    for _ in range(3):
        step(aug, objective, model, batch)
    stored = load(save({k: t.clone() for k, t in objective.state_dict().items()}))
    _, again, _ = make(seed=1, estimator="reinforce")
    again.load_state_dict(stored)
    assert again.weights == objective.weights and again.entropies == objective.entropies
    assert again.baseline == objective.baseline and not again.baseline.isnan()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), objective.parameters(), strict=True))


def test_paper_mode_moves_once_an_epoch(batch):
    aug, objective, model = make(entropy=ia.EntropyConfig(mode="paper", initial_weight=0.2))
    step(aug, objective, model, batch)
    objective.epoch_end()
    assert objective.weights["rotate"] == pytest.approx(0.2)  # still warming up
    objective.warm_up.over = True
    step(aug, objective, model, batch)
    assert objective.weights["rotate"] == pytest.approx(0.2)
    objective.epoch_end()
    assert objective.weights["rotate"] == pytest.approx(0.24)


def test_critic_learns_the_losses_of_the_anchors():
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["crop"], predictor=ia.ConvPredictor(image_size=16))
    objective = ia.InstaAugObjective(aug, estimator="critic")
    with torch.no_grad():
        aug.predictor.heads["crop"].bias.copy_(aug.predictor.heads["crop"].log_n)  # every anchor equally likely
    optimizer = torch.optim.AdamW(objective.critic.parameters(), lr=1e-2)
    images, planted = torch.rand(4, 3, 16, 16), 2.0 + (torch.arange(30) >= 14).float()
    for _ in range(80):
        _, sample = fixed_sample(aug, images, torch.rand(8, 4, 1))
        optimizer.zero_grad()
        objective(planted[sample.params.anchor].flatten(), sample).backward()
        optimizer.step()
    error = objective.critic(images)["crop"] - planted
    assert error.abs().mean() < 0.15


def test_logs_are_flat_and_say_what_the_attributes_say(batch):
    aug, objective, model = make(entropy={"crop": (0.0, 1.0)})
    assert objective.logs() == {}
    step(aug, objective, model, batch).backward()
    logs = objective.logs()
    assert list(logs) == ["loss", "warm_up", "information/crop"] + [
        f"{what}/{f}" for f in ("crop", "rotate") for what in ("entropy", "lambda", "in_band")
    ]
    assert all(type(value) is float and math.isfinite(value) for value in logs.values())
    assert logs["entropy/crop"] == objective.entropies["crop"] and logs["lambda/rotate"] == objective.weights["rotate"]
    assert logs["in_band/crop"] == 1 and logs["in_band/rotate"] == 0  # every range starts far below its band
    with torch.no_grad():
        step(aug, objective, model, batch)
    assert objective.logs() == logs


def test_the_weight_of_entropy_is_named():
    for bad in (0, "x", math.inf):
        with pytest.raises(ia.InstaAugError, match=rf"initial_weight: expected a number in \(0, ∞\), got {bad!r}"):
            EntropyConfig(initial_weight=bad)


def test_the_baseline_of_reinforce_is_that_of_earlier_batches(batch):
    """mean (L − b)·∇ log p with b from the step before, written out."""
    aug, objective, _ = make(["crop"], estimator="reinforce")
    _, first = aug.sample(batch[0], n=2)
    weight = objective.weights["crop"]  # of both: φ has not changed between them
    objective(torch.full((8,), 2.0), first)
    views, sample = aug.sample(batch[0], n=2)
    losses = views.mean((1, 2, 3)).detach()
    part = sample.distribution.parts["crop"]
    score = (losses.view(2, 4) - 2.0) * part.log_prob(sample.params.detach())
    expected = torch.autograd.grad(
        score.mean() - weight * part.entropy().mean(), part.categorical.logits, retain_graph=True
    )[0]
    (found,) = torch.autograd.grad(objective(losses, sample), part.categorical.logits)
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_logged_loss_is_that_of_the_objective(batch):
    """Exact: Σ p·L, not the mean over candidates. With a credit: what the model learns from."""
    aug, objective, model = make(["turn"], estimator="exact")
    views, sample = aug.sample(batch[0], "all")
    losses = F.cross_entropy(model(views), batch[1].repeat(4), reduction="none").detach()
    objective(losses, sample)
    p = sample.distribution.parts["turn"].categorical.probs.detach().T
    assert objective.logs()["loss"] == pytest.approx((p * losses.view(4, 4)).sum(0).mean().item(), rel=1e-5)
    with pytest.raises(ia.InstaAugError, match="credit: estimator 'exact' learns from per_view alone"):
        objective(losses, sample, credit=losses)
    aug, objective, model = make(["turn"], estimator="reinforce")
    _, sample = aug.sample(batch[0], 2)
    losses = torch.rand(8)
    objective(losses, sample, credit=3 * losses + 1)
    assert objective.logs()["loss"] == pytest.approx(losses.mean().item())


@pytest.mark.parametrize(("size", "expected"), [(28, 32), (8, 16), (224, 64)])
def test_the_critics_copy_is_of_a_size_that_it_can_take(size, expected):
    aug = ia.LearnedAugment(["crop"])
    aug.predictor.image_size = size
    assert ia.InstaAugObjective(aug, estimator="critic").critic.image_size == expected
