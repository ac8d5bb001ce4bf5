"""Which of several arms is recommended: never what chance alone made look better."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from instaaug_transforms.learning.recommendation import choose_arm, conclude
from instaaug_transforms.learning.report import HeldOutArm


def arm(name, k, correct, nll, setting=True):
    correct = np.array(correct, dtype=bool)
    return HeldOutArm(name, k, k, correct, np.broadcast_to(nll, correct.shape), {} if setting else None)


def test_one_view_is_recommended_unless_another_is_better_than_chance():
    n = 400
    noise = np.random.default_rng(0).normal(0, 0.5, n)
    noise -= noise.mean()
    right = np.arange(n) < 200
    plain = arm("one view", 1, right, 1.0)
    # Standard error 0.025: a saving of 0.04 may be luck, one of 0.06 is not.
    assert choose_arm([plain, arm("ours", 2, right, 0.96 + noise)]) is plain
    better = arm("ours", 2, right, 0.94 + noise)
    assert choose_arm([plain, better]) is better
    assert choose_arm([plain, arm("ours", 2, np.arange(n) < 190, 0.94 + noise)]) is plain  # surer, and more often wrong
    near, best = arm("ours", 1, right, 0.51), arm("ours", 4, right, 0.5 + noise)
    assert choose_arm([plain, near, best]) is near  # less than half a standard error, which is 0.0125
    assert choose_arm([plain, arm("ours", 1, right, 0.516), best]) is best
    for least, taken in ((0.0008, 1), (0.0012, 4)):  # of no spread at all
        assert choose_arm([plain, arm("ours", 1, right, 0.5 + least), arm("ours", 4, right, 0.5)]).n_views == taken
    assert choose_arm([plain, arm("ours", 1, np.arange(n) < 199, 0.51), best]) is best  # right less often
    assert choose_arm([plain, arm("ours", 1, np.arange(n) < 201, 0.51), best]).n_views == 1
    for more, taken in ((20, True), (5, False)):  # by a coin 20 of 20 come once in a million times, 5 of 5 once in 32
        dear = arm("ours", 10, np.arange(n) < 200 + more, 0.56 + noise)
        assert (choose_arm([plain, best, dear]) is dear) == taken
    fixed = arm("best input-free", 2, right, 0.94 + noise)
    assert choose_arm([plain, better, fixed]) is fixed
    assert choose_arm([plain, better, arm("most confident candidate", 1, right, 0.1, setting=False)]) is better


def test_one_that_is_righter_by_chance_does_not_hide_one_that_is_so_for_certain():
    """20 became right and none wrong: 4.6 standard errors. 121 became right and 100 wrong, one more in all: 1.4."""
    right = np.arange(400) < 200
    plain, low = arm("one view", 1, right, 1.0), arm("ours", 4, right, 0.5)
    certain = arm("ours", 2, np.arange(400) < 220, 0.6)
    perhaps = arm("best input-free", 10, (np.arange(400) >= 100) & (np.arange(400) < 321), 0.6)
    assert choose_arm([plain, low, perhaps]) is low
    assert choose_arm([plain, low, certain, perhaps]) is certain


def test_what_is_right_as_often_is_so_to_the_last_digit():
    """Shares of three copies each, the same ones of other images: in single precision their means differ."""
    plain = HeldOutArm("one view", 1, 1, np.zeros(100, np.float32), np.ones(100), {})
    for seed in range(20):
        random = np.random.default_rng(seed)
        shares = (random.integers(0, 4, 100) / 3).astype(np.float32)
        cheap, dear = (
            HeldOutArm("ours", k, k, random.permutation(shares), np.full(100, nll), {})
            for k, nll in ((1, 0.5), (4, 0.4995))
        )
        assert choose_arm([plain, cheap, dear]) is cheap


def test_accuracy_speaks_where_losses_are_too_noisy_to():
    """Of 500 images 115 are right, and by another arm 24 more; its NLL is lower by a fifth of what chance moves it."""
    n, single = 500, np.arange(500) < 115
    noise = np.random.default_rng(0).normal(0, 2, n)
    noise -= noise.mean()
    plain = arm("one view", 1, single, 3.5)
    for k, recommended in ((24, True), (3, False)):  # 24 more are two standard errors, 3 are not: √24 / 500, √3 / 500
        more = single.copy()
        more[120 : 120 + k] = True
        more[: (k == 3) * 2] = False
        other = arm("best input-free", 2, more, 3.48 + noise)
        assert (choose_arm([plain, other]) is other) == recommended
    worse = arm("best input-free", 2, np.arange(n) < 139, 3.52 + noise)
    assert choose_arm([plain, worse]) is plain  # more often right, and less sure where it matters


@pytest.mark.parametrize("n", [100, 200, 1000])
def test_four_that_became_right_and_none_that_became_wrong_are_chance(n):
    """Whatever n, they are two standard errors; a coin gives them once in 16 times, six once in 64."""
    noise = np.random.default_rng(0).normal(0, 0.5, n)
    noise -= noise.mean()
    plain = arm("one view", 1, np.arange(n) < 80, 1.0)
    for more, chance in ((4, 1 / 16), (6, 1 / 64)):
        righter = arm("ours", 1, np.arange(n) < 80 + more, 0.99 + noise)
        gain = righter.correct.astype(float) - plain.correct
        assert gain.mean() > 2 * gain.std() / math.sqrt(n)
        assert chance == pytest.approx(scipy.stats.binomtest(more, more, alternative="greater").pvalue)
        enough = chance < scipy.stats.norm.sf(2)
        assert (choose_arm([plain, righter]) is righter) == enough
        (*_, note) = conclude([plain, righter], n, True).notes or [""]
        said = f"ours, K = 1, is right {100 * more / n:.1f} points more often, which may be chance with {n} held-out images; several"
        assert (said in note) == (not enough)


def test_what_may_be_better_is_not_called_as_good():
    n, right = 400, np.arange(400) < 300
    plain = arm("one view", 1, right, 1.0)
    noise = np.random.default_rng(0).normal(0, 0.5, n)
    noise -= noise.mean()
    maybe = arm("ours", 2, (np.arange(n) < 308) & (np.arange(n) > 2), 0.99 + noise)  # 8 became right, 3 wrong
    first, second = conclude([plain, maybe], n, True).notes
    assert first == "looking does not pay here: nothing is better for certain; use the classifier as it is"
    assert second.startswith(
        "ours, K = 2, is right 1.2 points more often, which may be chance with 400 held-out images"
    )
    for other in (arm("ours", 2, right, 0.99 + noise), replace(maybe, nll=1.01 + noise), replace(maybe, setting=None)):
        assert conclude([plain, other], n, True).notes == [
            "looking does not pay here: one plain view is as good as any average; use the classifier as it is"
        ]
    left = np.where(np.arange(n) < 100, 1.0, np.nan)
    single, lost = replace(plain, undisturbed=left), np.where(np.arange(n) < 20, 0.0, left)
    costly = conclude([single, replace(maybe, undisturbed=lost)], n, True).notes
    assert not any("may be chance" in note for note in costly)


def known(nll, correct=None):
    """An arm on more images."""
    return HeldOutArm("", 0, 0, correct, nll)


def test_images_that_phi_learned_from_help_to_tell_fixed_views_apart():
    n = 100
    noise = np.random.default_rng(0).normal(0, 0.5, n)
    noise -= noise.mean()
    right, more = np.arange(n) < 50, np.tile(noise, 9)
    plain = replace(arm("one view", 1, right, 1.0), more=known(np.ones(9 * n)))
    unsure = arm("best input-free", 4, right, 0.93 + noise)  # standard error 0.05; of all images 0.016
    assert choose_arm([plain, unsure]) is plain
    assert choose_arm([plain, sure := replace(unsure, more=known(0.93 + more))]) is sure
    # What was memorised does not recommend what held-out images speak against.
    assert choose_arm([plain, replace(arm("best input-free", 4, right, 1.05 + noise), more=known(0.5 + more))]) is plain
    cheap = replace(arm("best input-free", 2, right, 0.96 + noise[::-1]), more=known(0.96 + more[::-1]))
    assert choose_arm([plain, cheap, sure]) is sure
    assert choose_arm([plain, replace(cheap, more=None), replace(sure, more=None)]) is plain


def test_answers_for_images_that_phi_learned_from_count_too():
    """Of 100 held-out images 5 become right and 1 wrong; of 400 others, of which an arm looks at none, 20 and 4."""
    right, more, ones, noise = (
        np.arange(100) < 50,
        np.arange(400) < 200,
        np.ones(400),
        np.random.default_rng(0).normal(0, 1, 500),
    )
    changed, more_changed = right.copy(), more.copy()
    changed[49:55], more_changed[196:220] = [False] + 5 * [True], 4 * [False] + 20 * [True]
    plain = replace(arm("one view", 1, right, 1.0), more=known(ones, more))
    better = arm("best input-free", 2, changed, 0.99 + noise[:100] - noise[:100].mean())
    nll = 0.99 + noise[100:] - noise[100:].mean()
    assert choose_arm([plain, better]) is plain
    better = replace(better, more=known(nll, more_changed))
    assert choose_arm([plain, better]) is better
    (note,) = (note for note in conclude([plain, better], 100, True).notes if "400 images that φ learned from" in note)
    assert "+4.0 points are right [+1." in note
    assert choose_arm([plain, replace(better, more=known(nll, more))]) is plain


def test_what_zooms_cost_is_not_made_good_by_images_that_were_not_zoomed():
    """8 of 100 held-out answers become wrong; on more images, where φ alone is known, 12 become right: in all 4 more are."""
    right, wrong = np.arange(100) < 70, np.arange(100) < 62
    plain = replace(arm("one view", 1, right, 1.0), more=known(np.ones(100), right))
    surer = replace(arm("ours", 10, wrong, 0.5), more=known(np.full(100, 0.5), np.arange(100) < 82))
    zoomed = replace(surer, setting={"put_right": 1})
    assert choose_arm([plain, surer]) is surer  # of these views themselves all of it is known
    assert choose_arm([plain, zoomed]) is plain
    kept = replace(zoomed, correct=right)
    assert choose_arm([plain, kept]) is kept
    for each, how in ((surer, "each seen by"), (kept, "each put right, without the further views, by")):
        assert sum(f"{how} a φ that did not learn" in note for note in conclude([plain, each], 100, True).notes) == 1


@pytest.mark.parametrize(("n", "said"), [(100, "1.0 % of cases"), (300, "0.5 % of cases")])
def test_what_zooms_cost_is_said_of_the_images_that_were_zoomed(n, said):
    """Of 100 held-out images two get another answer; of 300 more none, of which n were looked at."""
    gained, same, left = np.arange(100) < 50, np.ones(100), np.arange(100) >= 2
    more = [replace(known(np.ones(300), np.arange(300) < m), undisturbed=np.ones(300)) for m in (100, 160)]
    more[1].undisturbed[n:] = np.nan
    plain = replace(arm("one view", 1, np.arange(100) < 30, 1.0), undisturbed=same, more=more[0])
    zoomed = HeldOutArm("ours", 2, 2, gained, same / 2, {"put_right": 1}, more[1], undisturbed=left)
    (note,) = (note for note in conclude([plain, zoomed], 100, False).notes if "that nothing disturbed" in note)
    assert said in note and f"({100 + n} images)" in note


def test_who_is_sure_of_wrong_answers_is_judged_by_how_many_are_right():
    """All NLL are that of guessing, ln 2."""
    plain = arm("one view", 1, np.arange(200) < 50, math.log(2))
    for more, better in ((100, True), (52, False)):
        other = arm("ours", 1, np.arange(200) < more, math.log(2) + 1e-5)
        assert (choose_arm([plain, other]) is other) == better
    assert choose_arm([plain, arm("ours", 1, np.arange(200) < 100, math.log(2) + 0.1)]) is plain


def test_few_images_must_tell_more():
    """Of 12 images and of 120 the saving is 2.5 standard errors."""
    for n, enough in ((12, False), (120, True)):
        noise = np.random.default_rng(0).normal(0, 0.5, n)
        noise = (noise - noise.mean()) / noise.std() * math.sqrt(n) / 2.5
        right = np.arange(n) < n // 2
        plain, other = arm("one view", 1, right, 3.0), arm("ours", 2, right, 2.0 + noise)
        assert (choose_arm([plain, other]) is other) == enough
        righter = np.arange(n) < n // 2 + n // 4
        assert (choose_arm([plain, arm("ours", 2, righter, 2.0 + noise)]) is plain) != enough
        # Probabilities that are better for certain, and answers that are no righter.
        assert (choose_arm([plain, sure := arm("ours", 1, right, 1.0)]) is sure) == enough
        report = str(conclude([plain, arm("ours", 1, righter, 1.0)], n, True))
        assert (f"{n} held-out images tell large" in report) == (not enough) and "recommended: ours" in report


def own(name, k, nll, n=400, **more):
    """An arm of a fit with a loss of one's own."""
    return HeldOutArm(name, k, k, None, np.broadcast_to(nll, (n,)).astype(float), {}, **more)


