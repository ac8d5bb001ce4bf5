"""Which of several ways of predicting to use, one plain view included."""

import numpy as np

from ..utils.stats import mean_interval
from .harm import (
    believed_less,
    certainly_righter,
    class_that_pays,
    costs_others,
    hedges,
    interval_of_loss,
    lost,
    only_class,
    paired,
    rare_class,
    unsettles,
    with_more,
)
from .report import HeldOutArm, HeldOutReport

MATERIAL = 1e-3  # nats, or of a loss of one's own the same share; less is rounding
FEW = 100  # held-out images below which more is asked of a difference
THREE = 3  # events that may have been missed where none was seen, 95 % (the rule of three)
CLOSE = 0.5  # standard errors of NLL that the cheapest row may be above the lowest
LEAN = 0.5  # standard errors that accuracy must be higher by, or the same, where NLL alone is evidence
ROUNDING = 1e-9  # of a share of answers
FEWEST = 10  # held-out images below which nothing but one view is recommended


def conclude(
    arms: list[HeldOutArm],
    n: int,
    labelled: bool,
    classes: np.ndarray | None = None,
    doubt: tuple[str, float | None] | None = None,
) -> HeldOutReport:
    """The report of arms on ``n`` held-out images.

    Args:
        arms: one of them is ``"one view"``.
        n: images, each of several copies counted once.
        labelled: whether the targets are the user's.
        classes: of the images, where the targets are classes; ``(N,)``, or more, those of what is in ``more`` last.
        doubt: what `Scores.doubt` gave: where no arm does better than guessing either, one view is recommended.
    """
    arms = sorted(arms, key=lambda arm: (arm.name != "one view", arm.n_views, arm.cost, arm.name))
    single, notes = arms[0], []
    recommended, better = choose_arm(arms, classes), choose_arm(arms, classes, at_any_cost=True)
    # Against labels of something else one arm is right by chance more often than another; an arm that is right has an NLL that says so.
    guess = doubt and doubt[1]
    nonsense = guess is not None and not any(_beats(arm, guess) for arm in arms if arm.setting is not None)
    # What makes any image look like the one class of nearly all of these is right of them.
    alone = None if classes is None or n < FEWEST else only_class(classes[:n])
    if nonsense or n < FEWEST or alone:
        recommended = single
        few = f"only {n} held-out images: too few to tell; give more (of a fit, FitConfig(held_out=0.5) or val_data)"
        notes.append(few if n < FEWEST else doubt[0] if nonsense else _of_one_class(*alone, n))
    elif _gain(*with_more(better, recommended)) > 0 and (
        cost := _at_the_cost_of_others(better, single, labelled, classes)
    ):
        notes.append(cost)
    elif recommended is single:
        perhaps = _perhaps(arms, n, classes)
        # An average that answers better than the classifier does counts as wrong where the target is its own answer.
        as_good = (
            "one plain view is as good as any average" if labelled else "no average comes closer to its own answers"
        )
        why = "nothing is better for certain" if perhaps else as_good
        notes += [f"looking does not pay here: {why}; use the classifier as it is", *perhaps]
    elif recommended.name != "ours":
        notes.append("looking does not pay here: the same views for every image are as good, and need no φ")
    if (recommended.setting or {}).get("put_right"):
        notes.append("φ puts each image right, and the same views of what comes of it are averaged")
    if recommended is not single:
        notes += _caveats(recommended, single, n, labelled, classes)
    by_classes = single.correct is not None
    against = "labels" if by_classes else "targets"
    own = "the classifier's own answers" if by_classes else "the model's own outputs"
    cheaper = _cheaper(arms, recommended, classes)
    return HeldOutReport(arms, recommended, n, against if labelled else own, notes, cheaper)


