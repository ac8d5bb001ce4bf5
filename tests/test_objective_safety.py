"""What overflows, what is frozen, and what is asked wrongly."""

import math

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.learning.entropy import EntropyConfig

from .test_objective import batch, make, step  # noqa: F401


def test_nothing_moves_in_eval_mode_or_without_gradients(batch):  # noqa: F811
    aug, objective, model = make()
    objective.eval()
    step(aug, objective, model, batch)
    objective.train()
    with torch.no_grad():
        step(aug, objective, model, batch)
    assert objective.entropies == {} and objective.baseline.isnan()


@pytest.mark.parametrize("mode", ["dual", "paper"])
def test_weights_of_entropy_stay_while_the_predictor_is_frozen(batch, mode):  # noqa: F811
    """They climbed against entropies that could not follow, to their limit of 30: thawed, ranges ran open."""
    aug, objective, model = make(entropy=EntropyConfig({"crop": (0.8, 0.9)}, mode=mode), warm_up=False)
    before, aug.recommended = objective.weights, {"n_views": 2}
    aug.requires_grad_(False)
    for _ in range(20):
        step(aug, objective, model, batch).backward()
        objective.epoch_end()
    assert objective.controller.log_weight == dict.fromkeys(before, pytest.approx(math.log(0.1)))
    assert set(objective.entropies) == {"crop", "rotate"} and aug.recommended
    aug.requires_grad_(True)
    step(aug, objective, model, batch).backward()
    objective.epoch_end()
    assert objective.controller.log_weight["crop"] > math.log(0.1) and aug.recommended is None


def test_an_overflow_does_not_stay_in_the_baseline(batch):  # noqa: F811
    aug, objective, _ = make(estimator="reinforce")
    _, sample = aug.sample(batch[0])
    objective(torch.full((4,), 2.0), sample)
    objective(torch.full((4,), torch.inf), sample)
    assert objective.baseline.item() == 2.0


def test_errors_say_what_to_do(batch):  # noqa: F811
    aug, objective, _ = make()
    views, sample = aug.sample(batch[0], 2)
    with pytest.raises(ia.InstaAugError, match=r"per_view: expected one loss per view, \(8,\).*y.repeat\(2\)"):
        objective(torch.zeros(4), sample)
    for given in ([0.0] * 8, torch.zeros(8).numpy()):
        with pytest.raises(
            ia.InstaAugError, match=rf"per_view: expected one loss per view.*got {type(given).__name__};"
        ):
            objective(given, sample)
    with pytest.raises(ia.InstaAugError, match="sample: expected what aug.sample"):
        objective(torch.zeros(8), views)
    with pytest.raises(ia.InstaAugError, match="estimator: expected one of rloo"):
        ia.InstaAugObjective(aug, estimator="magic")
    with pytest.raises(ia.InstaAugError, match="go together; got estimator 'rloo' and all anchors"):
        objective(torch.zeros(120), aug.sample(batch[0], "all")[1])
    with pytest.raises(ia.InstaAugError, match="needs at least one anchor family, got none"):
        ia.LearnedAugment(["rotate"]).sample(batch[0], "all")
    with pytest.raises(ia.InstaAugError, match="needs p=1"):
        ia.LearnedAugment(["rotate"], p=0.5).sample(batch[0])
    with pytest.raises(ia.InstaAugError, match="select: expected sample or stratified"):
        aug.sample(batch[0], select="top")
    with pytest.raises(ia.InstaAugError, match="baseline_decay"):
        ia.InstaAugObjective(aug, baseline_decay=1.0)
    with pytest.raises(ia.InstaAugError, match="aug: all of its weights are frozen"):
        ia.InstaAugObjective(ia.LearnedAugment.from_pretrained("crop_tinyimagenet"))
    other = ia.InstaAugObjective(ia.LearnedAugment(["rotate"], predictor=ia.ConvPredictor(image_size=16)))
    with pytest.raises(
        ia.InstaAugError,
        match=r"state_dict: holds a controller.s state of shape \(1, 12\), this objective.s is \(2, 12\)",
    ):
        objective.set_extra_state(other.get_extra_state())


@pytest.mark.parametrize("families", [["rotate"], ["crop", "rotate"], ["turn", "crop", "rotate"]])
def test_a_sample_of_another_transform_is_named(batch, families):  # noqa: F811
    """A KeyError of a family that one has and the other has not; of equal families, another φ than λ was for."""
    _, objective, _ = make()
    _, sample = ia.LearnedAugment(families).sample(batch[0], 2)
    message = "sample: it is of another transform, of .*, than the objective's, of crop, rotate; call sample on the aug"
    with pytest.raises(ia.InstaAugError, match=message):
        objective(torch.zeros(8), sample)
    objective.eval()
    if families == ["crop", "rotate"]:  # an average of φ, say, which may be judged
        objective(torch.zeros(8), sample)
    else:
        with pytest.raises(ia.InstaAugError, match=message):
            objective(torch.zeros(8), sample)


def test_an_overflow_does_not_stay_in_the_control(batch):  # noqa: F811
    """A step whose entropy is no number is as if it had not been."""
    aug, objective, model = make(["turn"])
    step(aug, objective, model, batch).backward()
    before = objective.get_extra_state()
    objective.controller.step({"turn": torch.tensor([0.1, math.nan])})
    objective.watch.update({"turn": math.nan}, objective.controller)
    assert torch.equal(objective.get_extra_state(), before) and before.isfinite().all()
