"""Intervals and tests, by SciPy, seeded."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from ..utils.errors import InstaAugError

RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    estimate: float
    low: float
    high: float

    def text(self, format_: str = "+.3f", scale: float = 1.0) -> str:
        """``estimate [low, high]``; a dash where there is no estimate."""
        if np.isnan(self.estimate):
            return "–"
        return "{} [{}, {}]".format(*(format(scale * value, format_) for value in self))


def mean_interval(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean over images and its percentile bootstrap interval (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: ``(N,)``, one per image; a paired difference gives a paired interval. Entries that are not finite (no
            value for that image) are left out.
        seed: of the resampling.

    Returns:
        A constant's interval is that constant, exactly; NaN where no value is finite.
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Interval(np.nan, np.nan, np.nan)
    if np.ptp(values) == 0:
        return Interval(*[float(values[0])] * 3)
    drawn = _bootstrap((values,), np.mean, seed, resamples)
    return Interval(float(values.mean()), *drawn)


def _bootstrap(data: tuple, statistic, seed: int, resamples: int, **kwargs) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = stats.bootstrap(
        data, statistic, n_resamples=resamples, method="percentile", batch=100, rng=rng, **kwargs
    ).confidence_interval
    return float(found.low), float(found.high)


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Interval:
    """mean(numerator) / mean(denominator) over the same images, ``(N,)`` each, and its paired bootstrap interval."""

    def ratio(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return first.mean(axis) / second.mean(axis)

    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    estimate = float(ratio(numerator, denominator))
    if np.ptp(numerator) == 0 and np.ptp(denominator) == 0:
        return Interval(estimate, estimate, estimate)
    return Interval(estimate, *_bootstrap((numerator, denominator), ratio, seed, RESAMPLES, paired=True))


def rank_correlation(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Interval:
    """Spearman's ρ of ``(N,)`` and ``(N,)`` over images, and its paired bootstrap interval.

    NaN where one of them is constant: ranks do not exist.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Interval(np.nan, np.nan, np.nan)

    def rho(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        a, b = stats.rankdata(a, axis=axis), stats.rankdata(b, axis=axis)
        a, b = a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True)
        size = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
        # A resample of equal values has no ranks and no correlation.
        return np.divide((a * b).sum(axis), size, out=np.zeros_like(size), where=size > 0)

    return Interval(float(rho(first, second)), *_bootstrap((first, second), rho, seed, RESAMPLES, paired=True))


class Permutation(NamedTuple):
    """Observed statistic and the p-value of as large (in absolute value) a one by chance."""

    statistic: float
    p_value: float

    def text(self) -> str:
        """``+0.25, p = 0.01``; a dash where there is nothing to test."""
        return "–" if np.isnan(self.statistic) else f"{self.statistic:+.2f}, p = {self.p_value:.3g}"


def correlation_test(first: np.ndarray, second: np.ndarray, seed: int = 0, resamples: int = 9999) -> Permutation:
    """Spearman's ρ of ``(K,)`` and ``(K,)`` with a two-sided permutation test: one of them is shuffled.

    p = (1 + number of shuffles with |ρ| ≥ observed) / (1 + shuffles) (Phipson & Smyth 2010); every permutation once
    where there are fewer than ``resamples``.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 3:
        raise InstaAugError(f"correlation_test: expected two (K,) arrays, K ≥ 3, got {first.shape} and {second.shape}")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Permutation(np.nan, np.nan)
    first, second = stats.rankdata(first), stats.rankdata(second)
    second = (second - second.mean()) / second.std() / len(second)
    scale = first.std()

    def rho(a: np.ndarray, axis: int = -1) -> np.ndarray:
        return (a * second).sum(axis) / scale

    found = stats.permutation_test(
        (first,),
        rho,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return Permutation(float(found.statistic), float(found.pvalue))
