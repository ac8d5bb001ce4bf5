"""Contestants timed in turn, in one process: what slows the machine down slows all of them."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable

import torch

WARM_UP = 3


class Race:
    """Times of named calls; each runs once a round, in an order that is shuffled every round.

    Whoever runs after one that gives much memory back to the system has to ask for it again: no order would be fair.

    Args:
        calls: name to what is timed.
        device: where they run. On CUDA, time is that between two events of the current stream.
    """

    def __init__(self, calls: dict[str, Callable[[], object]], device: torch.device) -> None:
        self.calls, self.device = calls, device
        self.wall: dict[str, list[float]] = {name: [] for name in calls}
        self.processor: dict[str, list[float]] = {name: [] for name in calls}
        self._rounds, self._order = 0, random.Random(0)

    def round(self) -> None:
        """Every call once. The first `WARM_UP` rounds do not count."""
        for name in self._order.sample(list(self.calls), len(self.calls)):
            wall, processor = (self._cuda if self.device.type == "cuda" else self._cpu)(self.calls[name])
            if self._rounds >= WARM_UP:
                self.wall[name].append(wall)
                self.processor[name].append(processor)
        self._rounds += 1

    def _cpu(self, call: Callable[[], object]) -> tuple[float, float]:
        processor, wall = time.process_time(), time.perf_counter()
        call()
        return time.perf_counter() - wall, time.process_time() - processor

    def _cuda(self, call: Callable[[], object]) -> tuple[float, float]:
        torch.cuda.synchronize(self.device)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        processor = time.process_time()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end) / 1000, time.process_time() - processor

    def run(self, rounds: int) -> None:
        """That many rounds besides those that warm up, without the garbage collector in between."""
        gc.collect()
        gc.disable()
        try:
            for _ in range(WARM_UP + rounds):
                self.round()
        finally:
            gc.enable()

    def milliseconds(self) -> dict[str, float]:
        """Median of each."""
        return {name: 1000 * statistics.median(times) for name, times in self.wall.items()}

    def ratios(self, subject: str, against: str) -> dict[str, float]:
        """The subject's time over the other's: of the medians, of the fastest rounds, and of the processor's time."""

        def ratio(times: dict[str, list[float]], of: Callable) -> float:
            return of(times[subject]) / of(times[against])

        return {
            "ratio": ratio(self.wall, statistics.median),
            "fastest": ratio(self.wall, min),
            "processor": ratio(self.processor, statistics.median),
        }


def exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of log value over log size, least squares."""
    x, y = ([math.log(v) for v in line] for line in (sizes, values))
    x = [v - sum(x) / len(x) for v in x]
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)
