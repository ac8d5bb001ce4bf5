"""λ and the band it holds entropy in."""

import math

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms import families

CROP_ROTATE = families.create(["crop", "rotate"])


def test_dual_control_raises_and_lowers_the_weight():
    control = ia.EntropyController(CROP_ROTATE, {"crop": (0.4, 0.5), "rotate": (-1.0, -0.5)})
    low, high = control.bands["crop"]
    assert (low, high) == pytest.approx((0.4 * math.log(30), 0.5 * math.log(30)))
    for _ in range(50):
        control.step({"crop": torch.full((8,), 0.2), "rotate": torch.full((8,), -0.1)})
    assert control.weight("crop") > 0.1 > control.weight("rotate")
    settled = control.settled_weight("crop")
    for _ in range(200):
        control.step({"crop": torch.full((8,), (low + high) / 2)})
    inside = control.settled_weight("crop")
    control.step({"crop": torch.full((8,), (low + high) / 2)})
    assert control.settled_weight("crop") == inside and inside >= settled
    assert control.weight("crop") == pytest.approx(inside)


def test_control_finds_the_weight_that_meets_the_band():
    """A planted problem with a known answer: mean loss 2·σ, entropy log σ; at weight λ the optimum is σ = λ/2."""
    rotate = families.create(["rotate"])
    control = ia.EntropyController(rotate, ia.EntropyConfig({"rotate": (-1.1, -0.9)}, initial_weight=0.01, rate=0.02))
    raw = torch.tensor([-4.0], requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(1500):
        width = raw.sigmoid()
        entropy = {"rotate": width.log()}
        loss = (2 * width - control.penalty(entropy)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        control.step(entropy)
    assert -1.15 < raw.sigmoid().log().item() < -0.85
    assert control.settled_weight("rotate") == pytest.approx(2 * raw.sigmoid().item(), rel=0.1)


def share_of_updates_in_band(**control: float) -> float:
    """Where φ is trained by Adam, entropy climbs or falls at one speed on either side of the λ that holds it still."""
    control = ia.EntropyController(CROP_ROTATE[:1], ia.EntropyConfig({"crop": (0.5, 0.6)}, rate=0.03, **control))
    (low, high), entropy, inside = control.bands["crop"], 0.6, 0
    for update in range(2000):
        still = 0.1 * 2 ** (-update / 500)  # a model that learns forgives more and more
        entropy = min(max(entropy + 0.02 * math.tanh(3 * math.log(control.weight("crop") / still)), 0.0), 3.4)
        control.step({"crop": torch.tensor([entropy])})
        inside += update >= 200 and low <= entropy <= high
    return inside / 1800


def test_lookahead_and_margin_hold_entropy_in_its_band():
    assert share_of_updates_in_band() < 0.3  # swings through it
    assert share_of_updates_in_band(lookahead=50) < 0.3  # rests beyond its edge
    assert share_of_updates_in_band(lookahead=50, margin=0.2) == 1


def test_paper_control_moves_by_a_fifth_once_an_epoch():
    entropy = ia.EntropyConfig({"crop": (0.4, 0.5)}, initial_weight=0.2, mode="paper")
    control = ia.EntropyController(CROP_ROTATE, entropy)
    for _ in range(10):
        control.step({"crop": torch.zeros(4)})
    assert control.weight("crop") == pytest.approx(0.2)
    control.epoch_end()
    assert control.weight("crop") == pytest.approx(0.24)


def test_paper_control_without_bands_takes_those_of_the_families():
    """Of the crop's 30 candidates 0.52 to 0.61 of log 30, of the angle −1 to −0.3 nats: below, inside and above."""
    assert ia.EntropyConfig(mode="paper").bands == {}
    for crop, rotate, expected in ((0.5, -0.31, (1.2, 1)), (0.53, -0.29, (1, 1 / 1.2)), (0.62, -1.01, (1 / 1.2, 1.2))):
        control = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(mode="paper", initial_weight=0.2))
        control.step({"crop": torch.full((4,), crop * math.log(30)), "rotate": torch.full((4,), rotate)})
        control.epoch_end()
        weights = [control.weight(name) / 0.2 for name in ("crop", "rotate")]
        assert weights == pytest.approx(expected)


def test_weights_stay_in_their_limits_and_state_goes_on():
    control = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(rate=1.0))
    for _ in range(100):
        control.step({"crop": torch.zeros(4), "rotate": torch.full((4,), -0.001)})
    assert control.settled_weight("crop") == pytest.approx(30) and control.settled_weight("rotate") == pytest.approx(
        1e-3
    )
    again = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(rate=1.0))
    again.load_state_dict(control.state_dict())
    assert control.trend["crop"] == 0.0  # the entropy never changed
    assert again.state_dict() == control.state_dict() and again.weight("crop") == control.weight("crop")


