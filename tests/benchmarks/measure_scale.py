"""A loss table of crops by one process and by two in turn, and what that rate makes of a large set on many processes.

    python tests/benchmarks/measure_scale.py --model resnet18 --size 64

Images are noise: what they show costs nothing. Each process has one thread. The large set is reckoned, not run: its hours are the
measured rate of one process, or --views-per-second, times --processes, less what two lost by sharing.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed as dist

import instaaug_transforms as ia
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.learning.loss_table import build_loss_table


def build(options: argparse.Namespace) -> None:
    """One of the processes: build the table twice, the first time to warm up; rank 0 prints the seconds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    images = torch.randint(256, (options.images, 3, options.size, options.size), dtype=torch.uint8)
    labels = torch.zeros(options.images, dtype=torch.long)
    aug = ia.LearnedAugment(["crop"])
    model = ia.timm.create_classifier(options.model, num_classes=options.classes).eval()
    for n in (2 * options.chunk, options.images):
        dist.barrier()
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            data = (images[:n], labels[:n])
            build_loss_table(model, data, aug, batch_size=options.chunk, folder=Path(folder), progress=False)
            dist.barrier()
            seconds = time.perf_counter() - start
    if dist.get_rank() == 0:
        print(json.dumps({"seconds": seconds, "views": options.images * CandidateProduct(aug.families).n_candidates}))
    dist.destroy_process_group()


def rate(processes: int) -> float:
    """Views a second of so many processes together."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launch, __file__, *sys.argv[1:], "--built"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    made = json.loads(run.stdout.strip().splitlines()[-1])
    return made["views"] / made["seconds"]


def main() -> None:
    """Print the rates, their ratio, and what a large set takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="of timm (%(default)s)")
    numbers = {"size": 64, "classes": 200, "images": 1024, "chunk": 64, "repeats": 3}
    numbers |= {"large": 1_280_000, "columns": 120, "processes": 8, "views_per_second": None}
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float if default is None else int, default=default)
    parser.add_argument("--built", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.built:
        build(options)
        return
    rates = {1: [], 2: []}
    for _ in range(options.repeats):
        for processes, found in rates.items():
            found.append(rate(processes))
    one, two = (statistics.median(found) for found in rates.values())
    scaling = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
    print(f"{options.model} at {options.size} px: {one:.0f} views/s by one process, {two:.0f} by two: {scaling:.2f} ×")
    single = options.views_per_second or one
    together = single * options.processes * scaling / 2
    row = 4 * options.columns  # float32
    print(
        f"{options.large:,} images × {options.columns} columns on {options.processes} processes at {single:.0f} views/s each: "
        f"{options.large * options.columns / together / 3600:.1f} h; a table of {options.large * row / 1e6:.0f} MB in the files of each "
        f"process, of which {options.large * row * (options.processes - 1) / options.processes / 1e6:.0f} MB come from the others"
    )


if __name__ == "__main__":
    main()