def _caveats(arm: HeldOutArm, single: HeldOutArm, n: int, labelled: bool, classes: np.ndarray | None) -> list[str]:
    """What an arm does not give, and where else it was judged, a sentence each."""
    notes = []
    if arm.more is not None and single.more is not None and arm.more.correct is not None:
        more = arm.more.correct.astype(float) - single.more.correct.astype(float)
        gain, low, high = (100 * value for value in mean_interval(more))
        by = "put right, without the further views," if arm.phi_alone else "seen"
        how = (
            f"each {by} by a φ that did not learn from it"
            if arm.name == "ours"
            else "at which these views do not look either"
        )
        notes.append(
            f"of the {len(more)} images that φ learned from, {how}, {gain:+.1f} points are right [{low:+.1f}, {high:+.1f}]"
        )
    alone = arm.more is None or single.more is None
    arm, single = with_more(arm, single)
    n, kind = (n, "held-out images") if alone else (_known(arm), "images")
    if n < FEW:
        notes.append(f"{n} {kind} tell large differences alone; with {FEW} or more a small gain is no luck")
    if arm.correct is not None and not certainly_righter(arm, single, 1):
        notes.append(
            f"answers are right no more often than chance has it; their probabilities are better, at {arm.cost:g} forwards an image"
        )
    less = lost(arm, single)
    if less is not None and (less.mean() > 0 or (len(less) < FEW and (less > 0).any())):
        notes.append(f"images that nothing disturbed {_what_is_lost(arm, single, labelled)} ({len(less)} images)")
    elif less is not None and len(less) < FEW and arm.correct is not None:
        notes.append(
            f"of images that nothing disturbed {len(less)} were held out and none lost by it; up to {100 * THREE / len(less):.0f} points "
            "could be lost without that being seen"
        )
    if (pays := class_that_pays(arm, single, classes)) is not None:
        notes.append(_of_a_class(*pays[:3]))
    elif (rare := rare_class(arm, classes)) is not None:
        such = "" if arm.undisturbed is None else "such "
        notes.append(
            f"of class {rare[0]} only {rare[1]} {such}images were held out: what it may lose is not known; give more"
        )
    return notes


def _perhaps(arms: list[HeldOutArm], n: int, classes: np.ndarray | None) -> list[str]:
    """Whether more images could tell of a gain that these may owe to chance."""
    single = arms[0]
    if single.correct is None:
        return []
    able = [arm for arm in arms[1:] if arm.setting is not None and arm.nll.mean() <= single.nll.mean()]
    gains = [
        (*paired(*(each.correct for each in with_more(arm, single))), arm)
        for arm in able
        if not _dear(arm, single, classes)
    ]
    gain, error, arm = max(gains, key=lambda one: one[0], default=(0.0, 0.0, None))
    if arm is None or gain <= error:
        return []
    more = f"{FEW} or more" if n < FEW else "several times as many"
    return [
        f"{arm.name}, K = {arm.n_views}, is right {100 * gain:.1f} points more often, which may be chance with {n} held-out images; "
        f"{more} would tell"
    ]


def _what_is_lost(arm: HeldOutArm, single: HeldOutArm, labelled: bool) -> str:
    mean, low, high = interval_of_loss(arm, single)
    if arm.correct is None:
        if mean < 0:
            return f"have a loss that is lower by {-mean:.3g} [{-high:.3g}, {-low:.3g}]"
        return f"have a loss that is larger by {mean:.3g} [{low:.3g}, {high:.3g}]"
    mean, low, high = 100 * mean, 100 * low, 100 * high
    if labelled and mean < 0:  # though some were lost
        return f"gain {-mean:.1f} points by it [{-high:.1f}, {-low:.1f}]"
    if labelled:
        return f"lose {mean:.1f} points by it [{low:.1f}, {high:.1f}]"
    points = (
        ""
        if arm.believed is None
        else f", {100 * believed_less(arm, single):.1f} points less probable to the classifier"
    )
    return f"get another answer than before in {mean:.1f} % of cases [{low:.1f}, {high:.1f}]{points}"


