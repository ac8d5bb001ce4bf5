"""Tables of comparisons, from numbers that are known."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats

from instaaug_transforms.tta.report import (
    CONFIDENT,
    FLIP,
    GREEDY,
    ORACLE,
    OURS,
    RECOMMENDED,
    SHUFFLED,
    SINGLE,
    ArmResult,
    Evaluation,
)
from instaaug_transforms.tta.runner import Way

N = 40


def arm(name, k, right, nll, **more):
    noise = np.linspace(-0.1, 0.1, N)
    return ArmResult(name, k, np.arange(N) < right, nll + noise[:: 1 if k == 1 else -1], 1.5, 0.25, **more)


def evaluation(*arms):
    return Evaluation({(one.name, one.n_views): one for one in arms}, N, 3)


SINGLE_VIEW = arm(SINGLE, 1, 20, 1.0, cost=1.0)


def test_a_row_has_percents_nats_and_the_gain_over_one_view():
    ours = arm(OURS, 4, 26, 0.75, cost=4.5)
    single, row = evaluation(SINGLE_VIEW, ours).records()
    assert (single["arm"], single["K"], single["top1"], single["gain"][:]) == (SINGLE, 1, 50.0, (0.0, 0.0, 0.0))
    assert (row["arm"], row["K"], row["cost"], row["n"], row["top1"]) == (OURS, 4, 4.5, N, 65.0)
    assert (row["nll"], row["ece"], row["temperature"]) == (pytest.approx(0.75), 25.0, 1.5)
    gained = ours.correct.astype(float) - SINGLE_VIEW.correct
    ends = scipy.stats.bootstrap(
        (gained,), np.mean, n_resamples=2000, method="percentile", batch=100, rng=np.random.default_rng(3)
    ).confidence_interval
    assert row["gain"][:] == pytest.approx((15.0, 100 * ends.low, 100 * ends.high))
    assert row["nll_change"].estimate == pytest.approx(-0.25)
    assert row["nll_change"].low < -0.25 < row["nll_change"].high


def test_the_best_arm_that_does_not_look_is_that_of_the_highest_accuracy_with_no_more_views():
    """At equal accuracy that of the lowest NLL. Arms that look, or know the label, are no rivals."""
    flip, greedy, more = arm(FLIP, 2, 22, 0.9), arm(GREEDY, 2, 22, 0.8), arm(GREEDY, 4, 24, 0.7)
    looking = [arm(name, 1, 40, 0.1) for name in (OURS, ORACLE, RECOMMENDED, CONFIDENT)]
    found = evaluation(SINGLE_VIEW, flip, greedy, more, *looking)
    assert [found.best_input_free(k).name for k in (1, 2, 3)] == [SINGLE, GREEDY, GREEDY]
    assert found.best_input_free(2) is greedy and found.best_input_free(4) is more
    shuffled = arm(SHUFFLED, 1, 30, 2.0)
    assert evaluation(SINGLE_VIEW, shuffled).best_input_free(1) is shuffled


def test_what_is_said_of_ours():
    ours, flip = arm(OURS, 2, 25, 0.75), arm(FLIP, 2, 23, 0.85)
    (line,) = evaluation(SINGLE_VIEW, flip, ours).against_input_free()
    assert line.startswith("K = 2: ours − best input-free (horizontal flip, K = 2) = +5.00 points [+0.00, +")
    assert ", NLL -0.100 [-0.100, -0.100]" in line
    assert evaluation(SINGLE_VIEW, flip).against_input_free() == []


def test_a_table_shows_every_arm_and_no_gain_of_one_view_over_itself():
    found = evaluation(SINGLE_VIEW, arm(OURS, 4, 26, 0.75, cost=4.5))
    head, _, single, ours = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in found.table().splitlines()
    )
    assert head == ["views", "K", "forwards", "top-1 %", "points over single view [95 %]", "NLL", "ECE %"]
    assert single == [SINGLE, "1", "1", "50.00", "–", "1.000", "25.0"]
    assert ours[:4] == [OURS, "4", "4.5", "65.00"] and ours[4].startswith("+15.00 [+") and ours[5:] == ["0.750", "25.0"]
    assert math.isnan(ArmResult("a", 1, np.ones(1), np.ones(1), 1.0, 0.0).cost)


def test_written_rows_hold_the_seed_and_the_notes(tmp_path):
    evaluation(SINGLE_VIEW).write(tmp_path / "a.csv", model="m")
    header, row = (line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines())
    told = dict(zip(header, row, strict=True))
    assert (told["seed"], told["model"], told["n"], told["arm"]) == ("3", "m", str(N), SINGLE)


def test_what_was_compared_is_not_changed():
    found = evaluation(SINGLE_VIEW)
    for made, name in ((SINGLE_VIEW, "cost"), (found, "seed"), (Way("a", {}, None), "looks")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 3)
    assert Way("a", {}, None).average is None and not Way("a", {}, None).looks


def test_what_an_arm_has_not_is_null_in_json(tmp_path):
    """Other languages read no NaN."""
    found = evaluation(SINGLE_VIEW, dataclasses.replace(arm(ORACLE, 9, 50, 0.5), ece=math.nan, cost=math.nan))
    found.write(tmp_path / "a.json", "json")
    single, oracle = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert oracle["ece"] is None and oracle["cost"] is None and single["ece"] == pytest.approx(25.0)
