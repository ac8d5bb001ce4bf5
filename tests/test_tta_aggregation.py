"""Averages of views in NumPy."""

import math

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.tta.aggregation import AGGREGATIONS, aggregate, scale_bins


def test_mean_probability_is_a_log_probability():
    logits = torch.randn(4, 3, 7)
    assert torch.allclose(aggregate(logits, "mean_prob").exp().sum(-1), torch.ones(3), atol=1e-5)


def test_views_are_binned_by_the_size_of_their_crop():
    """The side is √(w·h): six bins, the whole image in the last, as are views without a crop."""
    sides = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.95, 1.0])
    square = ia.AugmentParams(w=sides, h=sides)
    assert scale_bins(square).tolist() == [0, 1, 2, 3, 4, 5]
    assert scale_bins(ia.AugmentParams(w=torch.tensor([1.0]), h=torch.tensor([0.16]))).tolist() == [1]
    assert scale_bins(ia.AugmentParams(angle=torch.zeros(2))).tolist() == [5, 5]


def test_averages_in_numpy():
    logits = 3 * torch.randn(4, 5, 3)
    p = np.exp(logits.double().numpy())
    p /= p.sum(-1, keepdims=True)
    log_w = torch.randn(4, 5)
    w = np.exp(log_w.double().numpy())[..., None]
    sure = np.exp((p * np.log(p)).sum(-1, keepdims=True))  # exp(−entropy)
    expected = {
        "mean_prob": p.mean(0),
        "power": (p**0.5).mean(0) ** 2,
        "geometric_mean": np.exp(np.log(p).mean(0)),
        "confident": (sure * p).sum(0) / sure.sum(0),
        "weighted": (w * p).sum(0) / w.sum(0),
        "probability": (w * p).sum(0) / w.sum(0),
    }
    for how, average in expected.items():
        weights = log_w if how in ("weighted", "probability") else None
        assert np.allclose(aggregate(logits, how, log_weights=weights).exp(), average, atol=1e-6), how
    assert np.allclose(aggregate(logits).exp(), p.mean(0), atol=1e-6)
    assert torch.allclose(aggregate(logits, "mean_logit"), logits.mean(0), atol=1e-6)
    same = torch.tensor([[0.0], [1.0], [2.0], [-1.0]])  # one weight a view, for all images
    w = np.exp(same.numpy())[..., None]
    assert np.allclose(aggregate(logits, "weighted", log_weights=same).exp(), (w * p).sum(0) / w.sum(0), atol=1e-6)
    for power in (0.2, 1.0, 2.0):
        assert np.allclose(aggregate(logits, "power", power=power).exp(), (p**power).mean(0) ** (1 / power), atol=1e-5)


@pytest.mark.parametrize("at", [0.3, 1.0, 4.0])
def test_averages_at_a_temperature_in_numpy(at):
    """Probabilities are those of logits divided by it; the average of one view, or of views that are alike, is what it was."""
    logits, log_w = 3 * torch.randn(4, 5, 3), torch.randn(4, 5)
    p = np.exp(logits.double().numpy() / at)
    p /= p.sum(-1, keepdims=True)
    w = np.exp(log_w.double().numpy())[..., None]
    expected = {"mean_prob": p.mean(0), "probability": (w * p).sum(0) / w.sum(0)}
    for how, average in expected.items():
        weights = log_w if how == "probability" else None
        found = aggregate(logits, how, log_weights=weights, temperature=at)
        assert np.allclose((found / at).exp(), average, atol=1e-6), how
        alike = logits[:1].expand(4, -1, -1)
        same = aggregate(alike, how, log_weights=weights, temperature=at).softmax(-1)
        assert torch.allclose(same, logits[0].softmax(-1), atol=1e-5)
        assert torch.equal(aggregate(logits[:1], how, log_weights=log_w[:1], temperature=1.0), logits[0])
        torch.testing.assert_close(aggregate(logits[:1], how, log_weights=log_w[:1], temperature=at), logits[0])
    torch.testing.assert_close(aggregate(logits, "mean_logit", temperature=at), logits.mean(0))


def test_averages_that_cannot_be_made():
    logits = torch.randn(2, 3, 4)
    for power in (0.0, -1.0, math.nan):
        with pytest.raises(ia.InstaAugError, match=r"power: expected a number in \(0, ∞\)"):
            aggregate(logits, "power", power=power)
    for temperature in (0.0, -1.0, math.inf):
        with pytest.raises(ia.InstaAugError, match=r"temperature: expected a number in \(0, ∞\)"):
            aggregate(logits, temperature=temperature)
    for how in ("weighted", "probability"):
        with pytest.raises(ia.InstaAugError, match=f"log_weights: '{how}' needs them"):
            aggregate(logits, how)
    with pytest.raises(ia.InstaAugError, match="aggregate: expected one of mean_prob, .* got 'median'"):
        aggregate(logits, "median")


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_the_largest_logits_have_finite_averages(how):
    logits = torch.full((3, 2, 2), 3e38)
    logits[..., 1] *= -1
    weights = torch.zeros(3, 2) if how in ("weighted", "probability") else None
    assert (
        aggregate(logits.half() if how == "power" else logits, how, log_weights=weights).softmax(-1).tolist()
        == [[1, 0]] * 2
    )
