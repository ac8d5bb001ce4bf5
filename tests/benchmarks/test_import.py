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
import instaaug_transforms
between = time.perf_counter()
instaaug_transforms.LearnedAugment
end = time.perf_counter()
heavy = [name for name in ("kornia", "matplotlib", "timm", "sklearn", "scipy") if name in sys.modules]
print(json.dumps([between - start, end - between, heavy]))
"""


def test_import(benchmark):
    def measure():
        run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        return json.loads(run.stdout)

    found = [measure() for _ in range(benchmark.pedantic(lambda: 7, rounds=1))]
    ours, first = (statistics.median(line[i] for line in found) for i in (0, 1))
    benchmark.extra_info["import"] = {"ours": ours, "first": first, "bar": 0.05, "heavy": found[0][2]}
