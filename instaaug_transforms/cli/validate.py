"""Compare a classifier with and without learned test-time views, beside every input-free way to choose views."""

import argparse
from pathlib import Path

from ..augment import SELECTIONS, LearnedAugment
from ..engine.data import hold_out
from ..tta import evaluate
from ..tta.aggregation import AGGREGATIONS
from ..tta.report import FORMATS
from ..utils.errors import InstaAugError
from ..utils.weights import read as read_weights
from .datasets import add_data_arguments, count_classes, read
from .models import add_model_arguments, build_classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Classifier, weights, images, views, and where the results go."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    group = parser.add_argument_group("views")
    group.add_argument("--weights", default="crop_tinyimagenet", help="a name that `instaaug weights` lists, or a file")
    group.add_argument(
        "--features-checkpoint",
        type=Path,
        help="where the weights read another classifier's features: its weights, .safetensors",
    )
    group.add_argument("--features-model", help="and what it is, as --model; --model itself where left out")
    group.add_argument("--split", default="val", help="folder to report on (%(default)s)")
    group.add_argument("--choice-split", default="train", help="folder for choices and temperatures (%(default)s)")
    group.add_argument(
        "--choose-on",
        choices=("held-out", "all"),
        default="held-out",
        help="of that folder, the tenth that `instaaug fit --seed` held out with the same seed, or all of it (%(default)s)",
    )
    group.add_argument("--n-views", type=int, nargs="+", default=[1, 2, 4, 10], help="numbers of views K (1 2 4 10)")
    group.add_argument("--select", choices=SELECTIONS, default="top", help="(%(default)s)")
    group.add_argument(
        "--range-fraction", type=float, default=1.0, help="middle part of continuous ranges (%(default)s)"
    )
    group.add_argument("--aggregate", choices=AGGREGATIONS, default="mean_prob", help="for every arm (%(default)s)")
    group.add_argument(
        "--oracle", action="store_true", help="also the best of all candidate views, found with the label"
    )
    group.add_argument("--batch-size", "-b", type=int, default=256, help="images per forward (%(default)s)")
    group.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    group.add_argument("--results-file", type=Path, help="write the table there")
    group.add_argument("--results-format", choices=FORMATS, default="csv", help="(%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Print the table, and write it."""
    if arguments.results_file and not arguments.results_file.parent.is_dir():
        raise InstaAugError(
            f"results-file: folder {str(arguments.results_file.parent)!r} does not exist; create it first"
        )
    if min(arguments.n_views) < 1:
        raise InstaAugError(f"n-views: expected numbers of at least 1, got {arguments.n_views}")
    data, choice = read(arguments, arguments.split), read(arguments, arguments.choice_split)
    if arguments.choose_on == "held-out":
        choice = hold_out(choice, arguments.seed)[1]
    n_classes = count_classes(arguments, arguments.split, arguments.choice_split)
    classifier = build_classifier(arguments, n_classes)
    aug = load_transform(arguments, classifier, n_classes)
    report = evaluate(
        classifier,
        aug,
        data,
        choice,
        arguments.n_views,
        select=arguments.select,
        range_fraction=arguments.range_fraction,
        how=arguments.aggregate,
        oracle=arguments.oracle,
        batch_size=arguments.batch_size,
        amp=arguments.amp,
        seed=arguments.seed,
    )
    print(f"{arguments.split}: n = {len(data)}, choices on {len(choice)} images of {arguments.choice_split}\n")
    print(report.table() + "\n")
    print("\n".join(report.against_input_free()))
    if arguments.results_file:
        notes = {"model": arguments.model, "weights": arguments.weights, "aggregate": arguments.aggregate}
        report.write(arguments.results_file, arguments.results_format, **notes, select=arguments.select)
        print(arguments.results_file)


def load_transform(arguments: argparse.Namespace, classifier, n_classes: int) -> LearnedAugment:
    """The weights, with the classifier whose features they read where they read any."""
    config, _ = read_weights(arguments.weights)
    read_from = None
    if "classifier_sha256" in config.get("predictor", {}):
        read_from = classifier
        if arguments.features_checkpoint:
            other = {"checkpoint": arguments.features_checkpoint, "model": arguments.features_model or arguments.model}
            read_from = build_classifier(argparse.Namespace(**{**vars(arguments), **other}), n_classes)
    return LearnedAugment.from_pretrained(arguments.weights, classifier=read_from).to(arguments.device)
