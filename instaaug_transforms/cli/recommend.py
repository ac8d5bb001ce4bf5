"""Say whether weights that are fitted already pay on your images, through your classifier, and in which setting."""

import argparse
from pathlib import Path

from ..functional.inputs import Normalization
from ..learning import FitConfig
from ..learning import recommend as recommend_setting
from ..learning.losses import cross_entropy
from ..utils.weights import read as read_weights
from .datasets import add_data_arguments, add_reading_arguments, count_classes, find_split, read
from .held_out import warn_if_fitted_on
from .loss import add_loss_argument, judged_folder, loss_of
from .models import add_model_arguments, add_weights_arguments, build_classifier, check_answers, load_transform
from .nuisance import add_nuisance_arguments, check_nuisance
from .outputs import check_file, check_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Classifier, weights, images, and where the recommendation goes."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    group = parser.add_argument_group("recommend")
    add_reading_arguments(group, batch_size=64, per="forward")
    add_weights_arguments(group)
    group.add_argument(
        "--split",
        help="folder of images that neither the classifier nor the weights were trained on (val; where there is none, --data itself)",
    )
    group.add_argument("--no-labels", action="store_true", help="take all images, in whatever folders, without labels")
    add_nuisance_arguments(group)
    add_loss_argument(group)
    group.add_argument("--workdir", type=Path, help="keep what is computed there; the same command goes on from it")
    group.add_argument("--out", type=Path, help="write the weights there, with the recommendation: .safetensors")


def run(arguments: argparse.Namespace) -> None:
    """Print the report, and write the weights that remember it."""
    if arguments.out:
        check_file(arguments.out, "out", ".safetensors")
    if arguments.workdir:
        check_folder(arguments.workdir, "workdir")
    read_weights(arguments.weights)  # what is wrong with a name is said before a classifier is asked for
    nuisance = check_nuisance(arguments)
    labels = "none" if arguments.no_labels else "auto"
    arguments.split = find_split(arguments, "val", labels)
    loss = loss_of(arguments)
    folder = judged_folder(arguments, loss, labels)
    n_classes = count_classes(folder)
    classifier = build_classifier(arguments, n_classes)
    check_answers(classifier, arguments, folder, by_classes=loss is cross_entropy)
    aug, notes = load_transform(arguments, classifier, n_classes)
    config = FitConfig(
        amp=arguments.amp,
        table_batch_size=arguments.batch_size,
        nuisance_probability=arguments.nuisance_probability,
        nuisance_draws=arguments.nuisance_draws,
        seed=arguments.seed,
    )
    data, use = read(arguments, folder, True), True if arguments.use_labels else None
    warn_if_fitted_on(data, notes.get("held_out"))
    options = {"loss": loss, "nuisance": nuisance, "labels": use, "workdir": arguments.workdir}
    report = recommend_setting(aug, classifier, data, config, **options)
    print(f"{arguments.weights} through {arguments.model}: {report}")
    if arguments.out:
        # Left out above, and of the weights all the same.
        aug.normalization = Normalization.of(read_weights(arguments.weights)[0].get("normalization"))
        aug.save(arguments.out, **notes)
        print(f"\n{arguments.out}")
