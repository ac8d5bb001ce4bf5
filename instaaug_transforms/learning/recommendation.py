"""Which of several ways of predicting to use, one plain view included."""

import math

import numpy as np

from ..utils.stats import mean_interval
from .report import HeldOutArm, HeldOutReport

MATERIAL = 1e-3  # nats, or of a loss of one's own the same share; less is rounding
FEW = 100  # held-out images below which more is asked of a difference
FEWEST = 10  # held-out images below which nothing but one view is recommended


def conclude(arms: list[HeldOutArm], n: int, labelled: bool) -> HeldOutReport:
    """The report of arms on ``n`` held-out images.

    Args:
        arms: one of them is ``"one view"``.
        n: images, each of several copies counted once.
        labelled: whether the targets are the user's.
    """
    arms = sorted(arms, key=lambda arm: (arm.name != "one view", arm.n_views, arm.cost, arm.name))
    recommended, better, notes = choose_arm(arms), choose_arm(arms, at_any_cost=True), []
    if n < FEWEST:
        recommended = arms[0]
        notes.append(f"only {n} held-out images: too few to tell; give more, FitConfig(held_out=0.5) or val_data")
    elif better is not recommended and _costs_others(better, arms[0]):
        notes.append(_at_the_cost_of_others(better, arms[0], labelled))
    elif recommended is arms[0]:
        notes.append("looking does not pay here: one plain view is as good as any average; use the classifier as it is")
    elif recommended.name != "ours":
        notes.append("looking does not pay here: the same views for every image are as good, and need no φ")
    if (recommended.setting or {}).get("put_right"):
        notes.append("φ puts each image right, and the same views of what comes of it are averaged")
    if recommended is not arms[0]:
        notes += _caveats(recommended, arms[0], n)
    by_classes = arms[0].correct is not None
    against = "labels" if by_classes else "targets"
    own = "the classifier's own answers" if by_classes else "the model's own outputs"
    return HeldOutReport(arms, recommended, n, against if labelled else own, notes)


def _caveats(arm: HeldOutArm, single: HeldOutArm, n: int) -> list[str]:
    """What an arm does not give, a sentence each."""
    notes = []
    if n < FEW:
        notes.append(f"{n} held-out images tell large differences alone; with {FEW} or more a small gain is no luck")
    if arm.correct is not None:
        gain, error = _paired(arm.correct, single.correct)
        if gain <= error:
            notes.append(
                f"answers are right no more often than chance has it; their probabilities are better, at {arm.cost:g} forwards an image"
            )
    return notes


def _at_the_cost_of_others(arm: HeldOutArm, single: HeldOutArm, labelled: bool) -> str:
    """Why an arm is not recommended that is better on all held-out copies together."""
    gain = 100 * float(np.mean(arm.correct.astype(float) - single.correct))
    lost, low, high = (-100 * value for value in mean_interval(arm.undisturbed - single.undisturbed))
    what = f"lose {lost:.1f} points by it" if labelled else f"get another answer than before in {lost:.1f} % of cases"
    return (
        f"{arm.name}, K = {arm.n_views}, gains {gain:.1f} points on all, but images that nothing disturbed {what} [{high:.1f}, {low:.1f}]; "
        "if few are such where you use it, say so by a higher nuisance_probability"
    )


def choose_arm(arms: list[HeldOutArm], at_any_cost: bool = False) -> HeldOutArm:
    """The arm to use: the first one, a plain view, unless another is better by more than chance would have it.

    An arm comes into question if its NLL is lower than that of one plain view (or as low, and its accuracy certainly higher),
    its accuracy is not lower by a standard error of their paired difference, and one of the two is better by two, or, of fewer than
    `FEW` images, by three: NLL on held-out images, or on these and all that φ learned from, for an arm that looks at none; or
    accuracy, which tells more where the classifier is often wrong. Images that no nuisance disturbed must not lose accuracy by it
    for certain (unless ``at_any_cost``); nor, where it gains none, NLL: to hedge between turns is no help to an image that was
    not turned. Of those, the cheapest is taken whose NLL is within one standard error of the lowest, and at equal cost what does
    not look at the image.
    ``tests/benchmarks/measure_recommendation.py`` compares this rule with others.
    """
    single, able = arms[0], []
    enough = 2 if len(single.nll) >= FEW else 3
    material = MATERIAL if single.correct is not None else MATERIAL * abs(float(single.nll.mean()))
    for arm in arms[1:]:
        saving, spread = _paired(single.nll, arm.nll)
        in_all, spread_in_all = _paired(*_with_more(single, arm))
        gain, error = (0.0, 0.0) if arm.correct is None else _paired(arm.correct, single.correct)
        surer = saving > enough * spread or in_all > enough * spread_in_all
        righter = gain > enough * error
        # Where a classifier is sure of wrong answers, no temperature leaves its NLL, or an average's, below that of guessing.
        lower = saving > material or (righter and saving > -material)
        useful = lower and (surer or righter) and gain >= -error
        dear = _costs_others(arm, single) or (gain <= error and _hedges(arm, single))
        if arm.setting is not None and useful and (at_any_cost or not dear):
            able.append(arm)
    if not able:
        return single
    best = min(able, key=lambda arm: arm.nll.mean())

    def close(arm: HeldOutArm) -> bool:
        loss, error = _paired(*_with_more(arm, best))
        return loss <= error

    return min(filter(close, able), key=lambda arm: (arm.cost, arm.name == "ours", arm.nll.mean()))


def _costs_others(arm: HeldOutArm, single: HeldOutArm) -> bool:
    """Whether copies that no nuisance disturbed lose accuracy by it for certain, by two standard errors."""
    if arm.undisturbed is None:
        return False
    known = ~np.isnan(arm.undisturbed)
    lost, error = _paired(single.undisturbed[known], arm.undisturbed[known])
    return lost > 2 * error


def _hedges(arm: HeldOutArm, single: HeldOutArm) -> bool:
    """Whether their NLL is higher by more than a standard error."""
    if arm.undisturbed_nll is None:
        return False
    known = ~np.isnan(arm.undisturbed_nll)
    cost, error = _paired(arm.undisturbed_nll[known], single.undisturbed_nll[known])
    return cost > error


def _with_more(*arms: HeldOutArm) -> list[np.ndarray]:
    """NLL of each on all images that both were scored on."""
    if any(arm.more is None for arm in arms):
        return [arm.nll for arm in arms]
    return [np.concatenate([arm.nll, arm.more]) for arm in arms]


def _paired(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean difference first − second, and its standard error."""
    difference = first.astype(float) - second.astype(float)
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))
