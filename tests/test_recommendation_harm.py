"""Images that others pay for: what is refused, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest

from instaaug_transforms.learning.recommendation import choose_arm, conclude

from .test_recommendation import arm


def test_images_as_they_are_do_not_pay_for_others():
    """Of 400 images the disturbed half gains; of the others 20, or 2, are no longer right."""
    n, left = 400, np.arange(400) >= 200

    def of_left(values):
        return np.where(left, values, np.nan).astype(float)

    single = arm("one view", 1, left, np.where(left, 0.1, 2.0))
    single = replace(single, undisturbed=of_left(1.0), undisturbed_nll=of_left(0.1))
    for lost, spared in ((20, False), (2, True)):
        right = np.arange(n) < n - lost
        ours = arm("ours", 1, right, np.where(left, 0.2, 0.5))
        ours = replace(ours, undisturbed=of_left(right), undisturbed_nll=of_left(0.2))
        gentle = replace(
            arm("ours", 4, left | (np.arange(n) < 60), np.where(left, 0.1, 1.5)),
            undisturbed=of_left(1.0),
            undisturbed_nll=of_left(0.1),
        )
        assert choose_arm([single, ours]) is (ours if spared else single)
        assert choose_arm([single, ours, gentle]) is (ours if spared else gentle)
        assert choose_arm([single, ours, gentle], at_any_cost=True) is ours
        for labelled, what in (
            (True, "lose 10.0 points by it"),
            (False, "get another answer than before in 10.0 % of cases"),
        ):
            report = conclude([single, ours], n, labelled)
            assert report.recommended is (ours if spared else single)
            said = f"ours, K = 1, gains 45.0 points on all, but images that nothing disturbed {what} ["
            assert (said in str(report)) == (not spared)
        believed = (replace(single, believed=of_left(0.9)), replace(ours, believed=of_left(0.8 + 0.1 * right)))
        assert ("], 1.0 points less probable to the classifier" in str(conclude([*believed], n, False))) == (not spared)


def test_what_is_refused_is_named_where_it_gains_more_than_what_is_recommended():
    """Of 400 images, half disturbed; what is refused has the lowest NLL, and 20 more right answers than what is recommended, or 3 fewer."""
    n, left = 400, np.arange(400) >= 200
    as_they_are = np.where(left, 1.0, np.nan)
    single = replace(arm("one view", 1, left, np.where(left, 0.1, 2.0)), undisturbed=as_they_are)
    fine = replace(arm("ours", 1, left | (np.arange(n) < 60), np.where(left, 0.1, 1.5)), undisturbed=as_they_are)
    spoiled = np.where(np.arange(n) >= 380, 0.0, as_they_are)
    for more in (20, -3):
        right = (left & (np.arange(n) < 380)) | (np.arange(n) < 80 + more)
        refused = replace(arm("ours", 2, right, np.where(left, 0.1, 0.5)), undisturbed=spoiled)
        report = conclude([single, fine, refused], n, True)
        assert report.recommended is fine and choose_arm([single, fine, refused], at_any_cost=True) is refused
        assert ("ours, K = 2, gains 20.0 points on all, but" in str(report)) == (more > 0)
        assert ("ours, K = 2" in str(report)) == (more > 0)


@pytest.mark.parametrize(("more", "taken"), [(1, False), (2, False), (3, True)])
def test_two_answers_that_became_right_are_no_excuse_for_hedging(more, taken):
    """Images as they are get the same answers, less surely. Of a coin 2 of 2 come once in 4 times, 3 of 3 once in 8: one standard error is once in 6."""
    n = 100
    noise = np.random.default_rng(0).normal(0, 0.1, n)
    plain = replace(
        arm("one view", 1, np.arange(n) < 77, 0.93), undisturbed=np.ones(n), undisturbed_nll=np.full(n, 0.02)
    )
    mean = arm("best input-free", 4, np.arange(n) < 77 + more, 0.59 + noise)
    mean = replace(mean, undisturbed=np.ones(n), undisturbed_nll=0.41 + noise)
    assert (choose_arm([plain, mean]) is mean) == taken


def test_hedging_is_no_help_to_images_that_were_not_disturbed():
    """A lower NLL on all that is bought by a higher one on images as they are; more right answers may be bought by it."""
    n = 400
    left, right = np.arange(n) >= 200, np.arange(n) < 300
    plain = replace(
        arm("one view", 1, right, np.where(left, 0.1, 3.0)),
        undisturbed=np.where(left, right, np.nan),
        undisturbed_nll=np.where(left, 0.1, np.nan),
    )
    for known, spared in ((0.4, False), (0.1, True), (0.05, True)):
        hedged = replace(
            arm("best input-free", 4, right, np.where(left, known, 1.5)),
            undisturbed=plain.undisturbed,
            undisturbed_nll=np.where(left, known, np.nan),
        )
        assert (choose_arm([plain, hedged]) is hedged) == spared
        report = str(conclude([plain, hedged], n, True))
        assert ("no more often than chance has it; their probabilities are better, at 4 forwards" in report) == spared
        better = replace(hedged, correct=np.arange(n) < 340)
        assert choose_arm([plain, better]) is better and "probabilities are better" not in str(
            conclude([plain, better], n, True)
        )