def test_where_guessing_has_a_lower_nll_than_one_view_accuracy_alone_is_evidence():
    """A lower NLL and 4 of 200 answers more are taken from a classifier that knows how sure to be, 40 more from the other too."""
    for gained, tells, taken in ((4, True, True), (4, False, False), (40, False, True), (40, True, True)):
        plain = replace(arm("one view", 1, np.arange(200) < 100, 1.0), nll_tells=tells)
        other = replace(arm("ours", 2, np.arange(200) < 100 + gained, 0.5), nll_tells=tells)
        assert (choose_arm([plain, other]) is other) == taken


def test_of_losses_of_ones_own_a_thousandth_is_material():
    """Of a loss of 50, or of −50, a twentieth; less is rounding, however certain."""
    for level in (50.0, -50.0):
        single = own("one view", 1, level)
        for saving, better in ((0.049, False), (0.051, True)):
            other = own("ours", 2, level - saving)
            assert (choose_arm([single, other]) is other) == better
    for saving, better in ((0.0009, False), (0.0011, True)):
        plain, other = (
            arm("one view", 1, np.arange(400) < 200, 50.0),
            arm("ours", 2, np.arange(400) < 200, 50.0 - saving),
        )
        assert (choose_arm([plain, other]) is other) == better


def test_of_arms_as_good_the_cheapest_and_of_these_the_one_that_does_not_look():
    single = own("one view", 1, 1.0)
    ours, fixed, dear = own("ours", 2, 0.5), own("best input-free", 2, 0.5), own("best input-free", 4, 0.5)
    assert choose_arm([single, dear, ours, fixed]) is fixed and choose_arm([single, dear, ours]) is ours
    better = own("ours", 2, 0.4)
    assert choose_arm([single, fixed, better]) is better
    shown = HeldOutArm("most confident candidate", 1, 9, None, np.full(400, 0.1), None)
    assert choose_arm([single, shown]) is single and choose_arm([single, shown, ours]) is ours


