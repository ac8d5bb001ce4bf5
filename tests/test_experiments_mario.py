"""Mario and Iggy: the problem, what is measured of it, and a few steps."""

import json

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("example")  # the experiments can be imported


@pytest.fixture
def sprites(tmp_path):
    """Two faces that know up from down."""
    arrays = {name: np.random.default_rng(k).random((1, 3, 32, 32)) for k, name in enumerate(("mario", "iggy"))}
    np.savez(tmp_path / "sprites.npz", **arrays)
    return tmp_path / "sprites.npz"


def test_mario_iggy(sprites, tmp_path, capsys):
    import mario_iggy

    arms = ["ours", "one symmetric range", "three modes"]
    mario_iggy.main(["--data", str(sprites), "--out", str(tmp_path / "out"), "--smoke", "--arms", *arms])
    made = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["arm"] for row in made["summary"]] == arms
    assert all(0 <= run["spill"] <= 1 and 0 < run["coverage"] < 0.1 for run in made["runs"])
    assert "coverage" in capsys.readouterr().out
    assert (tmp_path / "out" / "figure5.png").stat().st_size > 5_000


def test_coverage_and_spill_in_closed_form():
    from mario_iggy import coverage_and_spill

    def measure(lo, hi, tilt, modes=1):
        coverage, spill = coverage_and_spill(torch.tensor([lo]), torch.tensor([hi]), torch.tensor([tilt]), modes)
        return coverage.item(), spill.item()

    assert measure(-90.0, 90.0, 0.0) == pytest.approx((1.0, 0.0))
    assert measure(-120.0, 60.0, 30.0) == pytest.approx((1.0, 0.0))
    assert measure(-45.0, 45.0, 45.0) == pytest.approx((0.5, 0.0))  # the most that a symmetric range has without spill
    assert measure(-180.0, 180.0, 20.0) == pytest.approx((1.0, 0.5))
    assert measure(0.0, 180.0, 0.0) == pytest.approx((0.5, 0.5))
    assert measure(-30.0, 30.0, 0.0, 3) == pytest.approx((1 / 3, 0.0))
    assert measure(-180.0, 180.0, 10.0, 3) == pytest.approx((1.0, 0.5))
    assert measure(90.0, 150.0, 0.0, 3) == pytest.approx((1 / 3, 0.0))


def test_tilts_classes_and_mask_of_the_sprites():
    import mario_iggy

    sprites = torch.zeros(2, 3, 32, 32)
    sprites[:, :, 4:8, 14:18] = 1.0  # a lamp at the top
    sprites[1] *= 0.5
    images, labels, tilt = mario_iggy.draw(sprites, 200, 1, torch.Generator().manual_seed(0))
    assert (images[:, :, 0, 0] == 0).all() and tilt.abs().max() <= 45
    brightest = images.amax((1, 2, 3))
    assert torch.equal(brightest < 0.75, labels >= 2)
    top = images[:, :, :16].sum((1, 2, 3)) > images[:, :, 16:].sum((1, 2, 3))
    assert torch.equal(top, labels % 2 == 0)
    counter_clockwise = images[..., :16].sum((1, 2, 3)) > images[..., 16:].sum((1, 2, 3))
    sure = (tilt.abs() > 10) & (labels % 2 == 0)
    assert torch.equal(counter_clockwise[sure], tilt[sure] > 0)