@pytest.mark.parametrize("start", [1e-9, 100.0])
def test_a_weight_that_does_not_move_stays_where_it_starts(start):
    still = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(rate=0.0, initial_weight=start))
    paper = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(mode="paper", initial_weight=start))
    for control in (still, paper):
        control.step({"crop": torch.zeros(4), "rotate": torch.full((4,), -0.001)})
        control.epoch_end()
    assert still.weight("crop") == pytest.approx(start) and still.weight("rotate") == pytest.approx(start)
    assert paper.weight("crop") == pytest.approx(min(1.2 * start, max(start, 30)))


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"hsv": (-1, 0)}, "bands for hsv, but the families are crop, rotate"),
        ({"crop": (0.5, 1.5)}, "≤ 1 .fractions"),
        ({"rotate": (-0.5, 0.5)}, "≤ 0 .nats"),
        ({"rotate": (-0.5, -0.9)}, "low < high"),
        ({"crop": 0.5}, r"entropy\['crop'\]: expected a pair of numbers, \(low, high\), got 0.5"),
        ({"crop": (0.1, 0.2, 0.3)}, "expected a pair of numbers"),
        ({"crop": ("low", "high")}, "expected a pair of numbers"),
    ],
)
def test_bad_bands(bands, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.EntropyController(CROP_ROTATE, bands)


def test_bad_lookahead_and_margin():
    with pytest.raises(ia.InstaAugError, match=r"lookahead: expected a number in \[0, ∞\), or None, got -1"):
        ia.EntropyConfig(lookahead=-1)
    with pytest.raises(ia.InstaAugError, match=r"margin: expected a number in \[0, 0.5\), or None, got 0.5"):
        ia.EntropyConfig(margin=0.5)
    with pytest.raises(ia.InstaAugError, match="entropy: expected bands"):
        ia.FitConfig(entropy=(0.3, 0.5))


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_forgets_lets_lambda_fall_until_it_has_learned_again(trained, caplog):
    """A range of ±30° is all that labels allow here (made up: a loss that explodes beyond); the band asks for ten times as much. A
    frozen model forgets nothing, and gets what the band asks for."""
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["rotate"], predictor="global")
    objective = ia.InstaAugObjective(aug, ia.EntropyConfig({"rotate": (-0.5, -0.1)}, initial_weight=5.0, rate=0.05))
    objective.warm_up.over = True
    optimizer, images = torch.optim.Adam(objective.parameters(), 0.05), torch.rand(64, 3, 8, 8)
    weights, widths, model = [], [], torch.ones((), requires_grad=trained)
    for _ in range(400):
        sample = aug.sample(images)[1]
        wrong = (sample.params.angle[0].abs() - 30).relu() / 10
        objective(model * (0.01 + 2 * wrong.clamp(max=1)), sample).backward()
        optimizer.step()
        optimizer.zero_grad()
        weights.append(objective.weights["rotate"])
        widths.append(math.exp(objective.entropies["rotate"]))
    if not trained:
        assert max(weights) > 20 and widths[-1] > math.exp(-0.5) and "has risen" not in caplog.text
        return
    assert "the loss has risen from 0.01" in caplog.text and caplog.text.count("lower the band") == 1
    assert (
        weights[-1] < max(weights) and objective.controller.losses["recent"] < 1.0
    )  # 2 is what a model that knows nothing loses
    again = ia.InstaAugObjective(aug, {"rotate": (-0.5, -0.1)})
    again.load_state_dict(objective.state_dict())
    assert (
        again.controller.losses == objective.controller.losses
        and again.controller.forgets == objective.controller.forgets
    )