def test_what_is_noted_of_a_recommendation():
    right = np.arange(400) < 200
    single, ours, fixed = (
        arm("one view", 1, right, 1.0),
        arm("ours", 2, np.arange(400) < 300, 0.5),
        arm("best input-free", 2, np.arange(400) < 300, 0.5),
    )

    def notes(*arms, n=400, labelled=True):
        return conclude(list(arms), n, labelled)

    assert notes(ours, single).notes == [] and notes(ours, single).recommended is ours
    assert [one.name for one in notes(ours, fixed, single).arms] == ["one view", "best input-free", "ours"]
    assert notes(single).notes == [
        "looking does not pay here: one plain view is as good as any average; use the classifier as it is"
    ]
    assert notes(single, fixed).notes == [
        "looking does not pay here: the same views for every image are as good, and need no φ"
    ]
    few = notes(single, ours, n=9)
    assert (
        few.recommended is single and few.notes[0].startswith("only 9 held-out images: too few") and len(few.notes) == 1
    )
    assert notes(single, ours, n=10).recommended is ours
    some = notes(single, ours, n=99).notes
    assert some == ["99 held-out images tell large differences alone; with 100 or more a small gain is no luck"]
    assert notes(single, ours, n=100).notes == []
    put = notes(single, replace(ours, setting={"put_right": 1})).notes
    assert put == ["φ puts each image right, and the same views of what comes of it are averaged"]
    assert notes(single, replace(ours, setting={"put_right": 0})).notes == []
    same = notes(single, arm("ours", 2, right, 0.5)).notes
    assert same == [
        "answers are right no more often than chance has it; their probabilities are better, at 2 forwards an image"
    ]
    against = [notes(single, labelled=labelled).against for labelled in (True, False)]
    assert against == ["labels", "the classifier's own answers"]
    numbers = [notes(own("one view", 1, 1.0), labelled=labelled).against for labelled in (True, False)]
    assert numbers == ["targets", "the model's own outputs"] and notes(single, ours).n_images == 400


