"""What an arm costs images that nothing disturbed, all of them and class by class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning.harm import _chance, certainly, class_that_pays, costs_others, lost, unsettles
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.recommendation import choose_arm, conclude
from instaaug_transforms.learning.report import HeldOutArm
from instaaug_transforms.learning.scores import ClassScores


def arm(name, right, undisturbed=None, loss=1.0, as_they_are=None):
    """Of every image one copy; a loss of one's own where ``right`` is None."""
    n = len(undisturbed if right is None else right)
    nll = np.broadcast_to(loss, n).astype(float)
    return HeldOutArm(name, 1, 1, right, nll, {}, undisturbed=undisturbed, undisturbed_nll=as_they_are)


def shares(n, lost, known=None):
    """Right answers on images as they are: all but ``lost``; NaN beyond the first ``known``."""
    values = (np.arange(n) >= lost).astype(float)
    values[n if known is None else known :] = np.nan
    return values


@pytest.mark.parametrize(
    ("n", "less", "refused"),
    [
        (100, 2, False),  # 2.0 points, 1.4 standard errors
        (100, 5, True),  # 5.0 points, 2.3
        (40, 2, True),  # 5.0 points, 1.45: probable, and much
        (40, 1, False),  # 2.5 points, 1.01: probable, and little
        (20, 1, True),  # 5.0 points, 1.03
        (400, 8, True),  # 2.0 points, 2.9
    ],
)
def test_what_is_lost_for_certain_or_probably_and_much_is_refused(n, less, refused):
    single = arm("one view", np.zeros(n, bool), shares(n, 0))
    other = arm("ours", np.ones(n, bool), shares(n, less))
    assert lost(other, single).mean() == pytest.approx(less / n)
    assert costs_others(other, single) == refused
    assert (choose_arm([single, other]) is other) == (not refused)


@pytest.mark.parametrize(
    ("n", "less", "worth", "refused"),
    [
        (400, 8, None, True),  # labels
        (400, 8, 1.0, True),  # 2.0 points, 2.9 standard errors; the classifier is sure of its answers
        (400, 8, 0.3, True),  # 0.6 points
        (400, 8, 0.2, False),  # 0.4 points
        (2000, 9, None, False),  # 0.45 points, 3.0 standard errors
        (2000, 11, None, True),
        (40, 2, 0.01, True),  # so few that 5 points of other answers are probably many
    ],
)
def test_half_a_point_is_tolerated_as_far_as_the_classifier_can_tell(n, less, worth, refused):
    """Of answers that are nearly as probable to it, either will do: photographs that it knows by half changed many, and lost few."""
    single = arm("one view", np.zeros(n, bool), shares(n, 0))
    other = arm("ours", np.ones(n, bool), shares(n, less))
    if worth is not None:
        believed = np.full(n, 0.9)
        believed[-1] = np.nan  # disturbed in all of its copies
        single = replace(single, believed=believed)
        other = replace(other, believed=believed - worth * (np.arange(n) < less))
    assert costs_others(other, single) == refused


