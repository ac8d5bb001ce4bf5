"""How time and peak memory grow as batch, views, anchors and pixels double."""

import pytest
import torch

from instaaug_transforms.families.crop import Crop

from . import rivals
from .memory import peak_bytes
from .race import Race, exponent


def grown(what: str, device):
    """(size, call) from small to large; sizes double, as nearly as they can."""
    if what == "B, images":
        aug = rivals.fitted(rivals.ALL, device)
        for batch in (16, 32, 64, 128, 256):
            images = torch.rand(batch, 3, 64, 64, device=device)
            yield batch, lambda images=images: aug(images)
    elif what == "K, views":
        aug, images = rivals.fitted(rivals.ALL, device), torch.rand(16, 3, 64, 64, device=device)
        for n in (1, 2, 4, 8, 16):
            yield n, lambda n=n: aug.views(images, n=n)
    elif what == "A, anchors":
        images = torch.rand(64, 3, 64, 64, device=device)
        for grid in (4, 6, 8, 11, 16, 23):  # 17, 37, 65, 122, 257, 530
            aug = rivals.fitted([Crop((1.0, 0.5), (1, grid))], device)
            yield 1 + grid**2, lambda aug=aug: aug(images)
    else:
        aug = rivals.fitted(rivals.ALL, device)
        for side in (64, 91, 128, 181, 256, 362, 512):
            images = torch.rand(4, 3, side, side, device=device)
            yield side**2, lambda images=images: aug(images)


@pytest.mark.parametrize("what", ["B, images", "K, views", "A, anchors", "pixels"])
def test_growth(benchmark, record, device, setting, what):
    calls = dict(grown(what, device))
    race = Race({str(size): call for size, call in calls.items()}, device)
    benchmark.pedantic(race.run, args=(15,), rounds=1)
    # The fastest round: a median would fit the machine's other work where rounds are long.
    seconds = [min(times) for times in race.wall.values()]
    peaks = [peak_bytes(call, device) for call in calls.values()]
    curve = {"what": what, "setting": setting, "sizes": list(calls), "seconds": seconds, "bytes": peaks}
    benchmark.extra_info["curve"] = curve
    for name, values in (("time", seconds), ("memory", peaks)):
        slope = exponent(curve["sizes"], values)
        last = exponent(curve["sizes"][-2:], values[-2:])
        record(f"{name} as {what} double", "linear growth: exponent", 1.05, slope, last_doubling=last)