def test_the_standard_error_is_that_of_paired_differences():
    """Two arms whose noise is the same differ for certain; whose noise is opposite, by chance."""
    noise = np.random.default_rng(0).normal(0, 1, 400)
    noise -= noise.mean()
    right = np.arange(400) < 200
    single = arm("one view", 1, right, 1.0 + noise)
    alike, opposite = arm("ours", 2, right, 0.9 + noise), arm("ours", 2, right, 0.9 - noise)
    assert choose_arm([single, alike]) is alike and choose_arm([single, opposite]) is single


def test_a_lower_nll_alone_is_no_evidence_unless_accuracy_leans_the_same_way():
    """Of 400 images 9 are lost and 12 won: 3 more, where chance moves it by √21; then 11 won: 2 more, √20; or none changes."""
    right = np.arange(400) < 200
    single = arm("one view", 1, right, 1.0)
    for lost, won, fine in ((9, 12, True), (9, 11, False), (0, 0, True), (12, 9, False)):
        other = right.copy()
        other[:lost], other[200 : 200 + won] = False, True
        better = arm("ours", 2, other, 0.5)
        assert (choose_arm([single, better]) is better) == fine


def test_averages_that_hedge_are_not_recommended_to_who_is_sure_of_wrong_answers():
    """A vote of two halves what wrong answers cost (closed form: ln 2 in place of 20 nats), and is right of fewer images."""
    right = np.arange(300) < 200
    tied = right & (np.arange(300) % 10 != 0)  # a tenth of the right answers is outvoted
    single = arm("one view", 1, right, np.where(right, 0.0, 20.0))
    hedging = arm("ours", 2, tied, np.where(right, 0.1, np.log(2)))
    assert choose_arm([single, hedging]) is single


