"""Views of what φ has put right, and weights of views."""

import math

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.tta.views import (
    choose_views,
)

from .conftest import make_lively
from .test_tta import Tiny


def test_weights_of_fixed_views_lie_where_the_views_do():
    model = ia.TTAModel(Tiny(), make_lively(["turn"]), 2, policy={"turn_angle": [0.0, 90.0]}, aggregate="probability")
    for device in ("cpu", "meta"):
        weights = model.log_weights(ia.AugmentParams(turn_angle=torch.zeros(2, 3, device=device)), None)
        assert weights.device.type == device and weights.shape == (2, 3)


@pytest.mark.parametrize("how", ["mean_prob", "probability"])
def test_what_is_put_right_is_averaged_over_fixed_views(how, images):
    """Turned by ``rot90`` as φ has it, and then, not before, mirrored; views weigh the same."""
    model, aug = Tiny(), make_lively(["turn"])
    turns = aug.distribution(images).parts["turn"].categorical.probs.argmax(-1)
    assert (turns % 2).any()  # half turns and mirroring commute
    upright = torch.stack([image.rot90(int(k), (-2, -1)) for image, k in zip(images, turns, strict=True)])
    expected = torch.stack([model(view).softmax(-1) for view in (upright, upright.flip(-1))]).mean(0)
    found = ia.TTAModel(model, aug, 2, policy={"flip": [0.0, 1.0]}, put_right=True, aggregate=how)(images)
    assert torch.allclose(found.softmax(-1), expected, atol=1e-5)


@pytest.mark.parametrize("how", ["mean_prob", "probability"])
def test_two_candidates_are_put_right_and_weighted(how, images):
    """Both of the likeliest turns, each as it comes and mirrored; weighted by φ, or alike."""
    model, aug = Tiny(), make_lively(["turn"])
    p, turns = aug.distribution(images).parts["turn"].categorical.probs.topk(2)
    weights = p / p.sum(1, keepdim=True) if how == "probability" else torch.full_like(p, 0.5)
    expected = torch.zeros(6, 5)
    for b, image in enumerate(images):
        for weight, k in zip(weights[b], turns[b], strict=True):
            upright = image.rot90(int(k), (-2, -1))
            expected[b] += weight * model(torch.stack([upright, upright.flip(-1)])).softmax(-1).mean(0)
    found = ia.TTAModel(model, aug, 4, policy={"flip": [0.0, 1.0]}, put_right=2, aggregate=how)(images)
    assert torch.allclose(found.softmax(-1), expected, atol=1e-5)


def test_views_weigh_what_phi_says_of_them(images):
    aug, model = make_lively(["turn"]), Tiny()
    found = ia.TTAModel(model, aug, 2, aggregate="probability", include_identity=False)(images)
    p, best = aug.distribution(images).parts["turn"].categorical.probs.topk(2)
    shown = torch.stack(
        [torch.stack([x.rot90(int(k), (-2, -1)) for k in ks]) for x, ks in zip(images, best, strict=True)]
    )
    answers = model(shown.flatten(0, 1)).softmax(-1).unflatten(0, (6, 2))
    expected = (p[..., None] * answers).sum(1) / p.sum(1, keepdim=True)
    assert torch.allclose(found.softmax(-1), expected, atol=1e-5)


def test_another_number_of_views_than_the_fixed_ones_that_are_recommended_is_named():
    aug = make_lively(["turn"])
    aug.recommended = {"recommended": {"n_views": 2, "policy": {"turn_angle": [0, 180]}}}
    with pytest.raises(
        ia.InstaAugError, match=r"n_views: what is recommended is 2 fixed view\(s\), got 4; leave n_views out"
    ):
        ia.TTAModel.recommended(Tiny(), aug, n_views=4)
    others = {"n_views": 4, "policy": {"turn_angle": [0, 90, 180, 270]}}
    assert [ia.TTAModel.recommended(Tiny(), aug, **more).n_views for more in ({"n_views": 2}, others)] == [2, 4]


def test_what_is_recommended_comes_from_the_result_where_one_is_given(images):
    """Three sources: a result with a report, a result without one, and what the transform remembers."""

    class Result:
        def __init__(self, n):
            self.report = n and self
            self.n = n

        def to_json(self):
            return {"recommended": {"n_views": self.n, "include_identity": False}}

    aug = make_lively(["turn"])
    aug.recommended = {"recommended": {"n_views": 3}}
    found = [ia.TTAModel.recommended(Tiny(), aug, result) for result in (Result(2), Result(None), None)]
    assert [(model.n_views, model.include_identity) for model in found] == [(2, False), (3, True), (3, True)]
    aug.recommended = None
    with pytest.raises(ia.InstaAugError, match=r"nothing says which setting won.*ia\.recommend"):
        ia.TTAModel.recommended(Tiny(), aug, Result(None))