def _of_a_class(name: int, share: float, count: int) -> str:
    return (
        f"images of class {name} are right {100 * share:.0f} points less often by it ({count} held-out images): look at what its "
        "views make of them"
    )


def _of_one_class(name: int, count: int, n: int) -> str:
    return (
        f"{count} of {n} held-out images are of class {name}: what others would lose is not known; give more of these"
    )


def _at_the_cost_of_others(
    arm: HeldOutArm, single: HeldOutArm, labelled: bool, classes: np.ndarray | None
) -> str | None:
    """Why an arm is not recommended that is better on all held-out copies together; None where it costs nobody."""
    costs, (arm, single) = costs_others(arm, single), with_more(arm, single)
    gain = _gain(arm, single)
    gains = f"lowers the loss by {gain:.3g}" if arm.correct is None else f"gains {100 * gain:.1f} points"
    if costs:
        return (
            f"{arm.name}, K = {arm.n_views}, {gains} on all, but images that nothing disturbed {_what_is_lost(arm, single, labelled)}; "
            "if few are such where you use it, say so by a higher nuisance_probability"
        )
    if rise := unsettles(arm, single):
        return (
            f"{arm.name}, K = {arm.n_views}, {gains} on all, but is less sure of images that nothing disturbed (NLL {rise:+.2f}), and too few "
            "of them were held out to know how many answers that costs; give more, or, if few are such where you use it, say so by a "
            "higher nuisance_probability"
        )
    pays = class_that_pays(arm, single, classes)
    if pays is not None and pays[3]:
        return f"{arm.name}, K = {arm.n_views}, {gains} on all, but {_of_a_class(*pays[:3])}"
    return None


def _gain(arm: HeldOutArm, single: HeldOutArm) -> float:
    """Right answers more than one view has, a share of all; or, of numbers, how much lower the loss is."""
    if arm.correct is None:
        return float(single.nll.mean() - arm.nll.mean())
    return paired(arm.correct, single.correct)[0]


def choose_arm(arms: list[HeldOutArm], classes: np.ndarray | None = None, at_any_cost: bool = False) -> HeldOutArm:
    """The arm to use: the first one, a plain view, unless another `comes_into_question`.

    The best of those that do has the lowest NLL, unless another is right more often by two standard errors (of fewer than `FEW` images,
    three). The cheapest is taken whose NLL is within half a standard error of the best one's, or 0.001, and that is right no less often, and at equal
    cost what does not look at the image. ``tests/benchmarks/measure_recommendation.py`` compares this rule with others.
    """
    able = [arm for arm in arms[1:] if comes_into_question(arm, arms[0], classes, at_any_cost)]
    if not able:
        return arms[0]
    best = able[0]
    for arm in able[1:]:
        best = arm if paired(*(each.nll for each in with_more(arm, best)))[0] < 0 else best
    if best.correct is not None:
        righter = [arm for arm in able if certainly_righter(*(two := with_more(arm, best)), _enough(_known(two[0])))]
        best = max(righter, key=lambda arm: (arm.correct.mean(dtype=float), -arm.nll.mean()), default=best)

    def close(arm: HeldOutArm) -> bool:
        arm, other = with_more(arm, best)
        loss, error = paired(arm.nll, other.nll)
        # Means over copies or groups are no round numbers: what is right as often may differ in the last digit.
        as_right = arm.correct is None or _gain(arm, other) > -ROUNDING
        return as_right and loss <= max(CLOSE * error, _material(arms[0]))

    return min(filter(close, able), key=lambda arm: (arm.cost, arm.name == "ours", arm.nll.mean()))


def _cheaper(arms: list[HeldOutArm], arm: HeldOutArm, classes: np.ndarray | None) -> list[HeldOutArm]:
    """What would be recommended if ``arm`` took too many forwards, and if that did, and so on, to one plain view."""
    found: list[HeldOutArm] = []
    while arm is not arms[0]:
        arm = choose_arm([arms[0], *(other for other in arms[1:] if other.cost < arm.cost)], classes)
        found.append(arm)
    return found


