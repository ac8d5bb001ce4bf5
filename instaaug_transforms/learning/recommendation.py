"""Which of several ways of predicting to use, one plain view included."""

import math

import numpy as np

from ..utils.stats import mean_interval
from .report import HeldOutArm, HeldOutReport

MATERIAL = 1e-3  # nats, or of a loss of one's own the same share; less is rounding
FEWEST = 10  # held-out images below which nothing but one view is recommended


def conclude(arms: list[HeldOutArm], n: int, labelled: bool) -> HeldOutReport:
    """The report of arms on ``n`` held-out images.

    Args:
        arms: one of them is ``"one view"``.
        n: images, each of several copies counted once.
        labelled: whether the targets are the user's.
    """
    arms = sorted(arms, key=lambda arm: (arm.name != "one view", arm.n_views, arm.cost, arm.name))
    recommended, notes = choose_arm(arms), []
    if n < FEWEST:
        recommended = arms[0]
        notes.append(f"only {n} held-out images: too few to tell; give more, FitConfig(held_out=0.5) or val_data")
    elif recommended is arms[0]:
        notes.append("looking does not pay here: one plain view is as good as any average; use the classifier as it is")
    elif recommended.name != "ours":
        notes.append("looking does not pay here: the same views for every image are as good, and need no φ")
    if (recommended.setting or {}).get("put_right"):
        notes.append("φ puts each image right, and the same views of what comes of it are averaged")
    if labelled and recommended.undisturbed is not None:
        gain, low, high = (100 * value for value in mean_interval(recommended.undisturbed - arms[0].undisturbed))
        if high < 0:
            notes.append(
                f"images that nothing disturbed lose {-gain:.1f} points by it [{-high:.1f}, {-low:.1f}]; where most are such, fit with a lower "
                "nuisance_probability"
            )
    by_classes = arms[0].correct is not None
    against = "labels" if by_classes else "targets"
    own = "the classifier's own answers" if by_classes else "the model's own outputs"
    return HeldOutReport(arms, recommended, n, against if labelled else own, notes)


def choose_arm(arms: list[HeldOutArm]) -> HeldOutArm:
    """The arm to use: the first one, a plain view, unless another is better by more than chance would have it.

    An arm comes into question if its NLL is lower than that of one plain view and its accuracy not lower by a standard error
    of their paired difference, and one of the two better by two: NLL on held-out images, or on these and all that φ learned
    from, for an arm that looks at none; or accuracy, which tells more where the classifier is often wrong. Of those, the
    cheapest is taken whose NLL is within one standard error of the lowest, and at equal cost what does not look at the image.
    ``tests/benchmarks/measure_recommendation.py`` compares this rule with others.
    """
    single, able = arms[0], []
    material = MATERIAL if single.correct is not None else MATERIAL * abs(float(single.nll.mean()))
    for arm in arms[1:]:
        saving, spread = _paired(single.nll, arm.nll)
        in_all, spread_in_all = _paired(*_with_more(single, arm))
        gain, error = (0.0, 0.0) if arm.correct is None else _paired(arm.correct, single.correct)
        sure = saving > 2 * spread or in_all > 2 * spread_in_all or gain > 2 * error
        if arm.setting is not None and sure and saving > material and gain >= -error:
            able.append(arm)
    if not able:
        return single
    best = min(able, key=lambda arm: arm.nll.mean())

    def close(arm: HeldOutArm) -> bool:
        loss, error = _paired(*_with_more(arm, best))
        return loss <= error

    return min(filter(close, able), key=lambda arm: (arm.cost, arm.name == "ours", arm.nll.mean()))


def _with_more(*arms: HeldOutArm) -> list[np.ndarray]:
    """NLL of each on all images that both were scored on."""
    if any(arm.more is None for arm in arms):
        return [arm.nll for arm in arms]
    return [np.concatenate([arm.nll, arm.more]) for arm in arms]


def _paired(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean difference first − second, and its standard error."""
    difference = first.astype(float) - second.astype(float)
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))
