"""Test-time views against as many plain forwards of the same chunks, one process, interleaved, medians of ratios:

python tests/benchmarks/tta_speed.py --views 10
"""

import argparse
import json
import statistics
import time

import timm
import torch
from tabulate import tabulate

import instaaug_transforms as ia
from instaaug_transforms.timm import wrap


def main(arguments: list[str] | None = None) -> None:
    """Print and return nothing but figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="a timm model (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--images", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--views", type=int, default=10, help="K (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(parsed.threads)
    torch.manual_seed(0)
    classifier = wrap(timm.create_model(parsed.model, num_classes=200)).eval()
    images = torch.rand(parsed.images, 3, parsed.image_size, parsed.image_size)
    size = {"image_size": parsed.image_size}
    models = {
        "φ on a copy (conv)": ia.TTAModel(classifier, ia.LearnedAugment(["crop"]).eval(), parsed.views),
        "φ on features": ia.TTAModel(
            classifier,
            ia.LearnedAugment(["crop"], predictor="features", classifier=classifier, **size).eval(),
            parsed.views,
        ),
    }
    chunk = max(1, models["φ on a copy (conv)"].chunk_size // parsed.views)

    @torch.no_grad()
    def plain(batch: torch.Tensor) -> None:
        for part in batch.split(chunk):
            classifier(part.repeat(parsed.views, 1, 1, 1).contiguous(memory_format=torch.channels_last))

    def seconds(function) -> float:
        start = time.perf_counter()
        function(images)
        return time.perf_counter() - start

    ratios: dict[str, list[float]] = {name: [] for name in models}
    for r in range(parsed.rounds + 2):
        base = seconds(plain)
        for name, model in models.items():
            ratio = seconds(model) / base
            if r >= 2:  # the first rounds warm up
                ratios[name].append(ratio)
    rows = [[name, statistics.median(r), min(r), max(r)] for name, r in ratios.items()]
    if parsed.json:
        print(json.dumps([dict(zip(("views", "median", "min", "max"), row, strict=True)) for row in rows]))
    else:
        print(
            f"K = {parsed.views}, {parsed.model} at {parsed.image_size} px, fp32, {parsed.threads} threads: time over K plain forwards"
        )
        print(tabulate(rows, ["views", "median", "min", "max"], "github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
