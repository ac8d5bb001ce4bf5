"""Time of ``aug(x)`` against one grid_sample and torchvision's RandomResizedCrop per sample, one thread.

Interleaved, warmed up, medians, in one process: ``python tests/benchmarks/transform_speed.py``.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torchvision.transforms import v2

import instaaug_transforms as ia


def medians(calls: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each call, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 3):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_ >= 3:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print a Markdown table; ``--out`` writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for shape in ((64, 3, 64, 64), (16, 3, 224, 224)):
        images = torch.rand(shape)
        theta = (0.8 * torch.eye(2, 3)).repeat(shape[0], 1, 1)
        theta[:, :, 2] = 0.1
        crop = ia.LearnedAugment.from_pretrained("crop_tinyimagenet")
        everything = ia.LearnedAugment(["crop", "rotate", "hsv"]).eval().requires_grad_(False)
        loop = v2.RandomResizedCrop(shape[-1], antialias=True)
        calls = {
            "one affine_grid + grid_sample": lambda images=images, theta=theta: F.grid_sample(
                images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False
            ),
            "torchvision RandomResizedCrop, per sample": lambda images=images, loop=loop: torch.stack(
                [loop(image) for image in images]
            ),
            "aug(x), crop": lambda images=images, crop=crop: crop(images),
            "aug(x), crop + rotate + hsv": lambda images=images, everything=everything: everything(images),
        }
        found = medians(calls, arguments.repeats)
        base, per_sample = (found[name] for name in list(calls)[:2])
        for name, seconds in found.items():
            rows.append(
                {
                    "images": "×".join(map(str, shape)),
                    "what": name,
                    "ms": 1000 * seconds,
                    "× grid_sample": seconds / base,
                    "× per-sample crop": seconds / per_sample,
                }
            )
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
