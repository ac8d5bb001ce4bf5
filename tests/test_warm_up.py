"""Until the model that is trained along knows something, entropy stays near where φ started."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.learning import objective as objective_module
from instaaug_transforms.learning.warm_up import WarmUp, trains


def updates_until_over(losses) -> int | None:
    warm_up, recent = WarmUp(), None
    for n, loss in enumerate(losses, 1):
        recent = loss if recent is None else recent
        recent = 0.9 * recent + 0.1 * loss
        warm_up.update(loss, recent)
        if warm_up.over:
            return n
    return None


def test_over_when_the_average_loss_has_halved():
    # 2 for 20 updates, then 0: the average 2 · 0.9ⁿ is below 1 from n = 7 on.
    assert updates_until_over([2.0] * 20 + [0.0] * 50) == 27


def test_over_when_the_loss_stops_falling_and_not_before():
    assert updates_until_over([2.0] * 400) == 210  # the tenth update is the first mark
    falling = [2.0 * 0.9995**n for n in range(1200)]  # by 10 % in 200 updates, halved after about 1,386
    assert updates_until_over(falling) is None
    assert updates_until_over([0.02] * 400) == 210  # trained weights: there is nothing to wait for
    assert updates_until_over([-5.0] * 400) == 210  # a log-likelihood of densities


def test_losses_that_are_no_numbers_do_not_end_it():
    aug, objective, model, _ = learning()
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 1])
    for value in (1.0, math.inf, math.nan, 1.0):
        views, sample = aug.sample(images)
        objective(F.cross_entropy(model(views), labels, reduction="none") * value, sample)
        with torch.no_grad():
            next(aug.predictor.parameters()).add_(1e-3)
    assert objective.warm_up.updates == 2 and not objective.warm_up.over


def learning(names=("rotate", "crop"), seed=0, **options):
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(list(names), predictor=ia.ConvPredictor(16))
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    objective = ia.InstaAugObjective(aug, **options)
    optimizer = torch.optim.Adam([{"params": model.parameters()}, {"params": objective.parameters(), "lr": 1e-3}])
    return aug, objective, model, optimizer


def train(parts, updates, seed=1):
    """On labels that cannot be told: the model learns nothing, and no view costs it anything."""
    aug, objective, model, optimizer = parts
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        images = torch.rand(16, 3, 16, 16, generator=generator)
        labels = torch.randint(3, (16,), generator=generator)
        views, sample = aug.sample(images, generator=generator)
        optimizer.zero_grad()
        objective(F.cross_entropy(model(views), labels, reduction="none"), sample).backward()
        optimizer.step()


def test_entropy_stays_near_its_start_until_then():
    held, open_ = learning(), learning(warm_up=False)
    starts = {
        name: entropy.mean().item()
        for name, entropy in held[0].distribution(torch.rand(8, 3, 16, 16)).entropies().items()
    }
    for parts in (held, open_):
        train(parts, 100)
    for name, start in starts.items():
        assert held[1].entropies[name] < start + 0.8, name
        assert open_[1].entropies[name] > start + 2, name
    assert held[1].logs()["warm_up"] == 1 and open_[1].logs()["warm_up"] == 0
    weights = held[1].controller.settled_weight("rotate"), held[1].controller.settled_weight("crop")
    train(held, 50)
    assert weights == (
        held[1].controller.settled_weight("rotate"),
        held[1].controller.settled_weight("crop"),
    )  # λ waits, too
    train(held, 65)  # over by now: the loss has not fallen in 200 updates
    assert held[1].warm_up.over and held[1].logs()["warm_up"] == 0


def test_the_first_step_is_the_objective_as_published():
    images, labels, gradients = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 1]), []
    for warm_up in (True, False):
        aug, objective, model, _ = learning(warm_up=warm_up)
        views, sample = aug.sample(images, generator=torch.Generator().manual_seed(0))
        objective(F.cross_entropy(model(views), labels, reduction="none"), sample).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in aug.predictor.parameters()]))
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


@pytest.mark.parametrize(("name", "numbers"), [("rotate", 1), ("hsv", 3), ("crop", 1)])
def test_what_holds_entropy_is_largest_0_65_nats_above_the_start(name, numbers):
    control, start = ia.EntropyController(families.create([name])), -3.9 if name != "crop" else 0.4
    above = torch.linspace(-1, 4.5, 5501)
    entropy = (start + above).requires_grad_()
    control.penalty({name: entropy}, held=True).sum().backward()  # where it starts is not known yet
    assert torch.allclose(entropy.grad, torch.tensor(control.weight(name)))
    control.step({name: torch.full((4,), start)}, 1.0, held=True)
    entropy.grad = None
    control.penalty({name: entropy}, held=True).sum().backward()
    slope = entropy.grad / control.weight(name)
    assert above[slope.abs().argmin()].item() == pytest.approx(0.65 * numbers, abs=2e-3)
    assert (
        torch.allclose(slope[above < 0.49 * numbers], torch.tensor(1.0), atol=1e-4)
        and (slope[above > 0.66 * numbers] < 0).all()
    )


@pytest.mark.parametrize("name", ["rotate", "crop"])
def test_a_frozen_model_needs_none(name):
    aug, objective, model, _ = learning([name])
    model.requires_grad_(False)
    views, sample = aug.sample(torch.rand(4, 3, 16, 16))
    per_view = F.cross_entropy(model(views), torch.tensor([0, 1, 2, 1]), reduction="none")
    own = {id(weight) for weight in objective.parameters()}
    assert not trains(per_view, own)
    objective(per_view, sample).backward()
    assert objective.warm_up.over and objective.controller.settled_weight(name) != pytest.approx(0.1)
    model.requires_grad_(True)
    assert trains(model(aug.sample(torch.rand(4, 3, 16, 16))[0]), own)


def turned_away(model_is_frozen=False):
    parts = learning(["rotate"])
    with torch.no_grad():
        parts[0].predictor.heads["rotate"].out.bias[1] += 0.45  # of the position: from 0° to about 40°
    parts[2].requires_grad_(not model_is_frozen)
    return parts


def test_ranges_that_a_model_learns_with_come_back_to_the_image_as_it_is():
    """Labels cannot be told from any view: nothing else calls them back."""
    parts, images = turned_away(), torch.rand(8, 3, 16, 16)
    assert parts[0].distribution(images).parts["rotate"].fields["angle"].lo.min() > 30
    train(parts, 60)
    assert parts[0].distribution(images).parts["rotate"].fields["angle"].lo.max() < 9


def test_a_frozen_model_may_want_images_turned(monkeypatch):
    gradients = []
    for astray in (0.0, 10.0):
        monkeypatch.setattr(objective_module, "ASTRAY", astray)
        aug, objective, model, _ = turned_away(model_is_frozen=True)
        views, sample = aug.sample(torch.ones(4, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        objective(F.cross_entropy(model(views), torch.tensor([0, 1, 2, 1]), reduction="none"), sample).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in aug.predictor.parameters()]))
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


def test_interrupted_training_goes_on_alike():
    whole, first, second = learning(), learning(), learning(seed=5)
    train(whole, 12, seed=1), train(whole, 12, seed=2)
    train(first, 12, seed=1)
    for old, new in zip(first[1:], second[1:], strict=True):  # objective (with φ), model, optimizer
        new.load_state_dict(old.state_dict())
    assert second[1].warm_up.state() == first[1].warm_up.state() and second[1].warm_up.updates == 12
    train(second, 12, seed=2)
    assert torch.equal(whole[1].get_extra_state(), second[1].get_extra_state())
    assert all(torch.equal(a, b) for a, b in zip(whole[1].parameters(), second[1].parameters(), strict=True))


@pytest.mark.parametrize("name", ["rotate", "hsv", "mean_field_crop", "crop"])
def test_how_far_ranges_are_from_the_image_as_it_is(name):
    """By the definition: the identity's distance from [lo, hi], in widths of the bounds, two hundredths granted."""
    (family,) = families.create([name])
    raw = ia.LearnedAugment([name], predictor=ia.ConvPredictor(16)).predictor(torch.rand(1, 3, 16, 16))[name]
    part = family.distribution(raw + 3 * torch.randn(200, raw.shape[1], generator=torch.Generator().manual_seed(0)))
    expected = torch.zeros(200)
    for field, u in getattr(part, "fields", {}).items() if part.has_rsample else ():
        (low, high), identity = family.bounds[field], family.identity()[field]
        outside = torch.maximum(u.lo - identity, identity - u.hi) / (high - low)
        expected += (outside - 0.02).clamp(min=0)
    assert torch.allclose(part.astray(), expected, atol=1e-6) and (expected.max() > 0.1) == part.has_rsample


