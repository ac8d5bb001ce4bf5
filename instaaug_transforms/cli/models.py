"""Options that name a classifier, and the classifier they name."""

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..integrations import timm as classifiers
from ..utils.errors import InstaAugError

# What torchvision's own weights expect.
TORCHVISION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """As timm's validate.py names them."""
    group = parser.add_argument_group("classifier")
    group.add_argument(
        "--model", "-m", default="resnet18", help="a timm model, or pkg.mod:factory of your own (%(default)s)"
    )
    group.add_argument("--checkpoint", type=Path, help="its weights, .safetensors")
    group.add_argument("--pretrained", action="store_true", help="timm's pretrained weights, from the network")
    group.add_argument("--num-classes", type=int, help="classes (as many as the data have)")
    group.add_argument(
        "--mean", type=float, nargs="+", help="per channel, what the classifier subtracts (the model's own)"
    )
    group.add_argument("--std", type=float, nargs="+", help="per channel, what it divides by (the model's own)")
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    group.add_argument("--amp", action="store_true", help="bfloat16 autocast in the classifier")


def build_classifier(arguments: argparse.Namespace, n_classes: int, untrained: bool = False) -> nn.Module:
    """Images in [0, 1] to logits: timm by name, or what a factory returns, with the normalisation inside.

    A factory is called with ``num_classes=`` if it takes that, and with nothing otherwise. Its model is normalised
    with --mean and --std; torchvision's models as their weights expect; any other as it is. Random weights are refused
    unless ``untrained``.

    Raises:
        InstaAugError: no such model or factory, something that is no module, or weights that do not fit.
    """
    n_classes = arguments.num_classes or n_classes
    mean, std = (None if given is None else tuple(given) for given in (arguments.mean, arguments.std))
    if (mean is None) != (std is None):
        raise InstaAugError("mean, std: give both or neither")
    if not (untrained or arguments.checkpoint or arguments.pretrained or ":" in arguments.model):
        raise InstaAugError(
            "checkpoint: a classifier with random weights says nothing; give --checkpoint or --pretrained"
        )
    if ":" not in arguments.model:
        options = {"pretrained": True} if arguments.pretrained else {}
        model: nn.Module = classifiers.create_classifier(
            arguments.model, arguments.checkpoint, n_classes, mean=mean, std=std, **options
        )
    else:
        model = _call(_factory(arguments.model), arguments.model, n_classes)
        if arguments.checkpoint:
            classifiers.load_checkpoint(model, arguments.checkpoint)
        if mean is None and arguments.model.startswith("torchvision."):
            mean, std = TORCHVISION
        if mean is not None:
            model = classifiers.Classifier(model, mean, std)
    return model.to(arguments.device).eval()


def _factory(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the current folder are found
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InstaAugError(f"model: cannot import {name!r} from {module!r}: {error}") from error


def _call(factory: Callable[..., Any], path: str, n_classes: int) -> nn.Module:
    parameters = inspect.signature(factory).parameters
    takes = "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    model = factory(num_classes=n_classes) if takes else factory()
    if not isinstance(model, nn.Module):
        raise InstaAugError(f"model: {path} returned {type(model).__name__}; expected a torch.nn.Module")
    return model
