"""The choice of a predictor by the name that `LearnedAugment` takes, and back from its configuration."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..families import Family
from ..utils.errors import InstaAugError
from .conv import ConvPredictor
from .features import FeaturesPredictor, check_classifier
from .fixed import GlobalPredictor

PREDICTORS = ("conv", "features", "global", "symmetric", "class")


def make_predictor(
    kind: str,
    families: Sequence[Family],
    in_channels: int,
    image_size: int,
    n_classes: int | None = None,
    classifier: nn.Module | None = None,
) -> nn.Module:
    """The predictor that `LearnedAugment`'s argument ``predictor`` names.

    Raises:
        InstaAugError: an unknown name, or an argument that does not go with it.
    """
    if kind not in PREDICTORS:
        raise InstaAugError(f"predictor: expected one of {', '.join(PREDICTORS)}, got {kind!r}")
    if (kind == "class") != (n_classes is not None):
        raise InstaAugError(f'n_classes: goes with predictor="class" alone, got {n_classes} with predictor={kind!r}')
    if (kind == "features") != (classifier is not None):
        given = "no classifier" if classifier is None else type(classifier).__name__
        raise InstaAugError(f'classifier: goes with predictor="features" alone, got {given} with predictor={kind!r}')
    if kind == "conv":
        return ConvPredictor(families, in_channels, image_size)
    if classifier is not None:
        return FeaturesPredictor(families, classifier, in_channels, image_size)
    return GlobalPredictor(families, in_channels, n_classes=n_classes, symmetric=kind == "symmetric")


def recipe(config: dict[str, Any], classifier: nn.Module | None = None) -> dict[str, Any]:
    """A predictor's ``config()`` to the arguments of `LearnedAugment` that make it again.

    Raises:
        InstaAugError: weights that need another classifier than this one.
    """
    arguments = {"in_channels": config["in_channels"]}
    if "image_size" in config:
        arguments |= {"image_size": config["image_size"]}
        if "classifier_sha256" in config:
            arguments |= {"predictor": "features", "classifier": check_classifier(config, classifier)}
        return arguments
    if config["n_classes"] is not None:
        return arguments | {"predictor": "class", "n_classes": config["n_classes"]}
    return arguments | {"predictor": "symmetric" if config["symmetric"] else "global"}
