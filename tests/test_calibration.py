"""Temperatures against SciPy's unbounded search in 1 / T, in which NLL is convex."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from instaaug_transforms.tta.calibration import best_temperature, calibration_error


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0, 40.0, 3e3, 6e4])
def test_it_is_the_best_one_however_sure_the_classifier_is(scale):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 4, generator=generator)
    labels = (logits + torch.randn(300, 4, generator=generator)).argmax(1)

    def nll(inverse):
        return F.cross_entropy(inverse * logits.double(), labels).item()

    best = minimize_scalar(nll, bracket=(0.5, 1.0))
    temperature = best_temperature(scale * logits, labels)
    assert temperature == pytest.approx(scale / best.x, rel=1e-2)
    assert F.cross_entropy(scale * logits.double() / temperature, labels).item() == pytest.approx(best.fun, abs=1e-5)


def test_a_weight_counts_as_often():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(60, 4, generator=generator), torch.arange(60) % 4
    times = torch.arange(60) % 3 + 1
    repeated = best_temperature(logits.repeat_interleave(times, 0), labels.repeat_interleave(times))
    assert best_temperature(logits, labels, times.float()) == pytest.approx(repeated, rel=1e-6)


def test_who_is_sure_of_wrong_answers_does_as_well_as_guessing():
    """And no worse, so that an average is not better for being less sure."""
    logits = torch.tensor([[20.0, -20.0], [-20.0, 20.0]]).repeat(50, 1)
    labels = torch.tensor([0, 1, 1, 0]).repeat(25)
    nll = F.cross_entropy(logits / best_temperature(logits, labels), labels).item()
    assert nll <= math.log(2) + 1e-3
    soft = F.one_hot(labels, 2).float()
    assert np.isclose(best_temperature(logits, soft), best_temperature(logits, labels), rtol=0.1)


def test_where_all_are_right_it_stays_above_a_floor():
    logits = torch.eye(3).repeat(20, 1)
    assert best_temperature(logits, torch.arange(3).repeat(20)) == pytest.approx(math.exp(-2), rel=0.01)


@pytest.mark.parametrize("bins", [15])
def test_calibration_errors_by_histograms_of_numpy(bins):
    generator = np.random.default_rng(1)
    sure = generator.uniform(0.2, 1, 500)
    right = generator.uniform(size=500) < sure**3
    edges = np.linspace(0, 1, bins + 1)
    counts, conf, hits = (np.histogram(sure, edges, weights=w)[0] for w in (None, sure, right.astype(float)))
    full = counts > 0
    gaps = np.abs(hits[full] / counts[full] - conf[full] / counts[full])
    assert calibration_error(sure, right) == pytest.approx((counts[full] / 500 * gaps).sum())
    assert calibration_error(np.ones(4), np.array([True, True, False, False])) == pytest.approx(0.5)
