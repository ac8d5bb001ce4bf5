"""What the benchmarks' figures are made with; the benchmarks themselves are no part of the ordinary run."""

import time
import types

import pytest
import torch

from .benchmarks import table
from .benchmarks.memory import peak_bytes
from .benchmarks.race import WARM_UP, Race, exponent


def test_peak_memory_is_what_was_allocated_at_once():
    def call():
        first = torch.empty(1000)
        second = torch.empty(3000)
        del first
        third = torch.empty(500)
        return second, third

    assert peak_bytes(call, torch.device("cpu")) == 4 * 4000


def test_a_race_runs_everyone_equally_often_and_tells_who_is_slower():
    ran = []

    def short():
        ran.append("short")

    def long():
        ran.append("long")
        time.sleep(0.002)

    race = Race({"short": short, "long": long}, torch.device("cpu"))
    race.run(5)
    assert ran.count("short") == ran.count("long") == WARM_UP + 5
    assert all(len(times) == 5 for times in race.wall.values())
    assert race.ratios("long", "short")["ratio"] > 1 > race.ratios("short", "long")["fastest"]


def test_exponents_of_powers():
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [7.0] * 4) == pytest.approx(0)


def test_tables_show_what_was_measured_and_which_bars_are_missed():
    def bar(setting, ratio, **more):
        return {"work": "aug", "against": "rival", "setting": setting, "bar": 0.8, "ratio": ratio, **more}

    timed = [
        bar("1 thread", 0.91, milliseconds=4.2, fastest=0.75),
        bar("2 threads", 0.62, milliseconds=2.1, fastest=0.6),
    ]
    run = {
        "machine_info": {
            "machine": "x86_64",
            "cpu": {"brand_raw": "Some CPU"},
            "versions": {"torch": "2.0"},
            "gpu": None,
        },
        "commit_info": {"id": "0123456789"},
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [
            {"extra_info": {"bars": timed}},
            {"extra_info": {"bars": [{**bar("1 thread", 1.25), "work": "peak memory of aug", "bar": 3.0}]}},
            {"extra_info": {"import": {"ours": 0.05, "first": 0.1, "bar": 0.05, "heavy": []}}},
        ],
    }
    page = table.text(run)
    assert "**0.91** (0.75)" in page and "0.62 (0.60)" in page and "4.20" in page and "≤ 0.8" in page
    assert "1.25" in page and "**1.25**" not in page and "0.050 s" in page and "Some CPU" in page


def test_agreement_of_losses_with_a_judge():
    from .benchmarks.measure_held_out_losses import told

    judge = torch.tensor([[1.0, 0.5, 1.5], [2.0, 3.0, 1.0]]).repeat(50, 1)
    same, opposite = told(judge, judge), told(3.0 - judge, judge)
    assert same[3] == same[4] == "1.000 [1.000, 1.000]" and opposite[3] == opposite[4] == "-1.000 [-1.000, -1.000]"
    assert same[0].startswith("1.500 ")
    assert same[5].startswith("0.750 ") and opposite[5].startswith("-0.750 ")  # 0.5 and 1.0 gained; 0.5 and 1.0 lost
    alike = told(judge[:1].repeat(100, 1), judge)
    assert alike[2].startswith("0.000 ") and float(same[2].split()[0]) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.slow
def test_harm_is_none_where_the_recommendation_is_one_view(capsys):
    from .benchmarks.measure_harm import judge
    from .benchmarks.measure_recommendation import digits

    classifier, images, labels = digits(0)
    images = (images * 255).byte()
    row = judge(
        classifier, ["turn"], (images[:120], labels[:120]), (images[300:400], labels[300:400]), 0, 32, True, False
    )
    one, _, ours = (float(cell) for cell in row[2:5])
    with torch.no_grad():
        right = (classifier(images[300:400].float() / 255).argmax(1) == labels[300:400]).double().mean()
    assert one == pytest.approx(100 * right.item()) and row[0] == "turn"
    if row[5].startswith("one view"):
        assert ours == one and row[6].startswith("+0.00")


def test_two_versions_take_turns(capsys, monkeypatch):
    """Both sides are this checkout: every work runs on both, and ratios are about 1."""
    from .benchmarks import side_by_side

    monkeypatch.setattr(side_by_side, "works", lambda threads: {"a sleep": (lambda: time.sleep(0.002), 4)})
    sides = []

    class Pipe:
        def __init__(self, root, threads):
            (self.call, rounds), self.root = side_by_side.works(threads)["a sleep"], root
            self.works, self.calls = [("a sleep", rounds)], 0
            self.process = types.SimpleNamespace(terminate=lambda: None)
            sides.append(self)

        def seconds(self, work):
            self.calls += 1
            start = time.perf_counter()
            self.call()
            return time.perf_counter() - start

    monkeypatch.setattr(side_by_side, "Side", Pipe)
    monkeypatch.setattr(side_by_side.subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr("sys.argv", ["side_by_side", "abc"])
    side_by_side.main()
    assert [side.calls for side in sides] == [7] * 4 and {side.root.name for side in sides[1::2]} == {"other"}
    assert capsys.readouterr().out.count("a sleep") == 2
