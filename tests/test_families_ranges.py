"""Ranges and their quantiles, in closed form and against SciPy and torch."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from scipy.stats import qmc

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.families import create
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.rotate import Rotate
from instaaug_transforms.families.uniform import quantile_orders


def test_quantiles_go_by_halves_and_then_as_torch_shuffles():
    """The first order is that of van der Corput's sequence, SciPy's; the others those of `randperm`, seeded by their number."""
    for k in (2, 3, 4, 7, 10, 33):
        orders = quantile_orders(k, min(4, math.factorial(k)))
        halves = qmc.Halton(1, scramble=False).random(k + 1)[1:, 0]
        assert orders[0] == tuple(halves.argsort().argsort().tolist())
        assert len(set(orders)) == len(orders) and all(sorted(order) == list(range(k)) for order in orders)
    generator = torch.Generator().manual_seed(10)
    shuffled = [tuple(torch.randperm(10, generator=generator).tolist()) for _ in range(100)]
    assert quantile_orders(10, 2)[1] == shuffled[0]
    assert (
        quantile_orders(1, 3) == [(0,)] * 3
        and len(quantile_orders(2, 5)) == 5
        and quantile_orders(2, 2) == [(1, 0), (0, 1)]
    )
    assert quantile_orders(5, 0) == []


def test_quantiles_are_in_the_middle_of_their_parts():
    part = Rotate(bounds=(-40.0, 40.0)).distribution(
        torch.tensor([[40.0, 0.0], [0.0, 0.0]])
    )  # all, and the middle half
    for k in (1, 2, 5):
        angle = part.top(k)["angle"]
        middles = (torch.arange(k) + 0.5) / k
        assert torch.allclose(angle[:, 0].sort().values, -40 + 80 * middles, atol=1e-3)
        assert torch.allclose(angle[:, 1].sort().values, -20 + 40 * middles, atol=1e-3)
    first, second = (part.top(6, place)["angle"][:, 0].argsort().tolist() for place in (0, 1))
    assert first != second == torch.tensor(quantile_orders(6, 2)[1]).argsort().tolist()


def test_ranges_in_closed_form():
    """Width σ(r_w) of the bounds, at σ(r_c) of the room that is left; narrowed to its middle; the likeliest is the nearest to the identity."""
    family = Rotate(bounds=(-40.0, 160.0))
    raw = torch.tensor([[0.0, 0.0], [1.0, -2.0], [-30.0, 3.0], [-1.0, 2.0], [3.0, -3.0]])
    width, start = scipy.special.expit(raw.double().numpy()).T
    width = np.maximum(width, 1e-6)
    low = -40 + 200 * (1 - width) * start
    part = family.distribution(raw)
    u = part.fields["angle"]
    assert np.allclose(u.lo, low, atol=1e-3) and np.allclose(u.hi - u.lo, 200 * width, atol=2e-3)
    assert np.allclose(part.entropy(), np.log(width), atol=0.1) and (u.bounds, part.n_uniforms) == ((-40.0, 160.0), 1)
    assert np.allclose(part.mode()["angle"], np.clip(0, low, low + 200 * width), atol=1e-2)
    assert part.mode()["angle"][3] > 1 and part.mode()["angle"][0] == 10
    narrow = part.narrowed(0.25).fields["angle"]
    middle = low + 100 * width
    assert np.allclose(narrow.lo, middle - 25 * width, atol=1e-3) and np.allclose(
        narrow.hi, middle + 25 * width, atol=1e-3
    )
    assert part.fields["angle"] is u
    drawn = part.from_uniform(torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand(3, 5, 1))["angle"]
    assert np.allclose(drawn, np.stack([low, middle, low + 200 * width]), atol=2e-3)


@pytest.mark.parametrize("bounds", [(0.0, 90.0), (-90.0, 0.0), (-30.0, 60.0)])
def test_a_fresh_range_is_two_hundredths_wide_at_the_identity_or_a_hundredth_from_the_edge(bounds):
    family, (low, high) = Rotate(bounds=bounds), bounds
    u = family.distribution(family._initial_raw()[None]).fields["angle"]
    size = high - low
    start = min(max(((0 - low) / size - 0.01) / 0.98, 0.01), 0.99)
    assert u.lo.item() == pytest.approx(low + 0.98 * start * size, abs=1e-3)
    assert (u.hi - u.lo).item() == pytest.approx(0.02 * size, rel=1e-3)


def test_bounds_are_finite_hold_the_identity_and_are_no_point():
    for good in ((0.0, 1e6), (-1e6, 0.0), (-1e-3, 1e-3)):
        assert Rotate(bounds=good).bounds["angle"] == good
    for bad in ((0.0, 1e6 + 0.5), (-1e6 - 0.5, 0.0), (0.0, 0.0), (1e-9, 1.0), (-1.0, -1e-9), (1.0, -1.0), (0.0,), (-1.0, 0.0, 1.0),
                (float("nan"), 1.0), (-1.0, float("inf"))):  # fmt: skip
        with pytest.raises(ia.InstaAugError, match="bounds of 'angle' in family 'rotate' must be"):
            Rotate(bounds=bad)
    with pytest.raises(ia.InstaAugError, match=r"'rotate' must be \(low, high\) around the identity 0, got 30$"):
        Rotate(bounds=30)
    with pytest.raises(ia.InstaAugError, match="'rotate': expected several numbers.*got '30'"):
        Rotate(bounds="30")


@pytest.mark.parametrize(
    ("family", "bounds"),
    [
        (Rotate((-30, 90)), {"angle": (-30, 90)}),
        (Rotate((0, 90)), {"angle": (0, 90)}),
        (create(["scale"], {"scale": {"bounds": (0.25, 2)}})[0], {"log2_scale": (-2, 1)}),
        (create(["mean_field_crop"])[0], {"crop_side": (0.3, 1), "crop_x": (0, 1), "crop_y": (0, 1)}),
    ],
)
def test_a_disturbance_is_drawn_from_bound_to_bound(family, bounds):
    """Wherever the identity lies: images are disturbed as widely as the family can undo."""
    drawn = Nuisance([family], 1.0).drawn(0, torch.arange(2000))
    for name, (low, high) in bounds.items():
        assert scipy.stats.kstest(drawn[name].numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    ends = family.disturb(torch.tensor([0.0, 1.0])[:, None].expand(2, len(bounds)))
    assert all(ends[name].tolist() == pytest.approx(pair) for name, pair in bounds.items())


def test_the_widest_part_is_all_of_it_unless_less_is_asked_for():
    ends = torch.tensor([[0.0], [0.5], [1.0]])
    assert Rotate().widest(ends)["angle"].tolist() == [-180.0, 0.0, 180.0] == Rotate().disturb(ends)["angle"].tolist()
    assert Crop().widest(ends)["anchor"].tolist() == [0, 15, 29]
