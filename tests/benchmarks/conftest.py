"""Where a benchmark runs, and how a comparison gets into the JSON."""

import pytest
import torch

from .race import Race

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


WHERE = [
    pytest.param("1 thread", id="one_thread"),
    pytest.param("2 threads", id="two_threads"),
    pytest.param("cuda", id="cuda", marks=NO_GPU),
]


@pytest.fixture(params=WHERE)
def setting(request, _seeded) -> str:
    """Number of threads, or the GPU."""
    if request.param != "cuda":
        torch.set_num_threads(int(request.param[0]))
    return request.param


@pytest.fixture
def device(setting) -> torch.device:
    return torch.device("cuda" if setting == "cuda" else "cpu")


@pytest.fixture
def race(benchmark, setting, device):
    """``race(calls, rounds, bars)``: times ``calls`` in turn; each bar is (work, subject, against, largest ratio or None)."""

    def run(calls, rounds, bars):
        timed = Race(calls, device)
        benchmark.pedantic(timed.run, args=(rounds,), rounds=1, iterations=1)
        benchmark.extra_info["milliseconds"] = timed.milliseconds()
        benchmark.extra_info["bars"] = [
            {
                "work": work,
                "against": against,
                "setting": setting,
                "bar": bar,
                "milliseconds": timed.milliseconds()[subject],
                **timed.ratios(subject, against),
            }
            for work, subject, against, bar in bars
        ]

    return run


@pytest.fixture
def record(benchmark, setting):
    """``record(work, against, bar, ratio)``: a ratio that is counted, not timed."""

    def note(work, against, bar, ratio, **more):
        bars = benchmark.extra_info.setdefault("bars", [])
        bars.append({"work": work, "against": against, "setting": setting, "bar": bar, "ratio": ratio, **more})

    return note


def pytest_benchmark_update_machine_info(config, machine_info):
    """Versions and GPU beside what pytest-benchmark notes itself; no name of the machine."""
    import kornia
    import torchvision

    machine_info.pop("node", None)
    packages = {"torch": torch, "torchvision": torchvision, "kornia": kornia}
    machine_info["versions"] = {name: package.__version__ for name, package in packages.items()}
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
