"""Measure what a model is invariant to, on a folder of images; writes a page with plots, and CSV files."""

import argparse
import json
import math
from pathlib import Path

from torch.utils.data import DataLoader

from ..measure import InvarianceReport, Probe, compare, write_page
from ..measure.warp import Outside
from ..utils.files import replace_file, write_csv
from ..utils.report import Report
from .arguments import changed, natural, positive_int
from .datasets import add_data_arguments, folder_of, say_left_out
from .models import add_model_arguments, add_weights_arguments, build_classifier, load_transform
from .outputs import check_folder


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
    add_weights_arguments(parser, default=None, more=": adds learned against measured")
    parser.add_argument("--only-invariance", action="store_true", help="leave out factors, alignment and local error")
    parser.add_argument("--batch-size", type=positive_int, default=128, help="images per forward (%(default)s)")
    parser.add_argument("--seed", type=natural, default=0, help="of draws and intervals (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write ``report.html``, ``summary.json`` and a CSV per table."""
    check_folder(arguments.out, "out")
    folder = folder_of(arguments, arguments.split)
    say_left_out(folder)
    options = {
        "transformations": arguments.transformations,
        "fills": [_fill(text) for text in arguments.fills],
        "layer": arguments.layer,
        "batch_size": arguments.batch_size,
        "amp": arguments.amp,
        "seed": arguments.seed,
        "progress": True,
    }
    n_classes = len(folder.classes)
    model, before, aug = build_classifier(arguments, n_classes, untrained=True), None, None
    if arguments.against:
        before = build_classifier(changed(arguments, checkpoint=arguments.against), n_classes)
    if arguments.weights:
        aug, _ = load_transform(arguments, model, n_classes)
    loader = DataLoader(folder, num_workers=arguments.workers)
    probe = Probe(model, loader, arguments.max_images, **options)
    others: list[Report] = []
    if arguments.only_invariance:
        report = probe.invariance()
    else:
        survey = probe.survey()
        report, others = survey.invariance, [other for other in (survey.alignment, survey.factors) if other is not None]
        others.append(Probe(model, probe.images, 200, **options | {"batch_size": 32}).lie())  # a few tell as much
    if before is not None:
        others.append(compare({"before": Probe(before, probe.images, **options).invariance(), "after": report}))
    if aug is not None:
        others.append(probe.learned(aug))
    write(arguments.out, report, others, title=f"What {arguments.model} is invariant to")
    print(report.summary())
    print(f"\n{arguments.out / 'report.html'}")


def write(out: Path, report: InvarianceReport, others: list[Report], title: str) -> None:
    """The page, the summary, and a CSV per table."""
    out.mkdir(parents=True, exist_ok=True)
    write_page(out / "report.html", report, *others, title=title)
    report.to_csv(out / "invariance.csv")
    write_csv(out / "invariance-per-class.csv", report.per_class())
    write_csv(out / "invariance-per-image.csv", report.per_image())
    for other in others:
        other.to_csv(out / f"{type(other).__name__.removesuffix('Report').lower()}.csv")
    summary = {"model": report.model, "layer": report.layer, "n": len(report.images), "seed": report.seed}
    # JSON has no NaN: what outputs that are no classes have not, an accuracy say, is null.
    summary["invariance"] = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in report.summary_rows()
    ]
    replace_file(out / "summary.json", json.dumps(summary, indent=1, allow_nan=False).encode())


def _fill(text: str) -> Outside:
    """A grey value, or the name of a fill."""
    try:
        return float(text)
    except ValueError:
        return text
