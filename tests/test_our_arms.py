"""Arms of ours in a held-out report, on outputs that are made up: which of φ's views, at what cost, as which arguments of `TTAModel`."""

import dataclasses

import numpy as np
import pytest
import torch

from instaaug_transforms.learning.cross_fit import Said
from instaaug_transforms.learning.losses import squared_error
from instaaug_transforms.learning.our_arms import Way, choices, likeliest_views, ours
from instaaug_transforms.learning.put_right import PutRight
from instaaug_transforms.learning.scores import OutputScores

from .test_learning_arms import made_up


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("weighs", [True, False])
def test_ways_of_choosing_are_the_likeliest_with_and_without_the_image_and_tilted_ones(k, weighs):
    scores, log_p, _ = made_up()
    if not weighs:
        scores = OutputScores(scores.held, squared_error)
    log_p[3, 2] = -50.0  # counts as −20 in a mean
    p, order = log_p.numpy(), [4, 0]
    place = np.array([1, 2, 2, 2, 0])
    mean = np.maximum(p, -20).mean(0)
    expected = [(np.argsort(-p, 1)[:, :k], {"include_identity": False})]
    if k > 1:
        others = [[a for a in row if a] for row in np.argsort(-p, 1)]
        expected.append((np.array([[0, *row[: k - 1]] for row in others]), {"include_identity": True}))
    for tilt in (0.1, 0.5, 2.0, 8.0, 30.0):
        offsets = -mean - tilt * place
        setting = {"include_identity": False, "view_offsets": pytest.approx(offsets, abs=6e-5)}
        expected.append((np.argsort(-(p + offsets), 1)[:, :k], setting))
    ways = choices(log_p, k, order, scores)
    both = [(False, *one) for one in expected] + ([(True, *one) for one in expected] if weighs and k > 1 else [])
    assert len(ways) == len(both)
    for way, (weighted, views, setting) in zip(ways, both, strict=True):
        assert np.array_equal(way.views, views)
        how = "probability" if weighted else "mean_prob" if weighs else "mean_logit"
        assert way.setting == {"n_views": k, "aggregate": how, **setting}
        assert (way.weights is None) == (not weighted)
        assert not weighted or np.array_equal(way.weights, np.take_along_axis(p, views, 1))
        assert all(round(o, 4) == o for o in way.setting.get("view_offsets", []))


@pytest.mark.parametrize("k", [1, 2])
def test_offsets_must_be_certainly_better_beside_images_that_nothing_disturbed(k):
    """Of ways with equal weights, and of those with φ's, that cost such images nothing for certain, the first that is not worse than the best
    by two standard errors."""
    differs = dear = 0
    for columns in (3, 4, 5):
        scores, log_p, _ = made_up(n=40, columns=columns, undisturbed=torch.arange(40) % 2 == 0)
        ways, order = choices(log_p, k, [columns - 1, 0], scores), [columns - 1, 0]
        made = []
        for weighted in (False, True):
            some = [way for way in ways if (way.weights is not None) == weighted]
            answers = [scores.average(way.views, way.weights).argmax(1) == scores.right for way in some]
            plain = scores.average(torch.zeros(40, 1, dtype=torch.long)).argmax(1) == scores.right
            lost = [(plain.double() - right.double())[::2].numpy() for right in answers]
            allowed = [not (d.mean() > 2 * d.std() / 20**0.5 or d.mean() > max(d.std() / 20**0.5, 0.03)) for d in lost]
            dear += not all(allowed)
            some = [way for way, each in zip(some, allowed, strict=True) if each] or some
            losses = [scores.average_loss(way.views, way.weights) for way in some]
            nll = [scores.arm("", 0, 0, scores.average(way.views, way.weights)).nll for way in some]
            for way, its in zip(some, nll, strict=True):
                d = its.astype(float) - nll[int(np.argmin(losses))]
                if d.mean() <= 2 * d.std() / 40**0.5:
                    made.append((its.mean(), way.setting))
                    differs += way is some[0] and np.argmin(losses) > 0
                    break
        chosen = likeliest_views([Said(scores, log_p)], k, False, order)
        assert chosen.setting == min(made, key=lambda one: one[0])[1]
    assert differs and dear


@pytest.mark.parametrize(("look", "answered"), [(False, False), (True, False), (True, True)])
def test_the_best_way_is_chosen_and_costs_what_a_deployed_model_costs(look, answered):
    """A look at features is a forward, which answers for views that are the image itself."""
    scores, log_p, p = made_up(answered=answered)
    order, targets = [4, 0], scores.held.images.targets
    arm = likeliest_views([Said(scores, log_p)], 2, look, order)

    def nll(way):
        w = np.ones((24, 2)) if way.weights is None else np.exp(way.weights.double().numpy())
        average = (w[..., None] * p[torch.arange(24)[:, None], way.views].numpy()).sum(1) / w.sum(1, keepdims=True)
        return -np.log(average[np.arange(24), targets]).mean()

    ways = choices(log_p, 2, order, scores)
    best = [min(filter(kind, ways), key=nll) for kind in (lambda w: w.weights is None, lambda w: w.weights is not None)]
    made = [scores.arm("ours", 2, 0, scores.average(way.views, way.weights), way.setting) for way in best]
    chosen = min(range(2), key=lambda i: made[i].nll.mean())
    assert (arm.name, arm.n_views, arm.setting) == ("ours", 2, best[chosen].setting)
    assert np.allclose(arm.nll, made[chosen].nll)
    itself = float((best[chosen].views == 0).double().sum(1).mean())
    assert arm.cost == pytest.approx(2 + look - answered * itself)


def test_ours_is_an_arm_for_each_number_of_views():
    scores, log_p, _ = made_up()
    found = ours([Said(scores, log_p)], False, [0, 1])
    assert [(arm.name, arm.n_views) for arm in found] == [("ours", 1), ("ours", 2), ("ours", 4)]
    for arm in found:
        assert np.array_equal(arm.nll, likeliest_views([Said(scores, log_p)], arm.n_views, False, [0, 1]).nll)


def test_ways_and_what_puts_right_are_not_changed():
    for made, name in ((Way(None, None, {}), "views"), (PutRight(None, None, None), "task")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 3)
