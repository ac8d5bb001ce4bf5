"""Colours under simulated lights."""

import json
import math

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("example")  # the experiments can be imported


def test_colour_lights(tmp_path):
    import colour_lights

    def made():
        assert (tmp_path / "learned-1-0.png").stat().st_size > 5_000
        return json.loads((tmp_path / "results.json").read_text())

    colour_lights.main(["--smoke", "--out", str(tmp_path)])
    first = made()
    assert [run["lights"] for run in first["runs"]] == [1, 2] and first["runs"][0]["simulated"]
    arms = {"none", "global hsv", "hsv, without input", "ours, hsv", "ours, local field"}
    assert set(first["runs"][0]["arms"]) == arms
    table = {(row["lights"], row["group"], row["arm"]): row for row in first["summary"]}
    assert len(table) == 3 * 4 * 5 and table["mean", "hard", "none"]["seeds"] == 2
    colour_lights.main(["--smoke", "--out", str(tmp_path), "--resume"])
    assert made() == first


def test_the_widest_range_that_held_out_images_allow():
    from colour_lights import widest_within_one_error

    noise = np.random.default_rng(0).normal(size=400)  # standard error 0.05
    at = [1.0 + noise, 1.02 + noise, 1.2 + noise]
    assert widest_within_one_error(at) == 1
    assert widest_within_one_error(at[::-1]) == 2
    assert widest_within_one_error(at[2:]) == 0


def test_lights_are_physical():
    import colour_lights

    warm, cold = colour_lights.planckian(2700), colour_lights.planckian(9500)
    assert colour_lights.planckian(6500.0) == pytest.approx((1, 1, 1))
    assert warm[0] > 1 > warm[2] and cold[0] < 1 < cold[2]
    # Wien's approximation, exact to a few per mille at these wavelengths and temperatures.
    wien = math.exp(1.438777e-2 * (1 / 610e-9 - 1 / 550e-9) * (1 / 6500 - 1 / 2700))
    assert warm[0] == pytest.approx(wien, rel=0.03)
    lights = {light[0]: light for light in colour_lights.all_lights()}
    assert next(iter(lights)) == "neutral" and len(lights) == len(colour_lights.all_lights()) == 23
    grey = torch.full((1, 3, 4, 8), 0.5)
    assert torch.allclose(colour_lights.shine(grey, lights["neutral"]), grey, atol=1e-5)
    linear = ((0.5 + 0.055) / 1.055) ** 2.4 / 2
    half = colour_lights.shine(grey, lights["intensity 0.5"])[0, 0, 0, 0]
    assert half.item() == pytest.approx(1.055 * linear ** (1 / 2.4) - 0.055, abs=1e-4)
    assert (colour_lights.shine(grey, lights["gradient dark to bright"])[0, 0, 0].diff() > 0).all()
    assert sum(left != right for _, left, right in lights.values()) == 7
