"""Bootstrap intervals and permutation tests, seeded. SciPy is imported by the functions that need it: it is slow to load."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from .errors import InstaAugError

RESAMPLES = 2000
FAR = 1e9  # a ratio to 0
Statistic = Callable[..., np.ndarray]


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    estimate: float
    low: float
    high: float

    def text(self, format_: str = "+.3f", scale: float = 1.0) -> str:
        """``estimate [low, high]``, or a dash if the estimate is NaN."""
        if np.isnan(self.estimate):
            return "–"
        return "{} [{}, {}]".format(*(format(scale * value, format_) for value in self))


class Permutation(NamedTuple):
    """A statistic and the p-value of one at least as large, in absolute value, by chance."""

    statistic: float
    p_value: float

    def text(self) -> str:
        """``+0.25, p = 0.01``, or a dash if the statistic is NaN."""
        return "–" if np.isnan(self.statistic) else f"{self.statistic:+.2f}, p = {self.p_value:.3g}"


UNDEFINED, UNTESTED = Interval(np.nan, np.nan, np.nan), Permutation(np.nan, np.nan)


def is_guessing(share: float, classes: int, n: int) -> bool:
    """Whether that share of ``n`` answers is right by chance alone, three standard errors granted."""
    chance = 1 / classes
    return share <= chance + 3 * math.sqrt(chance * (1 - chance) / n)


def mean_interval(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean over images and its percentile bootstrap interval (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: ``(N,)``, one per image. Paired differences give a paired interval. Images without a value (NaN or
            infinite) are left out.
        seed: of the resampling.
        resamples: how many.

    Returns:
        A constant's interval is that constant, exactly; NaN if no value is finite.
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return UNDEFINED
    if np.ptp(values) == 0:
        return Interval(*[float(values[0])] * 3)
    return _bootstrap(np.mean, (values,), seed, resamples)


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Interval:
    """mean(numerator) / mean(denominator) over the same images, ``(N,)`` each, and its paired bootstrap interval."""

    def ratio(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = first.mean(axis) / second.mean(axis)
        # Of few images some resamples have a denominator of 0: far off, as an interval's percentiles see it.
        return np.nan_to_num(quotient, nan=FAR, posinf=FAR, neginf=-FAR)

    pair = np.asarray(numerator, float), np.asarray(denominator, float)
    if all(np.ptp(values) == 0 for values in pair):
        return Interval(*[float(pair[0][0] / pair[1][0]) if pair[1][0] else np.nan] * 3)
    return _bootstrap(ratio, pair, seed)


def rank_correlation(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Interval:
    """Spearman's ρ of ``(N,)`` and ``(N,)`` over images, and its paired bootstrap interval; NaN if one is constant."""
    pair = np.asarray(first, float), np.asarray(second, float)
    if len(pair[0]) < 3 or any(np.ptp(values) == 0 for values in pair):
        return UNDEFINED

    def rho(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.nan_to_num(spearman(a, b, axis))  # a resample of equal values has no correlation

    return _bootstrap(rho, pair, seed)


def _bootstrap(statistic: Statistic, data: tuple[np.ndarray, ...], seed: int, resamples: int = RESAMPLES) -> Interval:
    from scipy.stats import bootstrap

    rng, settings = np.random.default_rng(seed), {"n_resamples": resamples, "method": "percentile", "batch": 100}
    ends = bootstrap(data, statistic, paired=len(data) > 1, rng=rng, **settings).confidence_interval
    return Interval(float(statistic(*data)), float(ends.low), float(ends.high))


def spearman(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's ρ along an axis of two arrays that broadcast; NaN if one is constant there."""
    from scipy.stats import rankdata

    a, b = (rankdata(values, axis=axis) for values in (first, second))
    a, b = a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True)
    size = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
    return np.divide((a * b).sum(axis), size, out=np.full_like(size, np.nan), where=size > 0)


def correlation_test(first: np.ndarray, second: np.ndarray, seed: int = 0, resamples: int = 9999) -> Permutation:
    """Spearman's ρ of ``(K,)`` and ``(K,)``, and a two-sided permutation test of it; NaN if one is constant.

    Raises:
        InstaAugError: shapes that differ, or K < 3.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 3:
        raise InstaAugError(f"correlation_test: expected two (K,) arrays, K ≥ 3, got {first.shape} and {second.shape}")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return UNTESTED
    return permutation_test(first, partial(spearman, second), seed, resamples)


def permutation_test(values: np.ndarray, statistic: Statistic, seed: int = 0, resamples: int = 9999) -> Permutation:
    """A statistic of ``(K,)`` values against the same with the values shuffled, two-sided.

    p = (1 + number of shuffles with a |statistic| ≥ the observed one) / (1 + shuffles) (Phipson & Smyth 2010). If there are
    fewer permutations than ``resamples``, every one is tried once.

    Args:
        values: ``(K,)``.
        statistic: of values ``(…, K)`` along ``axis``.
        seed: of the shuffles.
        resamples: how many.
    """
    from scipy import stats

    rng, settings = np.random.default_rng(seed), {"n_resamples": resamples, "vectorized": True, "batch": 1000}
    outcome = stats.permutation_test((values,), statistic, permutation_type="pairings", rng=rng, **settings)
    return Permutation(float(outcome.statistic), float(outcome.pvalue))