def test_a_table_that_is_shut_is_opened_faster_than_rate():
    control = ia.EntropyController(families.create(["crop", "rotate"]))
    shut = {"crop": torch.zeros(4), "rotate": torch.full((4,), -3.9)}
    for _ in range(10):
        control.step(shut, 1.0)
    assert math.log(control.settled_weight("crop") / 0.1) == pytest.approx(10 * 0.02)
    assert math.log(control.settled_weight("rotate") / 0.1) == pytest.approx(10 * 0.004)
    low, high = control.bands["crop"]
    for _ in range(60):
        control.step({"crop": torch.full((4,), (low + high) / 2)}, 1.0)
    before = control.settled_weight("crop")
    for _ in range(60):
        control.step({"crop": torch.zeros(4)}, 1.0)
    assert 0 < math.log(control.settled_weight("crop") / before) <= 60 * 0.004  # it has been in its band
    frozen = ia.EntropyController(families.create(["crop"]), ia.EntropyConfig(rate=0.0))
    frozen.step({"crop": torch.zeros(4)}, 1.0)
    assert frozen.settled_weight("crop") == pytest.approx(0.1)


@pytest.mark.parametrize("through_data", [False, True])
@pytest.mark.parametrize("parts", [1, 8])
def test_parts_of_an_update_whose_gradients_are_accumulated_count_once(parts, through_data):
    """A loss that does not fall ends it after 210 updates: after 210 batches an accumulating loop has made but 26."""
    aug = ia.LearnedAugment(["turn"], predictor="global")
    objective, bias = ia.InstaAugObjective(aug, estimator="reinforce"), nn.Parameter(torch.zeros(()))
    images, over = torch.rand(2, 3, 8, 8), []
    for update in range(212 if parts == 1 else 40):
        for _ in range(parts):
            _, sample = aug.sample(images)
            (objective(torch.ones(2) + 0 * bias, sample) / parts).backward()
        with torch.no_grad():
            for weight in objective.parameters():
                (weight.data if through_data else weight).sub_(1e-4 * (1 + update % 3))
        over.append(objective.logs()["warm_up"] == 0)
    assert over.index(True) == 209 if parts == 1 else not any(over)