@pytest.mark.parametrize(
    ("n", "others", "nearly"), [(200, 0, True), (200, 4, True), (200, 5, False), (20, 1, True), (20, 2, False)]
)
def test_images_of_one_class_prove_nothing(n, others, nearly):
    """To make any image look like that class is right of all of these, and wrong of all others."""
    classes = np.where(np.arange(n) < others, 1, 3)
    plain, makes_it_so = arm("one view", 1, np.arange(n) < n // 3, 1.0), arm("ours", 1, np.arange(n) >= others, 0.1)
    report = conclude([plain, makes_it_so], n, True, classes)
    assert (report.recommended is plain) == nearly
    said = f"{n - others} of {n} held-out images are of class 3: what others would lose is not known"
    assert (said in str(report)) == nearly
    assert conclude([plain, makes_it_so], n, True).recommended is makes_it_so  # of numbers there are no classes


def test_what_would_be_recommended_in_fewer_forwards():
    """As if the dearer rows were not there."""
    right = np.arange(400) < 200
    plain = arm("one view", 1, right, 1.0)
    worse = arm("ours", 3, right, 1.2)
    rows = [arm("ours", k, right, nll) for k, nll in ((10, 0.5), (4, 0.6), (2, 0.7))]
    fixed = arm("best input-free", 2, right, 0.65)
    report = conclude([plain, worse, *rows, fixed], 400, True)
    assert report.recommended is rows[0] and report.cheaper == [rows[1], fixed, plain]
    assert conclude([plain, worse], 400, True).cheaper == []
    free = replace(arm("ours", 1, right, 0.8), cost=1)  # one view too, but of another crop, say
    assert conclude([plain, free], 400, True).cheaper == [plain]
