"""Measure what a model is invariant to, on a folder of images; writes a page with plots, and CSV files."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..augment import LearnedAugment
from ..measure.agreement import learned_against_measured
from ..measure.comparison import compare
from ..measure.images import prepare
from ..measure.invariance import InvarianceReport, measure_invariance
from ..measure.lie import lie_derivative
from ..measure.page import write_page
from ..measure.survey import survey
from ..measure.tables import write_csv
from ..measure.warp import Fill, check_fill
from ..utils.files import replace_file
from .datasets import add_data_arguments, folder_of
from .models import add_model_arguments, build_classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, images, and how much to measure."""
    add_model_arguments(parser)
    add_data_arguments(parser, most=1000)
    parser.add_argument(
        "--split", help="folder of --data to measure on (--data itself, sorted as the model's classes are)"
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for the results (%(default)s)")
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
    parser.add_argument("--seed", type=int, default=0, help="of draws and intervals (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write ``report.html``, ``summary.json`` and a CSV per table."""
    fills = [_fill(text) for text in arguments.fills]
    folder = folder_of(arguments, arguments.split)
    model = build_classifier(arguments, len(folder.classes), untrained=True)
    images = prepare(folder, arguments.max_images, seed=arguments.seed)
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
        before = build_classifier(
            argparse.Namespace(**{**vars(arguments), "checkpoint": arguments.against}), len(folder.classes)
        )
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


def _fill(text: str) -> Fill:
    try:
        fill: Fill = float(text)
    except ValueError:
        fill = text
    return check_fill(fill)