def comes_into_question(arm: HeldOutArm, single: HeldOutArm, classes: np.ndarray | None, at_any_cost: bool) -> bool:
    """Whether an arm is better than one plain view by more than chance would have it.

    Its NLL is lower than that of one plain view, or as low and its accuracy certainly higher. One of the two is better by two standard errors
    of their paired difference, or, of fewer than `FEW` images, by three (and accuracy by one at least): on held-out images, or on these and
    all that φ learned from, where that is known. Accuracy has to be, by a sign test as well, which tells more where the classifier is often wrong.

    Where NLL alone is the evidence, accuracy must lean the same way, by half a standard error, or be the same: a classifier that is sure of
    wrong answers has a lower NLL in any average that is less sure, and fewer right answers. Where it is so sure that guessing has a lower NLL,
    NLL is no evidence at all. Of fixed views of what φ puts right beside a nuisance, held-out images alone must show that too.

    Images that no nuisance disturbed, and no class of them, must not certainly lose by it (unless ``at_any_cost``; see `harm`); nor, where it
    gains no accuracy, may their NLL rise: to hedge between turns is no help to an image that was not turned.
    """
    if arm.setting is None:
        return False
    material, held = _material(single), (arm, single)
    saving, spread = paired(single.nll, arm.nll)
    arm, single = everywhere = with_more(*held)
    in_all, spread_in_all = paired(single.nll, arm.nll)
    # Beside a nuisance, of fixed views of what φ puts right more images tell what φ does alone: what those views do, held-out ones alone show.
    alone = held[0].phi_alone
    pairs = (held, everywhere) if alone else (everywhere,)
    gains = [(0.0, 0.0) if one.correct is None else paired(one.correct, other.correct) for one, other in pairs]
    surer = saving > _enough(len(held[0].nll)) * spread or in_all > _enough(len(arm.nll)) * spread_in_all
    righter = arm.correct is not None and any(
        certainly_righter(*two, _enough(_known(two[0]))) for two in ((held,) if alone else (held, everywhere))
    )
    # Where a classifier is sure of wrong answers, no temperature leaves its NLL, or an average's, below that of guessing.
    lower = saving > material or (righter and saving > -material)
    least = -1 if righter else LEAN
    useful = lower and (righter or (surer and single.nll_tells)) and all(gain >= least * error for gain, error in gains)
    if arm.correct is not None and _known(arm) < FEW:  # better probabilities alone are luck too often
        useful = useful and certainly_righter(arm, single, 1)
    return useful and (at_any_cost or not _dear(*held, classes))


def _material(single: HeldOutArm) -> float:
    """The least difference of mean NLL, or of a loss of one's own, that is more than rounding."""
    return MATERIAL if single.correct is not None else MATERIAL * abs(float(single.nll.mean()))


def _known(arm: HeldOutArm) -> int:
    """Of how many images it is known whether they are right, or what they lose."""
    return len(arm.nll if arm.correct is None else arm.correct)


def _enough(n: int) -> float:
    """Standard errors that a difference on so many images has to be."""
    return 2 if n >= FEW else 3


def _dear(arm: HeldOutArm, single: HeldOutArm, classes: np.ndarray | None) -> bool:
    """Whether images that nothing disturbed, or those of a class, pay for others."""
    if costs_others(arm, single):
        return True
    arm, single = with_more(arm, single)
    if unsettles(arm, single) > 0:
        return True
    pays = class_that_pays(arm, single, classes)
    if (pays is not None and pays[3]) or arm.correct is None:
        return pays is not None and pays[3]
    return hedges(arm, single) and not certainly_righter(arm, single, 1)


def _beats(arm: HeldOutArm, guess: float) -> bool:
    """Whether its NLL is certainly below that of guessing."""
    saving, error = paired(np.full(len(arm.nll), guess), arm.nll)
    return saving > max(2 * error, MATERIAL)
