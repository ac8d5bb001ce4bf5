"""Peak memory of a fit by table to streamed images of 224 px, a process for each number of images.

python tests/benchmarks/measure_memory.py 4000 20000
"""

import resource
import subprocess
import sys

import torch
from torch import nn
from torch.utils.data import Dataset

import instaaug_transforms as ia


class Noise(Dataset):
    """Made when it is asked for."""

    def __init__(self, n: int) -> None:
        self.targets = [i % 10 for i in range(n)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        generator = torch.Generator().manual_seed(i)
        return torch.randint(256, (3, 224, 224), dtype=torch.uint8, generator=generator), self.targets[i]


def peak(n: int) -> float:
    """MB of this process after a fit to ``n`` images."""
    torch.set_num_threads(1)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    settings = {"epochs": 1, "max_steps": 20, "entropy_weights": (0.1,), "table_batch_size": 64, "progress": False}
    ia.fit(ia.LearnedAugment(["turn"]), model, Noise(n), config=ia.FitConfig(**settings))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(f"{sys.argv[1]} images: {peak(int(sys.argv[1])):.0f} MB", flush=True)
    else:
        for count in sys.argv[1:]:
            subprocess.run([sys.executable, __file__, count], check=True)
