"""Write a classifier that averages learned views as an ONNX file, and compare it with PyTorch on your images."""

import argparse
from pathlib import Path

import torch

from ..integrations.export import export_onnx, largest_difference
from ..tta import TTAModel
from ..utils.errors import InstaAugError
from ..utils.weights import read as read_weights
from .arguments import not_negative, positive_int
from .datasets import add_data_arguments, add_reading_arguments, folder_of, read
from .models import add_model_arguments, add_weights_arguments, build_classifier, check_answers, load_transform
from .outputs import check_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Classifier, weights, views, where the file goes, and images to compare on."""
    add_model_arguments(parser)
    add_data_arguments(parser, most=100, required=False)
    group = parser.add_argument_group("export")
    add_weights_arguments(group)
    views = group.add_mutually_exclusive_group()
    views.add_argument("--n-views", type=positive_int, help="views per image (as the weights' fit recommended)")
    views.add_argument(
        "--max-forwards", type=positive_int, help="what the fit recommended for so many forwards an image, or fewer"
    )
    group.add_argument("--batch-1", action="store_true", help="for one image at a time, not for any number")
    group.add_argument("--out", type=Path, required=True, help="the .onnx file")
    group.add_argument(
        "--tolerance", type=not_negative, default=1e-4, help="largest difference of logits on --data (%(default)s)"
    )
    add_reading_arguments(group, batch_size=16, per="comparison")


def run(arguments: argparse.Namespace) -> None:
    """Write the file; with --data also run it, and fail where its logits differ from PyTorch's."""
    check_file(arguments.out, "out", ".onnx")
    read_weights(arguments.weights)  # what is wrong with a name is said before a classifier is asked for
    folder = None if arguments.data is None else folder_of(arguments, None, "none")
    classifier = build_classifier(arguments, None)
    check_answers(classifier, arguments)
    aug, _ = load_transform(arguments, classifier)
    if arguments.n_views is None:
        model = TTAModel.recommended(classifier, aug, max_forwards=arguments.max_forwards)
    else:
        model = TTAModel(classifier, aug, arguments.n_views)
    export_onnx(model.eval(), arguments.out, arguments.img_size, dynamic_batch=not arguments.batch_1)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 2**20:.1f} MB, {model.n_views} views")
    if folder is None:
        return
    images = read(arguments, folder)
    parts = torch.arange(len(images)).split(1 if arguments.batch_1 else arguments.batch_size)
    batches = (batch for batch, _ in images.batches(parts, arguments.device))
    difference, agree = largest_difference(arguments.out, model, batches)
    print(f"{len(images)} images: logits differ by {difference:.1e} at most, {agree:.0%} of the answers are the same")
    if difference > arguments.tolerance:
        raise InstaAugError(
            f"out: logits of {arguments.out} differ by {difference:.1e}, more than {arguments.tolerance}"
        )
