"""What an arm costs images that no nuisance disturbed, all of them and class by class."""

import math

import numpy as np

from ..utils.stats import mean_interval
from .report import HeldOutArm

HALF_A_POINT = 0.005  # of the answers: what images as they are may lose, for what others gain
LARGE = 0.03  # of the answers: what is lost is named from two standard errors on, and this much from one on
LARGE_LOSS = 0.1  # likewise, of a loss that is no accuracy, a share of one view's
LARGE_NLL = 0.1  # nats
CLASS_LARGE = 0.1  # of the images of one class
CLASS_CERTAIN = 0.025  # chance that a class where nothing changes is named, all classes together
NEARLY = 0.1  # of the images, that may be of other classes than one where of these next to nothing is known
CLASS_FEWEST = 5  # images of a class, below which nothing is certain


def paired(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean difference first − second, and its standard error."""
    difference = first.astype(float) - second.astype(float)
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))


def certainly(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether first − second is above 0 by two standard errors."""
    difference, error = paired(first, second)
    return difference > 2 * error


def certainly_righter(arm: HeldOutArm, single: HeldOutArm, errors: float) -> bool:
    """Whether more answers are right, by so many standard errors, and by a sign test that is as strict.

    Where an arm changes few answers, the standard error is small by chance as well: four that became right and none that became wrong are
    two standard errors, and come in one of 16 cases from a coin; a single one is one standard error.
    """
    difference = arm.correct.astype(float) - single.correct.astype(float)
    gain, error = paired(difference, np.zeros(1))
    as_strict = math.erfc(errors / math.sqrt(2)) / 2
    return gain > errors * error and _chance((difference > 0).sum(), (difference < 0).sum()) < as_strict


def lost(arm: HeldOutArm, single: HeldOutArm) -> np.ndarray | None:
    """Per image that has copies as they were, how much less often answers are right; or, of numbers, how much larger the loss is."""
    if arm.undisturbed is not None:
        return _known(single.undisturbed - arm.undisturbed)
    if arm.correct is None and arm.undisturbed_nll is not None:
        return _known(arm.undisturbed_nll - single.undisturbed_nll)
    return None


def with_more(*arms: HeldOutArm) -> list[HeldOutArm]:
    """Each with what is known of it on more images, if all of them were scored on these."""
    return [arm.with_more() for arm in arms] if all(arm.more is not None for arm in arms) else list(arms)


def costs_others(arm: HeldOutArm, single: HeldOutArm) -> bool:
    """Whether such images certainly pay for others, and more than is tolerated; or probably, and much: held-out ones, or all.

    Held-out ones alone are asked of the φ that is to be used: those that learned from fewer images change fewer.
    """
    return any(_costs(*pair) for pair in ((arm, single), with_more(arm, single)))


def may_cost_others(arm: HeldOutArm, single: HeldOutArm) -> bool:
    """Whether they do, or too few of all are known to rule out (two standard errors) that they pay much."""
    both = with_more(arm, single)
    if (less := lost(*both)) is None:
        return False
    mean, error = paired(less, np.zeros(1))
    return costs_others(arm, single) or mean + 2 * error > _large(*both)


def _costs(arm: HeldOutArm, single: HeldOutArm) -> bool:
    less = lost(arm, single)
    if less is None:
        return False
    (mean, error), large = paired(less, np.zeros(1)), _large(arm, single)
    return (mean > 2 * error and _matters(arm, single, mean)) or (mean > error and mean > large)


def _matters(arm: HeldOutArm, single: HeldOutArm, mean: float) -> bool:
    """Whether a loss is more than is tolerated.

    Another answer than the classifier's own is less often right by how much less probable the classifier finds it: of two that are nearly as
    probable to it, either will do.
    """
    if arm.undisturbed is None:
        return mean > single.tolerated
    return (mean if arm.believed is None else believed_less(arm, single)) > HALF_A_POINT


def believed_less(arm: HeldOutArm, single: HeldOutArm) -> float:
    """How much less probable, on average, the classifier finds its answers for images that nothing disturbed."""
    return float(np.nanmean(single.believed - arm.believed))


def _large(arm: HeldOutArm, single: HeldOutArm) -> float:
    """What is much, of answers or of a loss."""
    large = LARGE if arm.undisturbed is not None else LARGE_LOSS * abs(float(np.nanmean(single.undisturbed_nll)))
    return max(large, single.tolerated)


def unsettles(arm: HeldOutArm, single: HeldOutArm) -> float:
    """By how many nats the answers for such images are worse, where that is certain and much, and how many are right cannot rule out a large loss.

    Dozens of images tell that an average with a wrong turn is less sure of all of them; which answers it costs, hundreds tell.
    """
    if arm.undisturbed is None or arm.undisturbed_nll is None:
        return 0.0
    rise, error = paired(_known(arm.undisturbed_nll - single.undisturbed_nll), np.zeros(1))
    less, spread = paired(lost(arm, single), np.zeros(1))
    return rise if rise > max(2 * error, LARGE_NLL) and less + 2 * spread > LARGE else 0.0


def hedges(arm: HeldOutArm, single: HeldOutArm) -> bool:
    """Whether the NLL of such images is higher by more than a standard error."""
    if arm.undisturbed_nll is None:
        return False
    cost, error = paired(_known(arm.undisturbed_nll - single.undisturbed_nll), np.zeros(1))
    return cost > error


def rare_class(arm: HeldOutArm, classes: np.ndarray | None) -> tuple[int, int] | None:
    """The class of which fewest images are known, and how many, where these are too few to tell of a loss and of most they are not."""
    values = arm.correct if arm.undisturbed is None else arm.undisturbed
    if classes is None or values is None:
        return None
    values, classes = _both_known(values, classes)
    names = np.unique(classes)
    counts = np.array([np.isfinite(values[classes == name]).sum() for name in names])
    if np.median(counts) < CLASS_FEWEST or counts.min() >= CLASS_FEWEST:
        return None
    return int(names[counts.argmin()]), int(counts.min())


def only_class(classes: np.ndarray) -> tuple[int, int] | None:
    """The class of nearly all images, and of how many, where too few are of others to tell what these lose."""
    names, counts = np.unique(classes, return_counts=True)
    most, others = int(counts.max()), len(classes) - int(counts.max())
    return (int(names[counts.argmax()]), most) if others < min(CLASS_FEWEST, NEARLY * len(classes)) else None


def class_that_pays(
    arm: HeldOutArm, single: HeldOutArm, classes: np.ndarray | None
) -> tuple[int, float, int, bool] | None:
    """The class that loses most, by what share of its images fewer are right, of how many, and whether that is certain; or None.

    The images count that nothing disturbed, or without a nuisance all. Certain is a loss of a tenth or more by a sign test over images,
    corrected for the number of classes (Bonferroni). With fewer images a class is named if a third are lost, two or more.
    """
    before = single.correct if single.undisturbed is None else single.undisturbed
    after = arm.correct if arm.undisturbed is None else arm.undisturbed
    if classes is None or before is None or after is None:
        return None
    less, classes = _both_known(before.astype(float) - after.astype(float), classes)
    known = np.isfinite(less)
    less, of = less[known], classes[known]
    names, place, counts = np.unique(of, return_inverse=True, return_counts=True)
    shares = np.bincount(place, less) / counts
    worse, better = np.bincount(place, less > 0), np.bincount(place, less < 0)
    named: tuple[int, float, int, bool] | None = None
    for k in np.argsort(-shares):
        if shares[k] < CLASS_LARGE:
            break
        certain = counts[k] >= CLASS_FEWEST and _chance(worse[k], better[k]) * len(names) < CLASS_CERTAIN
        if certain:
            return int(names[k]), float(shares[k]), int(counts[k]), True
        if named is None and shares[k] >= 1 / 3 and worse[k] >= 2 and worse[k] > better[k]:
            named = int(names[k]), float(shares[k]), int(counts[k]), False
    return named


def interval_of_loss(arm: HeldOutArm, single: HeldOutArm) -> tuple[float, float, float]:
    """What `lost` gives, on average, and its 95 % interval."""
    return tuple(mean_interval(lost(arm, single)))


def _both_known(values: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the images that φ learned from, which come last, one or the other may not be known."""
    n = min(len(values), len(classes))
    return values[:n], classes[:n]


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _chance(worse: float, better: float) -> float:
    """That of so many images that changed so many or more are worse, or better, by chance: the sign test, one-sided."""
    n, k = int(worse + better), int(worse)
    return sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
