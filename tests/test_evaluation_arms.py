"""What arms are made of, without an evaluation around them."""

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms import tta as evaluation
from instaaug_transforms.families.light import Light
from instaaug_transforms.tta import arms as baselines
from instaaug_transforms.tta import evaluate
from instaaug_transforms.tta.weights_per_scale import fit_scale_weights

from .conftest import make_lively
from .test_evaluation import Tiny


def test_greedy_chooses_what_complements():
    """Two views that are right on different halves beat the best view twice."""
    p = torch.tensor([[0.6, 0.9, 0.05], [0.6, 0.05, 0.9]] * 5)
    assert baselines.greedy(-p.log(), 1) == [0]
    assert sorted(baselines.greedy(-p.log()[:, 1:], 2)) == [0, 1]


def test_arms_start_with_the_image_itself(images):
    aug, g = make_lively(["crop", "rotate"]), torch.Generator().manual_seed(0)
    for arm in (baselines.random_views(aug, 5), baselines.learned(aug, 5)):
        first = arm(images, g).index(0)
        assert (first.w == 1).all() and (first.angle == 0).all()
    shuffled = baselines.learned(aug, 5, shuffled=True)(images, g)
    ours = baselines.learned(aug, 5)(images, g)
    assert torch.allclose(shuffled.angle, ours.angle.roll(1, 1), atol=1e-3)


def test_the_answer_is_that_of_the_average_whatever_the_temperature():
    """Where choices were made all answers are wrong, so that the temperature is over a million; the reported ones are right."""
    model, images = (
        nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(6, 4)).eval(),
        torch.rand(200, 3, 8, 8),
    )
    nn.init.zeros_(model[2].bias)
    with torch.no_grad():
        model[2].weight.sub_(model[2].weight.mean(1, keepdim=True)).mul_(0.05)
        answers = model(images).argmax(1)
    assert answers.bincount(minlength=4).max() < 150
    data = (images, answers), (images, (answers + 1) % 4)
    found = evaluate(model, make_lively(["turn"]), *data, (1,), only=[], progress=False).arms["single view", 1]
    assert found.temperature > 1e5 and found.correct.all()


def test_zooms_start_with_the_image_itself_and_its_mirror_image_is_among_them():
    zooms = baselines.zoom_candidates()
    first = {name: field[0].item() for name, field in zooms.items()}
    assert first == {"cx": 0.5, "cy": 0.5, "w": 1.0, "h": 1.0, "flip": 0.0}
    assert ((zooms.w == 1) & (zooms.flip == 1)).sum() == 1 and zooms.w.min() > 0.5 and (zooms.cx == 0.5).all()


def test_candidates_hold_every_anchor_with_and_without_flip():
    crop = baselines.policy_candidates(make_lively(["crop"]))
    assert crop.batch_shape == (16 + 2 * 29,)
    assert baselines.policy_candidates(make_lively(["rotate"])).angle.abs().max() == 45


def test_random_views_stay_inside_the_bounds():
    aug = ia.LearnedAugment(["mean_field_crop"])
    params = baselines.random_views(aug, 50)(torch.rand(8, 3, 16, 16), torch.Generator().manual_seed(0))
    for name, (low, high) in aug.families[0].bounds.items():
        assert low <= params[name].min() and params[name].max() <= high, name


def test_classes_that_are_ruled_out_leave_finite_averages():
    from instaaug_transforms.tta.aggregation import AGGREGATIONS, aggregate

    logits = torch.randn(3, 5, 4)
    logits[..., 2] = -torch.inf
    for how in AGGREGATIONS:
        weights = torch.zeros(3, 5) if how in ("weighted", "probability") else None
        p = aggregate(logits, how, log_weights=weights).softmax(-1)
        assert p.isfinite().all() and (p[:, 2] == 0).all(), how


def test_weights_per_scale_are_those_that_scipy_finds():
    """Views of two bins, one of which knows more: the same minimum of the NLL and its pull towards equal weights."""
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(4, 200, 3, generator=generator), torch.randint(3, (200,), generator=generator)
    bins = torch.tensor([0, 0, 3, 3])[:, None].expand(-1, 200)
    logits[2:] += 3 * nn.functional.one_hot(targets, 3)
    p = logits.double().softmax(-1).numpy()[:, np.arange(200), targets]  # (4, 200)

    def value(weights):
        w = np.exp(weights[bins[:, 0]])
        return -np.log((w[:, None] * p).sum(0) / w.sum()).mean() + 1e-3 * (weights**2).sum()

    expected = scipy.optimize.minimize(value, np.zeros(6), options={"gtol": 1e-8}).x
    found = fit_scale_weights(logits, bins, targets).numpy()
    assert expected[3] - expected[0] > 1 and np.allclose(found, expected, atol=0.02)