@pytest.mark.parametrize(
    ("n", "less", "rise", "refused"),
    [
        (50, 1, 0.35, True),  # 2.0 points, one standard error: up to 6 may be lost
        (50, 0, 0.35, False),  # surer or not, no answer changed
        (50, 1, 0.05, False),  # little
        (50, 1, 0.0, False),
        (1000, 2, 0.35, False),  # 0.2 points, 0.5 at most: it is known what that costs
    ],
)
def test_a_few_images_that_are_answered_less_surely_are_enough_to_refuse(n, less, rise, refused):
    """Averages with a wrong turn lost 7 to 9 of 100 upright digits; of 52 held-out ones none, or one, was lost."""
    noise = np.tile([-0.3, 0.3], n // 2)
    single = arm("one view", np.zeros(n, bool), shares(n, 0), as_they_are=np.full(n, 0.2))
    other = arm("ours", np.ones(n, bool), shares(n, less), as_they_are=0.2 + rise + noise)
    assert not costs_others(other, single)
    assert (unsettles(other, single) == pytest.approx(rise)) if refused else (unsettles(other, single) == 0)
    assert (choose_arm([single, other]) is other) == (not refused)
    notes = conclude([single, other], n, True).notes
    assert any("is less sure of images that nothing disturbed (NLL +0.35)" in note for note in notes) == refused


@pytest.mark.parametrize(("worse", "refused"), [(0.0, False), (0.02, False), (0.06, True), (2.0, True)])
def test_a_loss_of_ones_own_is_guarded_as_accuracy_is(worse, refused):
    """Errors of a regression: on all images 0.5 lower, on those as they were higher; standard error 0.015."""
    noise = np.tile([-0.15, 0.15], 50)
    single = arm("one view", None, loss=np.full(100, 1.0), undisturbed=np.zeros(100), as_they_are=np.full(100, 0.3))
    other = arm("ours", None, loss=np.full(100, 0.5), undisturbed=np.zeros(100), as_they_are=0.3 + worse + noise)
    single, other = (
        HeldOutArm(a.name, 1, 1, None, a.nll, {}, undisturbed_nll=a.undisturbed_nll) for a in (single, other)
    )
    assert costs_others(other, single) == refused
    report = conclude([single, other], 100, True)
    assert (report.recommended is single) == refused
    said = f"images that nothing disturbed have a loss that is larger by {worse:.3g} ["
    assert (said in str(report)) == (worse > 0)
    assert "images as they are, below one view" in str(report)
    assert report.rows()[1]["undisturbed"] == pytest.approx(-worse)


@pytest.mark.parametrize("level", [3.0, -3.0])
@pytest.mark.parametrize(("worse", "refused"), [(0.25, False), (0.35, True)])
def test_a_tenth_of_a_negative_loss_is_a_tenth_too(level, worse, refused):
    """A log-density of one's own may be negative; standard error 0.2, so that neither is certain."""
    noise = np.tile([-2.0, 2.0], 50)
    single, other = (
        HeldOutArm(name, 1, 1, None, np.full(100, loss), {}, undisturbed_nll=as_they_are)
        for name, loss, as_they_are in (
            ("one view", level, np.full(100, level)),
            ("ours", level - 1, level + worse + noise),
        )
    )
    assert costs_others(other, single) == refused
    assert (choose_arm([single, other]) is single) == refused


def test_a_loss_that_falls_is_not_called_larger():
    noise = np.tile([-0.15, 0.15], 30)
    single, other = (
        HeldOutArm(name, 1, 1, None, np.full(60, loss), {}, undisturbed_nll=as_they_are)
        for name, loss, as_they_are in (("one view", 1.0, np.full(60, 0.3)), ("ours", 0.5, 0.2 + noise))
    )
    (note,) = [note for note in conclude([single, other], 60, True).notes if "nothing disturbed" in note]
    assert note.startswith("images that nothing disturbed have a loss that is lower by 0.1 [0.0")


@pytest.mark.parametrize(
    ("rise", "of", "refused"), [(0.008, 50, False), (0.012, 50, True), (0.02, 2, False), (0.4, 2, True)]
)
def test_own_outputs_may_move_a_little(rise, of, refused):
    """Targets are the model's own outputs, so that one view has no loss and any other a certain one: rises on some of 50 images, below
    or above what is tolerated."""
    left = np.where(np.arange(50) < of, rise, 0.0)
    single, other = (
        HeldOutArm(name, 1, 1, None, np.full(50, loss), {}, undisturbed_nll=as_they_are, tolerated=0.01)
        for name, loss, as_they_are in (("one view", 0.3, np.zeros(50)), ("ours", 0.01, left))
    )
    assert costs_others(other, single) == refused
    assert (conclude([single, other], 50, False).recommended is single) == refused
    strict = [replace(arm, tolerated=0.0) for arm in (single, other)]
    assert costs_others(strict[1], strict[0])


@pytest.mark.parametrize("k", [0, 1, 5, 9])
def test_chance_is_that_of_a_sign_test(k):
    assert _chance(k, 9 - k) == pytest.approx(binomtest(k, 9, 0.5, alternative="greater").pvalue)


def test_the_class_that_pays():
    """Of ten classes of 20 images, class 3 loses some answers, and the others gain as many."""
    classes = np.repeat(np.arange(10), 20)
    single = arm("one view", np.arange(200) % 20 > 1, None, loss=2.0)

    def other(less):
        right = np.ones(200, bool)
        right[60 : 60 + less] = False
        return arm("ours", right, None)

    assert class_that_pays(other(2), single, classes) is None  # they were wrong before
    assert class_that_pays(other(6), single, classes) is None  # of 18 right answers 4, which may be chance
    assert class_that_pays(other(10), single, classes) == (3, pytest.approx(0.4), 20, False)
    assert class_that_pays(other(13), single, classes) == (
        3,
        pytest.approx(0.55),
        20,
        True,
    )  # 10 · 0.5 ** 11 < 0.025 < 10 · 0.5 ** 8
    assert class_that_pays(other(13), single, None) is None
    undisturbed = np.where(classes == 3, np.nan, 1.0)  # no image of it is as it was
    at_rest = [HeldOutArm("", 1, 1, one.correct, one.nll, {}, undisturbed=undisturbed) for one in (single, other(13))]
    assert class_that_pays(at_rest[1], at_rest[0], classes) is None
    report = conclude([single, better := other(13)], 200, True, classes)
    assert report.recommended is single and choose_arm([single, better]) is better
    # 18 were right, and 7 are: of 20 images 11 fewer, of the right answers more.
    said = "gains 3.5 points on all, but images of class 3 are right 55 points less often by it (20 held-out images)"
    assert said in str(report)


def test_a_rare_class_is_named_though_it_proves_nothing():
    classes = np.array([0] * 60 + [2] * 40 + [1] * 3)
    undisturbed = np.ones(103)
    single = arm("one view", np.arange(103) >= 40, undisturbed, loss=2.0, as_they_are=np.ones(103))
    after = undisturbed.copy()
    after[100:102] = 0
    right = np.ones(103, bool)
    right[100:102] = False
    ours = arm("ours", right, after, loss=0.5, as_they_are=np.ones(103))
    report = conclude([single, ours], 103, False, classes)
    assert report.recommended is ours
    assert "images of class 1 are right 67 points less often by it (3 held-out images)" in str(report)
    assert "images that nothing disturbed get another answer than before in 1.9 % of cases [" in str(report)


@pytest.mark.parametrize(
    ("counts", "known", "said"),
    [
        ((30, 20, 3), None, "of class 2 only 3 images were held out"),
        ((50, 40), 52, "of class 1 only 2 such images were held out"),
        ((50, 5), None, ""),
        ((3, 3, 3, 3, 40), None, ""),  # as of a thousand classes, of which one cannot know
    ],
)
def test_a_class_of_which_little_is_known_is_named(counts, known, said):
    classes = np.repeat(np.arange(len(counts)), counts)
    n = len(classes)
    undisturbed = None if known is None else shares(n, 0, known)
    single = arm("one view", np.arange(n) % 2 > 0, undisturbed, loss=2.0)
    ours = arm("ours", np.ones(n, bool), undisturbed, loss=0.5)
    report = conclude([single, ours], n, True, classes)
    assert report.recommended is ours
    assert (said or "only") in str(report) if said else "were held out: what" not in str(report)


def test_what_a_few_images_cannot_tell_is_said():
    single = arm("one view", np.arange(30) < 10, shares(30, 0, 15), as_they_are=np.ones(30))
    ours = arm("ours", np.ones(30, bool), shares(30, 0, 15), loss=0.2, as_they_are=np.ones(30))
    said = "of images that nothing disturbed 15 were held out and none lost by it; up to 20 points could be lost"
    assert said in str(conclude([single, ours], 30, False))
    luck = arm("ours", np.arange(30) < 13, shares(30, 0, 15), loss=1.0, as_they_are=np.ones(30))
    report = conclude([single, luck], 30, False)
    assert report.recommended is single
    assert "ours, K = 1, is right 10.0 points more often, which may be chance with 30 held-out images" in str(report)


@pytest.mark.parametrize("known", [99, 100])
def test_hundred_images_of_which_none_lost_need_no_remark(known):
    single = arm("one view", np.arange(200) < 100, shares(200, 0, known), as_they_are=np.ones(200))
    ours = arm("ours", np.ones(200, bool), shares(200, 0, known), loss=0.2, as_they_are=np.ones(200))
    assert ("none lost by it" in str(conclude([single, ours], 200, False))) == (known < 100)


@pytest.mark.parametrize(("errors", "certain"), [(1.9, False), (2.1, True), (-2.1, False)])
def test_certain_is_two_standard_errors_of_paired_differences(errors, certain):
    noise = np.tile([1.0, -1.0], 50)  # of 100, a standard error of 0.1
    shared = np.random.default_rng(0).normal(0, 5, 100)
    assert certainly(shared + noise + errors / 10, shared) == certain


@pytest.mark.parametrize(
    ("wrong", "said"), [(1, "lose 0.0 points by it [-"), (3, "gain 13.3 points by it [-13.3, 40.0]")]
)
def test_none_lost_is_said_where_none_lost(wrong, said):
    """Of 15 images that nothing disturbed, one is wrong that was right; ``wrong`` are right that were wrong."""
    before, after = shares(30, wrong, 15), shares(30, 0, 15)
    after[14] = 0
    single = arm("one view", np.arange(30) < 10, before)
    ours = arm("ours", np.ones(30, bool), after, loss=0.2)
    report = conclude([single, ours], 30, True)
    assert report.recommended is ours and "none lost" not in str(report)
    assert f"images that nothing disturbed {said}" in str(report)


class Shifted(nn.Module):
    """Right, and sure, for labels that are one off."""

    def forward(self, images):
        return 9 * torch.eye(5)[(images.mean((1, 2, 3)) * 5).long().clamp(0, 4)]


def test_labels_in_another_order_recommend_nothing(caplog):
    torch.manual_seed(0)
    labels = torch.arange(200) % 5
    images = (labels[:, None, None, None] + 0.5).expand(-1, 3, 16, 16) / 5 + 0.02 * torch.randn(200, 3, 16, 16)
    images = images.clamp(0, 1)
    for off, doubted in ((1, True), (0, False)):
        caplog.clear()
        aug = ia.LearnedAugment(["turn"])
        config = ia.FitConfig(max_steps=20, progress=False)
        report = ia.fit(aug, Shifted(), (images, (labels + off) % 5), config=config).report
        assert report.recommended.name == "one view"
        assert ("the labels do not match the classifier's classes" in str(report)) == doubted
        assert sum("do not match" in record.getMessage() for record in caplog.records) == doubted


class Bright(nn.Module):
    """Dark or bright, for sure."""

    def forward(self, images):
        z = 60 * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-z, z], 1)