def test_the_best_that_takes_so_many_forwards():
    aug, costs = make_lively(["turn"]), ((4.5, 4), (2.5, 2), (1, 1))
    first, *cheaper = ({"cost": cost, "n_views": n} for cost, n in costs)
    aug.recommended = {"recommended": first, "cheaper": cheaper}
    found = [ia.TTAModel.recommended(Tiny(), aug, max_forwards=most).n_views for most in (None, 9, 4.5, 4, 2.5, 2, 1)]
    assert found == [4, 4, 4, 2, 2, 1, 1]
    for wrong in (0, "2", math.nan):
        with pytest.raises(ia.InstaAugError, match=r"max_forwards: expected a number in \[1, ∞\), or None, got"):
            ia.TTAModel.recommended(Tiny(), aug, max_forwards=wrong)
    aug.recommended = {"recommended": {"n_views": 4}}  # of a file that does not know what it takes
    message = (
        r"max_forwards: got 2\.5, and what is recommended, n_views=4, does not say how many.*; find out.*ia\.recommend"
    )
    with pytest.raises(ia.InstaAugError, match=message):
        ia.TTAModel.recommended(Tiny(), aug, max_forwards=2.5)
    aug.recommended = {"recommended": first, "cheaper": cheaper[:1]}
    with pytest.raises(ia.InstaAugError, match=r"got 2, and of what is recommended the cheapest takes 2\.5 forwards"):
        ia.TTAModel.recommended(Tiny(), aug, max_forwards=2)


def test_a_fit_says_what_to_use_in_fewer_forwards(images):
    """And its file; every setting takes as many as it says."""
    aug = ia.LearnedAugment(["turn"])
    result = ia.fit(aug, Tiny(), images, config=ia.FitConfig(max_steps=2, progress=False), nuisance=["turn"])
    steps = [result.report.recommended, *result.report.cheaper]
    assert steps[-1] is result.report.arms[0] and [arm.cost for arm in steps] == sorted(
        (arm.cost for arm in steps), reverse=True
    )
    assert ia.TTAModel.recommended(Tiny(), aug, result, max_forwards=1).n_views == 1


def test_a_report_is_a_result_too_and_anything_else_is_named():
    """A report of `recommend` was left aside, for what the transform remembered of another time."""
    classifier, images = Tiny(), torch.rand(24, 3, 32, 32)
    aug, other = make_lively(["turn"]), make_lively(["turn"])
    report = ia.recommend(aug, classifier, images, config=ia.FitConfig(progress=False))
    other.recommended = {"recommended": {"n_views": 3}}
    assert ia.TTAModel.recommended(classifier, other, report).n_views == report.to_json()["recommended"]["n_views"] == 1
    with pytest.raises(ia.InstaAugError, match="result: expected what fit or recommend gave back, or None, got dict"):
        ia.TTAModel.recommended(classifier, other, {"n_views": 4})
    with pytest.raises(ia.InstaAugError, match="aug: expected a LearnedAugment, got Tiny.*TTAModel.*classifier, aug"):
        ia.TTAModel.recommended(aug, classifier)


def test_a_model_shows_how_it_averages():
    aug = make_lively(["turn"])
    assert "n_views=3, select='top', aggregate='mean_prob'" in repr(ia.TTAModel(Tiny(), aug, 3))
    fixed = ia.TTAModel(Tiny(), aug, 2, policy={"flip": [0, 1]}, put_right=1)
    assert "n_views=2, policy={'flip': [0.0, 1.0]" in repr(fixed) and "put_right=1, aggregate" in repr(fixed)
    assert "n_views=4, select='top', range_fraction=0.5" in repr(ia.SegmentationTTA(Tiny(), aug, 4, range_fraction=0.5))


def test_crops_are_put_right_too(images):
    """Cut out as φ has it, and then mirrored."""
    model, aug = Tiny(), make_lively(["crop", "hsv"])
    likeliest = aug.distribution(images).select(1, "top").index(0)
    assert (likeliest.w < 1).any()
    crop = aug(images, params=likeliest)
    expected = torch.stack([model(view).softmax(-1) for view in (crop.flip(-1), crop)]).mean(0)
    found = ia.TTAModel(model, aug, 2, policy={"flip": [1.0, 0.0]}, put_right=True)(images)
    assert torch.allclose(found.softmax(-1), expected, atol=1e-5)


@pytest.mark.parametrize("families", [["crop", "turn"], ["crop", "rotate"]])
def test_what_no_policy_can_follow_is_said(families):
    with pytest.raises(ia.InstaAugError, match="put_right: this transform crops and turns"):
        ia.TTAModel(Tiny(), make_lively(families), 2, policy={"flip": [0.0, 1.0]}, put_right=True)


def test_weights_by_size_of_crop_are_applied_to_each_view(images):
    aug, model = make_lively(["crop"]), Tiny()
    log_w = [0.0, 0.3, -1.0, 2.0, 0.0, 0.5]
    found = ia.TTAModel(model, aug, 4, aggregate="weighted", scale_weights=log_w)(images)
    params = choose_views(aug.distribution(images), 4)
    side = (params.w * params.h).sqrt()
    w = torch.tensor(log_w)[(side[..., None] > torch.tensor([0.3, 0.5, 0.7, 0.85, 0.98])).sum(-1)].exp()  # (4, B)
    answers = torch.stack([model(aug(images, params=params.index(k))).softmax(-1) for k in range(4)])
    expected = (w[..., None] * answers).sum(0) / w.sum(0)[:, None]
    assert torch.allclose(found.softmax(-1), expected, atol=1e-5)