@pytest.mark.parametrize(("families", "there"), [(["turn"], True), (["crop"], True), (["turn", "crop"], False)])
def test_the_surest_of_all_candidates_is_an_arm_where_there_are_few(families, there):
    """For disturbed images alone, at what it costs: of four turns, by ``rot90``, the answer with the highest probability."""
    model, aug = Tiny(), make_lively(families)
    data = [(torch.rand(n, 3, 32, 32), torch.randint(4, (n,))) for n in (20, 20)]
    plain = evaluate(model, aug, *data, (1, 2), only=[], progress=False)
    lit = evaluate(model, aug, *data, (1, 2), only=[], nuisance=nn.Identity(), progress=False)
    name, a = "most confident candidate", baselines.own_candidates(aug)[0].batch_shape[0]
    assert name not in {key[0] for key in plain.arms} and ((name, 1) in lit.arms) == there
    if there:
        assert lit.arms[name, 1].cost == a
    if families != ["turn"]:
        return
    images, labels = data[0]
    p = torch.stack([model(images.rot90(k, (-2, -1))).softmax(-1) for k in range(4)])
    surest = p.amax(-1).argmax(0)
    expected = p[surest, torch.arange(20)].argmax(-1) == labels
    assert np.array_equal(lit.arms[name, 1].correct, expected.numpy())


def test_weights_per_scale_are_fitted_for_each_arm_on_its_own_views():
    """Of two arms and two K, what `TTAModel` gives with the weights of the choice images."""
    model, aug = Tiny(), make_lively(["crop"])
    data, choice = [(torch.rand(n, 3, 32, 32), torch.randint(4, (n,))) for n in (30, 50)]
    found = evaluate(
        model, aug, data, choice, (2, 4), how="weighted", only=["horizontal flip"], batch_size=64, progress=False
    )
    images, labels = data
    for k in (2, 4):
        params = evaluation.choose_views(aug.distribution(choice[0]), k)
        views = torch.stack([model(aug(choice[0], params=params.index(v))) for v in range(k)])
        bins = evaluation.aggregation.scale_bins(params)
        weights = fit_scale_weights(views.detach(), bins, choice[1])
        logits = ia.TTAModel(model, aug, k, aggregate="weighted", scale_weights=weights.tolist())(images)
        arm = found.arms["ours", k]
        nll = nn.functional.cross_entropy(logits / arm.temperature, labels, reduction="none")
        assert np.allclose(arm.nll, nll, atol=2e-3), k
        assert arm.scale_weights == pytest.approx(weights.tolist(), abs=1e-2)
    plain = evaluate(model, aug, data, choice, (2,), batch_size=64, progress=False)
    assert plain.arms["ours", 2].scale_weights is None


def test_calibration_error_is_guos_equation_3():
    """Bins of a fifteenth: what is wrong on one side in one bin does not make up for the other side in another."""
    from instaaug_transforms.tta.calibration import calibration_error

    confidence = np.array([0.34, 0.36, 0.41, 0.95, 0.99, 1.0])  # bins (0.33, 0.4], (0.4, 0.47], (0.93, 1]
    correct = np.array([True, False, False, True, True, False])
    by_hand = (2 * abs(1 / 2 - 0.35) + 1 * abs(0 - 0.41) + 3 * abs(2 / 3 - 2.94 / 3)) / 6
    assert calibration_error(confidence, correct) == pytest.approx(by_hand)
    generator = np.random.default_rng(0)
    sure = generator.uniform(0, 1, 400_000)
    assert calibration_error(sure, generator.uniform(0, 1, 400_000) < sure) < 0.004
    assert calibration_error(sure, generator.uniform(0, 1, 400_000) < sure**2) == pytest.approx(1 / 6, abs=0.004)


@pytest.mark.parametrize(("candidates", "there"), [(64, True), (65, False)])
def test_of_more_than_64_candidates_the_surest_is_not_looked_for(candidates, there):
    light = Light(exposures=tuple(i / 8 for i in range(candidates)), white_balances=(0.0,))
    aug, data = make_lively([light], predictor=ia.ConvPredictor(16)), (torch.rand(6, 3, 32, 32), torch.arange(6) % 4)
    found = evaluate(Tiny(), aug, data, data, (1,), only=[], nuisance=nn.Identity(), progress=False)
    assert (("most confident candidate", 1) in found.arms) == there
