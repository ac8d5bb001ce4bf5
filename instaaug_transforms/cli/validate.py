"""Compare a classifier with and without learned test-time views, beside every input-free way to choose views."""

import argparse
import sys
from pathlib import Path

import torch

from ..augment import SELECTIONS
from ..tta import evaluate
from ..tta.aggregation import COMPARABLE
from ..tta.report import FORMATS, RIVALS
from ..utils.errors import InstaAugError
from ..utils.weights import read as read_weights
from .arguments import changed, fraction, positive_int
from .datasets import add_data_arguments, add_reading_arguments, count_classes, folder_of, read
from .held_out import held_out_of
from .models import add_model_arguments, add_weights_arguments, build_classifier, check_answers, load_transform
from .nuisance import check_nuisance
from .outputs import check_file, check_folder

ENOUGH = 200  # images to choose on

# Options that are arguments of `evaluate` by the same name.
SETTINGS = ("select", "range_fraction", "how", "oracle", "batch_size", "amp", "seed", "only")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Classifier, weights, images, views, and where the results go."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    group = parser.add_argument_group("views")
    add_reading_arguments(group, batch_size=256, per="forward")
    add_weights_arguments(group)
    group.add_argument(
        "--nuisance",
        help="also report on images that suffered this, all of them, as `instaaug fit --nuisance` takes it",
    )
    group.add_argument("--split", default="val", help="folder to report on (%(default)s)")
    group.add_argument("--choice-split", default="train", help="folder for choices and temperatures (%(default)s)")
    group.add_argument(
        "--choose-on",
        choices=("held-out", "all"),
        default="held-out",
        help="of that folder, the images that the fit held out (weights of 0.1: the tenth of the same seed), or all of it (%(default)s)",
    )
    group.add_argument(
        "--n-views", type=positive_int, nargs="+", default=[1, 2, 4, 10], help="numbers of views K (1 2 4 10)"
    )
    group.add_argument("--select", choices=SELECTIONS, default="top", help="(%(default)s)")
    group.add_argument(
        "--range-fraction", type=fraction, default=1.0, help="middle part of continuous ranges (%(default)s)"
    )
    group.add_argument(
        "--aggregate",
        dest="how",
        choices=COMPARABLE,
        default="mean_prob",
        help="for every arm (%(default)s)",
    )
    group.add_argument(
        "--arms",
        dest="only",
        nargs="*",
        choices=RIVALS,
        metavar="ARM",
        help=f"compare with these alone, the single view and ours apart: {', '.join(RIVALS)} (all)",
    )
    group.add_argument(
        "--oracle", action="store_true", help="also the best of all candidate views, found with the label"
    )
    group.add_argument(
        "--workdir",
        type=Path,
        help="keep what is computed there; the same command goes on from it, to the same numbers",
    )
    group.add_argument("--results-file", type=Path, help="write the table there")
    group.add_argument("--results-format", choices=FORMATS, default="csv", help="(%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables, and write them."""
    if arguments.results_file:
        check_file(arguments.results_file, "results-file")
    if arguments.workdir:
        check_folder(arguments.workdir, "workdir")
    reported, chosen = ((arguments.data / split).resolve() for split in (arguments.split, arguments.choice_split))
    if reported == chosen:
        raise InstaAugError(
            f"choice-split: {arguments.choice_split!r} is what is reported; choices need other images, or they flatter it"
        )
    if reported.is_relative_to(chosen) or chosen.is_relative_to(reported):
        raise InstaAugError(
            f"choice-split: of --split {arguments.split!r} and --choice-split {arguments.choice_split!r} one holds the other; choices need "
            "other images than the reported ones, or they flatter it: give two folders beside each other"
        )
    read_weights(arguments.weights)  # what is wrong with a name is said before a classifier is asked for
    nuisance = check_nuisance(arguments)
    folders = [folder_of(arguments, split) for split in (arguments.split, arguments.choice_split)]
    n_classes = count_classes(*folders)
    classifier = build_classifier(arguments, n_classes)
    check_answers(classifier, arguments, *folders)
    aug, notes = load_transform(arguments, classifier, n_classes)
    aug.distribution(torch.zeros(1, arguments.in_chans, *[arguments.img_size] * 2, device=arguments.device))
    data, choice = read(arguments, folders[0], True), read(changed(arguments, max_images=None), folders[1], True)
    if arguments.choose_on == "held-out":
        choice = held_out_of(choice, notes.get("held_out"), arguments.seed)
    if len(choice) < ENOUGH:
        print(f"choices on {len(choice)} images: fewer than {ENOUGH} say little of small differences", file=sys.stderr)
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    conditions = {"as they are": {}} | (
        {} if nuisance is None else {f"with {arguments.nuisance}": {"nuisance": nuisance}}
    )
    for place, (name, disturbed) in enumerate(conditions.items()):
        settings["workdir"] = arguments.workdir and arguments.workdir / ("disturbed" if disturbed else "as-they-are")
        try:
            report = evaluate(classifier, aug, data, choice, arguments.n_views, **settings, **disturbed, progress=True)
        except KeyboardInterrupt:
            kept = f"the same command goes on from {arguments.workdir}"
            raise InstaAugError(
                f"stopped; {kept if arguments.workdir else '--workdir DIR keeps what is done'}"
            ) from None
        print(
            f"{arguments.split}, {name}: n = {len(data)}, choices on {len(choice)} images of {arguments.choice_split}\n"
        )
        print(report.table() + "\n")
        print("\n".join(report.against_input_free()) + "\n")
        if arguments.results_file:
            path = arguments.results_file
            path = path if place == 0 else path.with_stem(f"{path.stem}-disturbed")
            about = {"model": arguments.model, "weights": arguments.weights, "aggregate": arguments.how, "images": name}
            report.write(path, arguments.results_format, **about, select=arguments.select)
            print(path)
