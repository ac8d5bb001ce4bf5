"""Time of `measure_invariance` against the bare forwards of the same numbers of images, in one process, in turn.

Thirteen transformations × eleven magnitudes (posterize has eight) of N images: ``python tests/benchmarks/measure_speed.py``.
Processor time, so that other programs on the machine do not count. The identities share one forward, so fewer are run than
transformations × magnitudes: both ratios are printed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import instaaug_transforms as ia
from instaaug_transforms.measure import STANDARD


@torch.inference_mode()
def forwards(model: torch.nn.Module, images: torch.Tensor, times: int, batch_size: int) -> None:
    """``times`` forwards of every image, nothing else."""
    for _ in range(times):
        for batch in images.split(batch_size):
            model(batch)


def main() -> None:
    """Print one line; ``--out`` writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = torch.rand(arguments.images, 3, arguments.size, arguments.size)
    labels = torch.zeros(arguments.images, dtype=torch.long)
    model = ia.timm.create_classifier(arguments.model, num_classes=200).eval()
    names = [name for name, t in STANDARD.items() if t.channels is None]
    steps = sum(len(STANDARD[name].magnitudes) for name in names)
    run = 2 + steps - len(names)  # the images themselves, their repetition, and every magnitude but the identities
    flat = images.contiguous(memory_format=torch.channels_last)
    forwards(model, flat, 1, arguments.batch_size)
    ratios = {"all": [], "run": []}
    seconds = []
    for _ in range(arguments.repeats):
        start = time.process_time()
        ia.measure_invariance(
            model,
            (images, labels),
            transformations=names,
            fills=(0.0,),
            batch_size=arguments.batch_size,
            progress=False,
        )
        measured = time.process_time() - start
        start = time.process_time()
        forwards(model, flat, run, arguments.batch_size)
        bare = time.process_time() - start
        seconds.append(measured)
        ratios["run"].append(measured / bare)
        ratios["all"].append(measured / (bare * steps / run))
    found = {
        "images": arguments.images,
        "steps": steps,
        "forwards run": run,
        "CPU seconds": statistics.median(seconds),
        "× the forwards it runs": statistics.median(ratios["run"]),
        "× one forward per image, transformation and magnitude": statistics.median(ratios["all"]),
    }
    print(", ".join(f"{key}: {value:.3g}" for key, value in found.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
