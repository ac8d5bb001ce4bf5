"""The option that says what a model's outputs are, and what that asks of labels."""

import argparse

from ..learning.losses import LOSSES, PerViewLoss, cross_entropy, squared_error
from ..utils.errors import InstaAugError
from .datasets import folder_of
from .image_files import ImageFiles
from .own_code import named


def add_loss_argument(group: argparse._ArgumentGroup) -> None:
    """``--loss``."""
    group.add_argument(
        "--loss",
        default="cross_entropy",
        help=f"{', '.join(LOSSES)}, or pkg.mod:function or file.py:function, (outputs, labels) to a loss per view (%(default)s)",
    )


def loss_of(arguments: argparse.Namespace) -> PerViewLoss:
    """What ``--loss`` names.

    Raises:
        InstaAugError: no loss of that name, or a function that cannot be imported.
    """
    if arguments.loss in LOSSES:
        return LOSSES[arguments.loss]
    if ":" not in arguments.loss:
        raise InstaAugError(
            f"loss: expected one of {', '.join(LOSSES)}, or pkg.mod:function or file.py:function, got {arguments.loss!r}"
        )
    return named(arguments.loss, "loss")


def judged_folder(arguments: argparse.Namespace, loss: PerViewLoss, labels: str) -> ImageFiles:
    """As `folder_of`, of ``--split``; where outputs are no logits of classes, ``--num-classes`` says how many they are and limits no label.

    Raises:
        InstaAugError: as there, or labels that are numbered in the order of names, where the loss takes them for numbers.
    """
    by_classes = loss is cross_entropy
    known = arguments if by_classes else argparse.Namespace(**{**vars(arguments), "num_classes": None})
    folder = folder_of(known, arguments.split, labels)
    if loss is squared_error and folder.classes is not None and not (folder.numbered or arguments.class_map):
        raise InstaAugError(
            f"loss: squared_error takes labels for numbers, and folders in {folder.root!r} are names: {', '.join(folder.classes[:3])}; name "
            "them by whole numbers, give --class-map, or --no-labels"
        )
    return folder
