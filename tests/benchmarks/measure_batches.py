"""What a frozen classifier takes per image on a CPU, in batches of several sizes, with and without memory that is kept.

    python -m tests.benchmarks.measure_batches
    python -m tests.benchmarks.measure_batches --model tf_efficientnet_lite0 --size 224 --batches 8 16 32 256

Counted are seconds of the processor, the system's part apart: another process on the machine changes them little. *Parts* is what a fit,
`TTAModel` and `Probe` do with 256 images. Memory is kept in a process of its own, as ``instaaug`` keeps it.
"""

import argparse
import os
import subprocess
import sys

import timm
import torch
from tabulate import tabulate

from instaaug_transforms.utils.allocator import keep_freed_memory
from instaaug_transforms.utils.forward import forward


@torch.inference_mode()
def milliseconds(run, images: torch.Tensor, batch: int) -> tuple[float, float]:
    """Of the processor per image: all, and the system's part."""
    run(images[:batch])
    before = os.times()
    for part in images.split(batch):
        run(part)
    after = os.times()
    user, system = after.user - before.user, after.system - before.system
    return 1000 * (user + system) / len(images), 1000 * system / len(images)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="of timm (%(default)s)")
    parser.add_argument("--size", type=int, default=160, help="pixels (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64, 256])
    parser.add_argument("--threads", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = timm.create_model(options.model).eval().to(memory_format=torch.channels_last)
    images = torch.rand(256, 3, options.size, options.size).contiguous(memory_format=torch.channels_last)
    if options.keep:
        keep_freed_memory()
    rows = [[batch, *milliseconds(model, images, batch)] for batch in options.batches]
    rows.append(["256 in parts", *milliseconds(lambda part: forward(model, part), images, 256)])
    kept = "kept" if options.keep else "given back"
    print(f"\n{options.model} at {options.size} px, freed memory {kept}\n", flush=True)
    print(tabulate(rows, ["batch", "ms an image", "of them the system's"], "github", floatfmt=".1f"), flush=True)
    if not options.keep:
        subprocess.run([sys.executable, "-m", "tests.benchmarks.measure_batches", *sys.argv[1:], "--keep"], check=True)


if __name__ == "__main__":
    main()