@pytest.mark.parametrize("parts", [1, 16])
def test_entropy_keeps_to_its_band_however_many_batches_an_update_has(parts):
    """λ moved with every batch: with 16 an update it answered 16 times for each change of φ, and entropy ran to 2.7 nats."""
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["crop"], predictor="global")
    objective = ia.InstaAugObjective(aug, ia.EntropyConfig(rate=0.02), estimator="reinforce", warm_up=False)
    model, images, planted, found = (
        torch.ones((), requires_grad=True),
        torch.rand(4, 3, 8, 8),
        torch.linspace(0, 1, 30),
        [],
    )
    optimizer = torch.optim.Adam([{"params": [model], "lr": 1e-3}, {"params": objective.parameters(), "lr": 0.03}])
    for _ in range(110):
        for _ in range(parts):
            distribution = aug.distribution(images)
            sample = ia.AugmentSample(distribution.from_uniform(torch.rand(1, 4, 1)), distribution, images)
            (objective(model.abs() * planted[sample.params.anchor].flatten(), sample) / parts).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(distribution.entropies()["crop"].mean().item())
    low, high = objective.controller.bands["crop"]
    assert low < min(found[80:]) and max(found[80:]) < high


def accumulating(**options):
    """An objective, and a function that gives it one batch of the width of `rotate`'s ranges, and tells λ of before and after."""
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["rotate"], predictor="global")
    objective = ia.InstaAugObjective(aug, ia.EntropyConfig(rate=0.1, **options), warm_up=False)
    model = torch.ones((), requires_grad=True)

    def batch(loss: float = 1.0) -> float:
        objective(model * torch.full((4,), loss), aug.sample(torch.rand(4, 3, 8, 8))[1])
        return objective.controller.log_weight["rotate"]

    return objective, batch


@pytest.mark.parametrize("fused", [False, True])
def test_lambda_waits_where_a_grad_scaler_skips_a_step(fused):
    """Fused optimizers change weights without a new version of them."""
    objective, batch = accumulating()
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-3, fused=fused)
    scaler, found = torch.amp.GradScaler("cpu", init_scale=2.0**10), []
    for factor in (1.0, 1.0, math.inf, 1.0, 1.0):
        found.append(round((batch() - math.log(0.1)) / 0.1))
        scaler.scale(factor * sum(weight.sum() for weight in objective.parameters())).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert found == [1, 2, 3, 3, 4]


@pytest.mark.parametrize("through_data", [False, True])
def test_lambda_moves_once_for_all_batches_between_two_changes_of_phi(through_data):
    objective, batch = accumulating()
    (weight,), expected = objective.aug.predictor.parameters(), math.log(0.1)
    for parts in (1, 1, 3, 1, 2, 1, 4):
        expected += 0.1  # far below its band all the time: one whole step an update
        assert [batch() for _ in range(parts)] == [pytest.approx(expected)] * parts
        with torch.no_grad():
            (weight.data if through_data else weight).add_(1e-3)
    assert objective.controller.losses["recent"] == pytest.approx(1.0)


def test_parts_that_overflow_or_are_judged_alone_say_nothing():
    objective, batch = accumulating()
    batch(1.0), batch(math.inf)
    objective.eval()
    batch(9.0)
    objective.train()
    batch(3.0)
    assert objective.controller.losses == {"recent": pytest.approx(2.0), "lowest": pytest.approx(2.0)}


def test_what_was_loaded_or_moved_between_two_parts_is_not_taken_back():
    objective, batch = accumulating()
    batch(), batch()
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    moved = objective.get_extra_state()
    moved[:, 0] = 1.0
    objective.load_state_dict(state | {"_extra_state": moved})
    assert batch() == pytest.approx(1.1)
    paper, batch = accumulating(mode="paper")
    batch()
    paper.epoch_end()
    assert batch() == batch() == pytest.approx(math.log(0.12))


def test_a_predictor_that_thaws_goes_on_from_where_it_was_frozen():
    objective, batch = accumulating()
    first = batch(1.0)
    objective.aug.requires_grad_(False)
    assert [batch(3.0) for _ in range(5)] == [first] * 5 and objective.controller.losses["recent"] > 1.5
    objective.aug.requires_grad_(True)
    recent = objective.controller.losses["recent"]
    assert batch(3.0) == batch(3.0) == pytest.approx(first + 0.1) and objective.controller.losses["recent"] > recent


def test_states_of_before_losses_were_kept_load():
    objective = ia.InstaAugObjective(ia.LearnedAugment(["rotate"]))
    old = torch.tensor([[-1.0, -2.0, 0.01]], dtype=torch.float64)
    objective.set_extra_state(old)
    state = objective.get_extra_state()
    assert torch.equal(state[:, :3], old) and state[:, 4:7].isnan().all() and objective.controller.losses == {}
    assert objective.warm_up.over and objective.controller.reached == {"rotate": True}  # long past its beginning
