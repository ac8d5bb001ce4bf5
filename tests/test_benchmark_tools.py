"""What the benchmarks' figures are made with; the benchmarks themselves are no part of the ordinary run."""

import time

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
