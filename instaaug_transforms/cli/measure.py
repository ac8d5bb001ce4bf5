"""Measure what a model is invariant to, on a folder of images; writes a page with plots, and CSV files."""

import argparse
import json
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ..augment import LearnedAugment
from ..errors import InstaAugError
from ..measure.agreement import learned_against_measured
from ..measure.comparison import compare
from ..measure.images import MeasuredImages, prepare
from ..measure.invariance import InvarianceReport, measure_invariance
from ..measure.lie import lie_derivative
from ..measure.page import write_page
from ..measure.survey import survey
from ..measure.tables import write_csv
from ..measure.warp import Fill, check_fill
from ..weights import replace_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, images, and how much to measure."""
    parser.add_argument("--model", required=True, help="a timm model, e.g. resnet18")
    parser.add_argument("--checkpoint", type=Path, help="its weights, .safetensors; untrained where left out")
    parser.add_argument("--num-classes", type=int, help="of the checkpoint; the number of folders where left out")
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder of one folder per class, sorted as the model's classes are"
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for the results (%(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument("--max-images", type=int, default=1000, help="drawn at random (%(default)s)")
    parser.add_argument("--transformations", nargs="+", help="e.g. rotate hue; all fifteen where left out")
    parser.add_argument(
        "--fills",
        nargs="+",
        default=["0", "reflection"],
        help="grey values, mean, border, reflection, wrap (0 reflection)",
    )
    parser.add_argument("--layer", help="a layer by name; the penultimate one where left out")
    parser.add_argument("--against", type=Path, help="weights of the same model before: adds before and after")
    parser.add_argument("--weights", help="a learned augmentation, name or file: adds learned against measured")
    parser.add_argument("--only-invariance", action="store_true", help="leave out factors, alignment and local error")
    parser.add_argument("--batch-size", type=int, default=128, help="images per forward (%(default)s)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--seed", type=int, default=0, help="of draws and intervals (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write ``report.html``, ``summary.json`` and a CSV per table."""
    from ..timm import create_classifier  # other commands need not wait for timm

    fills = [_fill(text) for text in arguments.fills]
    images = read_folder(arguments.data, arguments.image_size, arguments.max_images, arguments.seed)
    n_classes = arguments.num_classes or len(images.classes)
    model = create_classifier(arguments.model, arguments.checkpoint, n_classes)
    common = {
        "transformations": arguments.transformations,
        "layer": arguments.layer,
        "batch_size": arguments.batch_size,
        "amp": arguments.amp,
        "seed": arguments.seed,
    }
    if arguments.only_invariance:
        report, others = measure_invariance(model, images, fills=fills, **common), []
    else:
        report, *found = survey(model, images, fills=fills, **common)
        others = [other for other in found if other is not None]
        few = prepare(images, 200, seed=arguments.seed)
        others.append(lie_derivative(model, few, layer=arguments.layer, batch_size=32, seed=arguments.seed))
    if arguments.against:
        before = create_classifier(arguments.model, arguments.against, n_classes)
        others.append(compare({"before": measure_invariance(before, images, fills=fills, **common), "after": report}))
    if arguments.weights:
        aug = LearnedAugment.from_pretrained(arguments.weights)
        speed = {"batch_size": arguments.batch_size, "amp": arguments.amp}
        others.append(learned_against_measured(model, aug, images, seed=arguments.seed, **speed))
    write(arguments.out, report, others, title=f"What {arguments.model} is invariant to")
    print(report.summary())
    print(f"\n{arguments.out / 'report.html'}")


def write(out: Path, report: InvarianceReport, others: list[Any], title: str) -> None:
    """The page, the summary, and a CSV per table."""
    out.mkdir(parents=True, exist_ok=True)
    write_page(out / "report.html", report, *others, title=title)
    report.to_csv(out / "invariance.csv")
    write_csv(out / "invariance-per-class.csv", report.per_class())
    write_csv(out / "invariance-per-image.csv", report.per_image())
    for other in others:
        other.to_csv(out / f"{type(other).__name__.removesuffix('Report').lower()}.csv")
    summary = {"model": report.model, "layer": report.layer, "n": len(report.images), "seed": report.seed}
    summary["invariance"] = report.summary_rows()
    replace_file(out / "summary.json", json.dumps(summary, indent=1).encode())


def read_folder(folder: Path, size: int, most: int | None, seed: int) -> MeasuredImages:
    """At most ``most`` images of an ImageFolder, drawn at random, their shorter side resized to ``size``, centre cropped."""
    transform = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size), v2.ToImage()])
    try:
        dataset = ImageFolder(str(folder), transform)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InstaAugError(
            f"data: {str(folder)!r} is no folder with one folder of images per class: {error}"
        ) from error
    return prepare(dataset, most, seed=seed)


def _fill(text: str) -> Fill:
    try:
        fill: Fill = float(text)
    except ValueError:
        fill = text
    return check_fill(fill)
