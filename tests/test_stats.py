import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

import instaaug_transforms as ia
from instaaug_transforms.utils.stats import (
    Interval,
    correlation_test,
    mean_interval,
    rank_correlation,
    ratio_interval,
)


def test_mean_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert found.estimate == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert mean_interval(values, seed=0) == found


def test_constants_missing_values_and_nothing():
    assert mean_interval(np.full(5, 0.3)) == (0.3, 0.3, 0.3)
    assert mean_interval([1.0, np.nan, 3.0]).estimate == 2
    assert np.isnan(mean_interval([np.nan])).all()
    assert Interval(np.nan, np.nan, np.nan).text() == "–" and Interval(0.5, 0, 1).text(".0f", 100) == "50 [0, 100]"


def test_ratio_interval_is_paired():
    """Numerator and denominator move together: unpaired, the interval would be wide."""
    denominator = np.random.default_rng(0).exponential(1, 300)
    found = ratio_interval(0.5 * denominator, denominator)
    assert found == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_interval_of_few_images_is_that_of_every_resample():
    """Two of six images gain nothing: one resample in 729 has a denominator of 0, about which nothing is said."""
    part, full = np.array([1.0, 1, 0, 0, 0, 0]), np.array([1.0, 1, 1, 1, 0, 0])
    every = np.array(list(itertools.product(range(6), repeat=6)))
    with np.errstate(invalid="ignore"):
        ratios = np.nan_to_num(part[every].sum(1) / full[every].sum(1), nan=np.inf)
    found = ratio_interval(part, full)
    assert found == (0.5, *np.percentile(ratios, [2.5, 97.5]))
    assert np.isnan(ratio_interval(np.zeros(3), np.zeros(3)).estimate)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 20, 150).astype(float)  # with ties
    b = a + rng.normal(0, 8, 150)
    found = rank_correlation(a, b)
    assert found.estimate == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
    assert found.low < found.estimate < found.high and found.high - found.low < 0.4
    assert np.isnan(rank_correlation(a, np.ones(150))).all()


def test_permutation_test_finds_what_is_there_and_only_that():
    rng = np.random.default_rng(0)
    x = rng.normal(size=15)
    found = correlation_test(x, x**3)
    assert found.statistic == pytest.approx(1) and found.p_value < 0.001
    p_values = [correlation_test(rng.normal(size=12), rng.normal(size=12), resamples=199).p_value for _ in range(100)]
    assert scipy_stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.isnan(correlation_test(np.ones(5), np.arange(5))).all()
    with pytest.raises(ia.InstaAugError, match="K ≥ 3"):
        correlation_test(np.ones(2), np.ones(2))
