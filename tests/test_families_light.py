import math

import numpy as np
import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.families.light import Light
from instaaug_transforms.functional import linear_rgb
from instaaug_transforms.functional.linear_rgb import relight


@pytest.mark.parametrize("low, high", [(-6, -3), (-3, 0), (0, 3), (3, 6)])
def test_gains_are_those_in_linear_rgb(low, high):
    images = torch.cat([torch.rand(6, 3, 9, 11), torch.rand(6, 3, 9, 11) * 0.05])
    gains = torch.exp2(low + (high - low) * torch.rand(12, 3))
    expected = linear_rgb_to_rgb((rgb_to_linear_rgb(images) * gains[..., None, None]).clamp(0, 1))
    assert (relight(images, gains) - expected).abs().max() < 2e-6


def test_it_can_be_differentiated():
    images, gains = torch.rand(2, 3, 4, 4, requires_grad=True), torch.full((2, 3), 1.3)
    relight(images, gains).sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0


def test_no_change_is_no_change_to_the_bit():
    images = torch.rand(3, 3, 8, 8)
    params = Light().candidates().index(slice(0, 1)).map(lambda field: field.expand(3))
    assert torch.equal(functional.apply(images, params, [Light()]), images)


def test_one_stop_doubles_the_light_and_white_balance_moves_red_against_blue():
    family, grey = Light(exposures=(0.0, 1.0), white_balances=(0.0, 0.8)), torch.full((4, 3, 4, 4), 0.3)
    out = rgb_to_linear_rgb(functional.apply(grey, family.candidates(), [family]))[:, :, 0, 0]
    light = rgb_to_linear_rgb(grey)[:, :, 0, 0]
    factors = torch.tensor([[1, 1, 1], [2**0.4, 1, 2**-0.4], [2, 2, 2], [2**1.4, 2, 2**0.6]])
    assert torch.allclose(out, light * factors, rtol=1e-4)


def test_disturbances_are_what_candidates_undo():
    family, uniform = Light(), torch.rand(200, 2)
    fields = family.disturb(uniform)
    exposures = [-e for e in family.exposures]
    assert fields["exposure"].min() >= min(exposures) - 0.5 and fields["exposure"].max() <= max(exposures) + 0.5
    undo = family.take(fields["light"])
    assert ((undo["exposure"] + fields["exposure"]).abs() <= 0.5 + 1e-5).all()
    assert ((undo["white_balance"] + fields["white_balance"]).abs() <= 0.4 + 1e-5).all()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"exposures": (1.0,)},
        {"white_balances": ()},
        {"exposures": (0.0, 1.0, 1.0)},
        {"exposures": (0.0, math.nan)},
        {"white_balances": (0.0, 1e9)},
        {"exposures": None},
        {"exposures": 0.0},
        {"white_balances": ("warm",)},
    ],
)
def test_bad_tables(kwargs):
    with pytest.raises(ia.InstaAugError, match=f"light: {next(iter(kwargs))}"):
        Light(**kwargs)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_stops_may_come_in_any_sequence(kind):
    assert Light(kind([0.0, 1.0]), kind([0.0])).config() == Light((0.0, 1.0), (0.0,)).config()


def test_kornias_curve_is_taken_where_something_is_learned_alone(monkeypatch):
    """It takes a hundred times as long."""
    called = []
    real = linear_rgb._in_linear
    monkeypatch.setattr(linear_rgb, "_in_linear", lambda *given: called.append(1) or real(*given))
    images, gains = torch.rand(2, 3, 4, 4), torch.full((2, 3), 1.3)
    plain = relight(images, gains)
    with torch.no_grad():
        relight(images.clone().requires_grad_(), gains.clone().requires_grad_())
    assert not called
    for learned in ((images.clone().requires_grad_(), gains), (images, gains.clone().requires_grad_())):
        called.clear()
        assert torch.allclose(relight(*learned), plain, atol=2e-6) and called


def test_the_curve_is_that_of_the_standard():
    """IEC 61966-2-1 in NumPy, in double precision: a straight part up to 0.04045, and a power of 2.4."""
    codes = torch.linspace(0, 1, 1001)
    images = codes.expand(1, 3, 1, -1)
    for gain in (0.25, 0.9, 1.0, 4.0, 30.0):
        light = np.where(codes <= 0.04045, codes / 12.92, ((codes.double() + 0.055) / 1.055) ** 2.4)
        lit = np.clip(light * gain, 0, 1)
        expected = np.where(lit <= 0.04045 / 12.92, 12.92 * lit, 1.055 * lit ** (1 / 2.4) - 0.055)
        assert np.abs(relight(images, torch.full((1, 3), gain))[0, 0, 0].numpy() - expected).max() < 2e-6


def test_the_widest_disturbances_lie_half_a_step_beyond_what_undoes_them():
    """Exposures −1 … 3 undo −3 … 1, a stop apart; white balances ±0.8, 0.8 apart; a single one undoes itself alone."""
    ends = Light().disturb(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.0, 1.0]]))
    assert ends["exposure"].tolist() == pytest.approx([-3.5, 1.5, -1.0, -3.5])
    assert ends["white_balance"].tolist() == pytest.approx([-1.2, 1.2, 0.0, 1.2])
    assert Light().take(ends["light"])["exposure"].tolist() == [3.0, -1.0, 1.0, 3.0]
    assert Light().take(ends["light"])["white_balance"].tolist() == pytest.approx([0.8, -0.8, 0.0, -0.8])
    single = Light(exposures=(0.0,), white_balances=(0.0, 1.0)).disturb(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert single["exposure"].tolist() == [0.0, 0.0] and single["white_balance"].tolist() == [-1.5, 0.5]


def test_every_exposure_comes_with_every_white_balance():
    columns = Light((0.0, 1.0, 2.0), (0.0, -0.5)).candidates()
    assert list(zip(columns.exposure.tolist(), columns.white_balance.tolist(), strict=True)) == [
        (e, w) for e in (0.0, 1.0, 2.0) for w in (0.0, -0.5)
    ]
    for options in ({"exposures": ()}, {"white_balances": (0.5, 0.0)}, {"white_balances": (0.0, 0.5, 0.5)}):
        with pytest.raises(ia.InstaAugError, match=f"light: {next(iter(options))} must be different stops"):
            Light(**options)
