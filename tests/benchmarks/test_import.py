"""How long the import takes after torch and torchvision."""

import json
import statistics
import subprocess
import sys

CODE = """
import json, sys, time
import torch, torchvision
from torchvision.transforms import v2
start = time.perf_counter()
import kornia.filters
between = time.perf_counter()
from instaaug_transforms import LearnedAugment
end = time.perf_counter()
heavy = [name for name in ("matplotlib", "timm", "sklearn", "scipy") if name in sys.modules]
print(json.dumps([between - start, end - between, heavy]))
"""


def test_import(benchmark):
    def measure():
        run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        return json.loads(run.stdout)

    found = [measure() for _ in range(benchmark.pedantic(lambda: 7, rounds=1))]
    kornia, ours = (statistics.median(line[i] for line in found) for i in (0, 1))
    benchmark.extra_info["import"] = {"kornia": kornia, "ours": ours, "bar": 0.3, "heavy": found[0][2]}
