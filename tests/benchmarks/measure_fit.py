"""What a fit by table takes: while the table is built, beside the classifier's own forwards; and after it, for 10,000 images.

    python -m tests.benchmarks.measure_fit --model resnet18 --size 64

Images are noise, and so are labels. Table and bare forwards of as many views run in turn, a thread each. What comes after the table
(φ, its report, the recommendation) does not depend on the classifier: a linear one stands for it.
"""

import argparse
import statistics
import time

import torch
from tabulate import tabulate
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.learning.loss_table import build_loss_table

FAMILIES = (["turn"], ["light"], ["crop"], ["turn", "light"], ["crop", "turn"])


@torch.inference_mode()
def forwards(model: nn.Module, images: torch.Tensor, times: int) -> float:
    """Seconds of ``times`` forwards of a batch."""
    start = time.perf_counter()
    for _ in range(times):
        model(images)
    return time.perf_counter() - start


def throughput(model: nn.Module, families: list[str], images: torch.Tensor, repeats: int) -> tuple[float, int]:
    """Views a second while a table is built, over those of the bare classifier; and the number of candidates."""
    aug, labels = ia.LearnedAugment(families), torch.zeros(len(images), dtype=torch.long)
    columns = CandidateProduct(aug.anchor_families).n_candidates
    flat, ratios = images.contiguous(memory_format=torch.channels_last), []
    for _ in range(repeats):
        bare = forwards(model, flat, columns)
        start = time.perf_counter()
        build_loss_table(model, (images, labels), aug, batch_size=len(images), progress=False)
        ratios.append(bare / (time.perf_counter() - start))
    return statistics.median(ratios), columns


def after_the_table(families: list[str], n: int, size: int) -> float:
    """Seconds of a fit with default settings, less those of its table."""
    torch.manual_seed(0)
    images = torch.randint(256, (n, 3, size, size), dtype=torch.uint8)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    config = ia.FitConfig(progress=False)
    result = ia.fit(ia.LearnedAugment(families), model, (images, torch.arange(n) % 10), config=config)
    return result.fit_seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="of timm (%(default)s)")
    numbers = {"size": 64, "batch": 64, "repeats": 3, "images": 10_000, "threads": 2}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = ia.timm.create_classifier(options.model, num_classes=200).eval().to(memory_format=torch.channels_last)
    images, rows = torch.rand(options.batch, 3, options.size, options.size), []
    for families in FAMILIES:
        ratio, columns = throughput(model, families, images, options.repeats)
        seconds = after_the_table(families, options.images, options.size)
        rows.append([" × ".join(families), columns, f"{ratio:.2f}", f"{seconds:.0f}"])
    head = [
        "families",
        "candidates",
        "table, of the classifier's own throughput",
        f"s after it, {options.images:,} images",
    ]
    print(
        f"{options.model} at {options.size} px, {options.threads} thread(s)\n\n{tabulate(rows, head, tablefmt='github')}"
    )


if __name__ == "__main__":
    main()