def test_two_classes_that_are_swapped_recommend_nothing():
    """All made bright, or dark, half of them are right, and none as they are: of two classes that is guessing."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    images = 0.35 + 0.4 * labels[:, None, None, None] + 0.1 * torch.rand(200, 3, 8, 8)
    config = ia.FitConfig(max_steps=20, progress=False)
    aug = ia.LearnedAugment(
        ["light"], predictor="global"
    )  # one that looks could turn dark into bright, and bright into dark
    report = ia.fit(aug, Bright(), (images, 1 - labels), config=config).report
    assert max(arm.correct.mean() for arm in report.arms) > 0.4
    assert report.recommended.name == "one view" and "the labels do not match the classifier's classes" in str(report)


def test_what_is_below_guessing_says_that_labels_match():
    """Of twenty classes a surely wrong view is no better than guessing, and another is right four times as often."""
    rng = np.random.default_rng(0)
    single = arm("one view", rng.random(100) < 0.08, None, loss=3.0)
    right = rng.random(100) < 0.3
    ours = arm("ours", right, None, loss=np.where(right, 1.5, 2.9))
    said = "the labels do not match"
    images = LabelledImages(torch.zeros(100, 1), torch.arange(100) % 20)
    plain = Rows(None, 100, (20,), torch.float32, 100, {})
    plain.put(slice(0, 100), 20 * torch.eye(20)[(torch.arange(100) + 1) % 20])
    doubt = ClassScores(Prepared(images, 1, {"plain": plain}, torch.device("cpu"))).doubt()
    assert said in doubt[0] and doubt[1] == pytest.approx(np.log(20))
    report = conclude([single, ours], 100, True, None, doubt)
    assert report.recommended is ours and said not in str(report)


def test_maps_have_no_report_however_small(caplog):
    """Maps move with the views; an average of them as they are would be judged."""

    class Mapper(nn.Module):
        def forward(self, images):
            return images[:, :2]

    def loss(maps, targets):
        return nn.functional.cross_entropy(maps, targets, reduction="none").flatten(1).mean(1)

    images = torch.rand(40, 3, 8, 8)
    config = ia.FitConfig(max_steps=4, progress=False)
    result = ia.fit(
        ia.LearnedAugment(["turn"]), Mapper(), (images, (images[:, 0] > 0.5).long()), config=config, loss=loss
    )
    assert result.report is None and "report: none" in caplog.text
