"""What a report says of arms whose numbers are known."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

import instaaug_transforms as ia
from instaaug_transforms.learning.report import HeldOutArm, HeldOutReport

N = 20
RIGHT = np.arange(N) < 10


def arm(name="one view", k=1, cost=1.0, correct=RIGHT, nll=1.0, **more):
    return HeldOutArm(name, k, cost, correct, np.full(N, nll) + np.linspace(-0.5, 0.5, N), **more)


def interval(values):
    ends = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", batch=100, rng=np.random.default_rng(0)
    ).confidence_interval
    return values.mean(), ends.low, ends.high


def test_rows_are_percents_nats_and_gains_over_the_first_arm():
    ours = arm("ours", 4, 4.5, np.arange(N) < 14, 0.75)
    first, row = HeldOutReport([arm(), ours], ours, N, "labels").rows()
    assert first == {
        "arm": "one view",
        "K": 1,
        "cost": 1.0,
        "top1": 50.0,
        "nll": pytest.approx(1.0),
        "gain": 0.0,
        "gain_low": 0.0,
        "gain_high": 0.0,
    }
    assert (row["arm"], row["K"], row["cost"], row["top1"]) == ("ours", 4, 4.5, pytest.approx(70.0))
    gained = 100 * ((np.arange(N) < 14).astype(float) - RIGHT)
    assert (row["gain"], row["gain_low"], row["gain_high"]) == pytest.approx(interval(gained))
    assert "undisturbed" not in row and row["nll"] == pytest.approx(0.75)


def test_what_images_as_they_are_gain_leaves_the_others_out():
    left = np.where(np.arange(N) % 2, np.nan, 1.0)
    single = arm(undisturbed=left)
    ours = arm("ours", 2, undisturbed=np.where(np.arange(N) < 6, 0.0, left))
    row = HeldOutReport([single, ours], single, N, "labels").rows()[1]
    lost = 100.0 * np.where(np.arange(N) < 6, -1, 0)[::2]
    lost = np.concatenate([lost[:3], lost[3:]])
    assert row["undisturbed"] == pytest.approx(-30.0) == pytest.approx(lost.mean())
    assert row["undisturbed_low"] < -30 < row["undisturbed_high"] <= 0


def test_losses_of_ones_own_are_gains_where_they_fall():
    ours = arm("ours", 2, 2.0, None, 0.25)
    row = HeldOutReport([arm(correct=None), ours], ours, N, "targets").rows()[1]
    assert set(row) == {"arm", "K", "cost", "loss", "gain", "gain_low", "gain_high"}
    assert row["loss"] == pytest.approx(0.25) and row["gain"] == pytest.approx(0.75)


def test_what_is_kept_with_the_weights():
    ours = arm("ours", 2, 2.0, setting={"n_views": 2})
    single = arm(setting={"n_views": 1})
    report = HeldOutReport([single, ours], ours, N, "labels", cheaper=[single])
    assert report.to_json() == {
        "recommended": {"arm": "ours", "cost": 2.0, "n_views": 2},
        "cheaper": [{"arm": "one view", "cost": 1.0, "n_views": 1}],
        "table": report.rows(),
        "n": N,
        "against": "labels",
    }
    assert HeldOutReport([arm()], arm(), N, "labels").to_json()["recommended"] == {"arm": "one view", "cost": 1.0}


def test_what_takes_fewer_forwards_is_said_but_for_one_view():
    single, *ours = arm(), *(arm("ours", k, k + 0.514) for k in (1, 2, 4))
    report = HeldOutReport([single, *ours], ours[2], N, "labels", cheaper=[ours[1], ours[0], single])
    assert (
        str(report).splitlines()[-1]
        == "recommended: ours, K = 4; in fewer forwards: ours, K = 2 (2.51); ours, K = 1 (1.51)"
    )
    report = HeldOutReport([single, *ours], ours[2], N, "labels", cheaper=[single])
    assert str(report).splitlines()[-1] == "recommended: ours, K = 4"


def test_what_is_printed():
    single, ours = arm(), arm("ours", 4, 4.5, np.arange(N) < 14, 0.75)
    first, empty, *table, blank, advice, note = str(
        HeldOutReport([single, ours], ours, N, "labels", ["A note."])
    ).splitlines()
    assert (first, empty, blank) == (f"{N} held-out images, against labels", "", "")
    assert (advice, note) == ("recommended: ours, K = 4", "A note.")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == ["views", "K", "forwards", "top-1 %", "points over one view [95 %]", "NLL"]
    assert cells[2] == ["one view", "1", "1", "50.00", "", "1.000"]
    assert (
        cells[3][:4] == ["ours ←", "4", "4.5", "70.00"]
        and cells[3][4].startswith("+20.00 [+")
        and cells[3][5] == "0.750"
    )
    assert str(HeldOutReport([single, ours], single, N, "labels")).splitlines()[-1] == "recommended: one view"


def test_arms_of_one_name_k_and_cost_are_told_apart():
    """The arrow stands at the one that is recommended."""
    twins = [arm("ours", 1, 2.0, nll=nll) for nll in (0.9, 0.8)]
    lines = str(HeldOutReport([arm(), *twins], twins[1], N, "labels")).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ours")] == ["ours", "ours ←"]


def test_what_was_found_is_not_changed_and_arms_are_shown_without_their_numbers():
    single = arm(undisturbed=np.zeros(N), undisturbed_nll=np.zeros(N), more=arm())
    report = HeldOutReport([single], single, N, "labels")
    for made, name in ((single, "cost"), (report, "n_images")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 3)
    assert repr(single) == "HeldOutArm(name='one view', n_views=1, cost=1.0, setting=None)"
    bare = HeldOutArm("one view", 1, 1.0, None, np.zeros(N))
    assert bare.setting is bare.more is bare.undisturbed is bare.undisturbed_nll is None and report.notes == []


def test_a_notebook_shows_the_table_and_a_result_what_is_recommended():
    single, ours = arm(), arm("ours", 4, 5.0, nll=0.8)
    report = HeldOutReport([single, ours], ours, N, "labels", ["A note.", "Another."])
    assert repr(report) == str(report) and str(report).splitlines()[-3:] == [
        "recommended: ours, K = 4",
        "A note.",
        "Another.",
    ]
    against, table, *rest = report._repr_markdown_().split("\n\n")
    assert (
        against in str(report) and table in str(report) and rest == ["recommended: ours, K = 4", "A note.", "Another."]
    )
    shown = repr(ia.FitResult([{"loss": 1.0}] * 7, 3, False, 2.04, 7.9, report))
    assert shown == (
        "FitResult(7 epochs, best_epoch=3, stopped_early=False, table_seconds=2.0, fit_seconds=7.9, recommended='ours, K = 4')"
    )
    assert repr(ia.FitResult([], 0, False, 0.0, 0.0)).endswith("recommended=None)")
    assert HeldOutReport([single, ours], single, N, "labels").advice == "one view"
