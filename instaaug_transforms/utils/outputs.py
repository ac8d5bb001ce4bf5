"""What a classifier must be and answer, checked before anything long is computed of it."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InstaAugError

logger = logging.getLogger(__name__)


def check_module(model: Any, name: str = "classifier") -> None:
    """Raise unless ``model`` is a module, which can be frozen and put in eval mode."""
    if not isinstance(model, nn.Module):
        raise InstaAugError(
            f"{name}: expected a torch.nn.Module, got {type(model).__name__}; wrap it in a module whose forward calls it"
        )


def check_logits(outputs: Any, name: str = "classifier") -> Tensor:
    """``outputs`` as they came, ``(B, classes)`` logits of two classes or more.

    Raises:
        InstaAugError: anything else; it says how to wrap the classifier.
    """
    if isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1:
        return outputs
    if isinstance(outputs, Tensor) and outputs.ndim == 1 and not outputs.is_floating_point():
        fix = "class numbers do not say how sure it is; wrap what gives a score per class, as predict_proba does: its logarithm will do"
    elif isinstance(outputs, Tensor) and outputs.ndim in (1, 2):
        fix = (
            "wrap it so that the other of two classes has logit 0: z = model(x).reshape(-1, 1); return torch.cat([0 * z, z], 1); or "
            "say in a fit what it is: loss='binary_cross_entropy', or 'squared_error' for a number"
        )
    elif isinstance(outputs, Tensor):
        fix = "wrap it in a module whose forward pools, or flattens, them to that; for maps there is SegmentationTTA"
    else:
        fix = f"{unwrap(outputs)}. What a detector finds on aug.views, ia.invert_points maps back"
    raise InstaAugError(f"{name}: expected logits (B, classes), got {told(outputs)}; {fix}")


def check_maps(outputs: Any, name: str = "model") -> Tensor:
    """``(B, classes, h, w)`` logits of two classes or more, as they came or as the entry ``"out"`` of a dictionary.

    Raises:
        InstaAugError: anything else; it says how to wrap the model.
    """
    maps = outputs["out"] if isinstance(outputs, Mapping) and "out" in outputs else outputs
    if isinstance(maps, Tensor) and maps.ndim == 4 and maps.shape[1] > 1:
        return maps
    if isinstance(maps, Tensor) and maps.ndim == 4:
        fix = "its softmax is 1 everywhere; wrap it so that the background has logit 0: torch.cat([0 * z, z], 1)"
    elif isinstance(maps, Tensor):
        fix = "for classifiers there is TTAModel"
    else:
        fix = unwrap(maps)
    raise InstaAugError(f"{name}: expected logits (B, classes, h, w), got {told(maps)}; {fix}")


def are_probabilities(outputs: Tensor) -> bool:
    """Whether every row of ``(B, classes)`` is a distribution: a softmax is inside the classifier."""
    outputs = outputs.detach().float()
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-2).all())


def probabilities(outputs: Tensor, usual: Tensor) -> Tensor:
    """The softmax of ``outputs``, or these as they are where a softmax is inside the model, as its ``usual`` ones tell."""
    return outputs if are_probabilities(usual) else outputs.softmax(-1)


def warn_of_probabilities(outputs: Tensor, name: str = "classifier") -> None:
    """Log that a softmax is inside the model, where another is to come."""
    if outputs.ndim == 2 and outputs.shape[1] > 1 and are_probabilities(outputs):
        logger.warning(
            f"{name}: its answers are probabilities already, and the softmax of probabilities is nearly flat; give logits, or their "
            "logarithm: return model(x).clamp_min(1e-9).log()"
        )


def as_labels(targets: Tensor, classes: int, name: str, soft: bool = True) -> Tensor:
    """Class numbers ``(N,)`` as int64, or, where they will do, probabilities ``(N, classes)`` as they are.

    Raises:
        InstaAugError: something else.
    """
    hard = targets.ndim == 1 and not targets.is_floating_point() and targets.dtype != torch.bool
    if hard and int(targets.min()) >= 0 and int(targets.max()) < classes:
        return targets.long()
    probabilities = soft and targets.ndim == 2 and targets.shape[1] == classes and targets.is_floating_point()
    if probabilities and bool((targets >= 0).all()) and bool(((targets.sum(1) - 1).abs() < 1e-3).all()):
        return targets.float()
    given = f"{tuple(targets.shape)} {targets.dtype}, from {targets.min().item():g} to {targets.max().item():g}"
    also = f", or probabilities (N, {classes})" if soft else ""
    fix = (
        "; or give loss='binary_cross_entropy' (several classes an image), 'squared_error' (numbers) or one of your own"
        if soft
        else "; of models of numbers, or of several classes an image, ia.recommend compares views: loss='squared_error', say"
    )
    raise InstaAugError(
        f"{name}: expected labels (N,), integers from 0 to {classes - 1}, for a classifier of {classes} classes{also}; got {given}. "
        f"Map them to the classifier's classes{fix}"
    )


def as_weights(model: nn.Module, images: Tensor) -> Tensor:
    """Images in the floating-point type of the model's weights: half and double precision models take no others. Bytes stay."""
    if not images.is_floating_point():
        return images
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return images.to(next(kinds, images.dtype))


def unwrap(outputs: Any) -> str:
    """How to wrap a model of such outputs so that it returns its logits alone."""
    if isinstance(outputs, np.ndarray):
        return "wrap it in a module whose forward returns a tensor: return torch.from_numpy(model(x)), say"
    indexed = isinstance(outputs, (Mapping, tuple, list)) and not hasattr(outputs, "logits")
    first = (
        0 if not isinstance(outputs, Mapping) else "logits" if "logits" in outputs else next(iter(outputs), "logits")
    )
    which = f"[{first!r}]" if indexed else ".logits"
    return f"wrap it in a module whose forward returns these alone: return model(x){which}, say"


def told(outputs: Any) -> str:
    """What came, in words: the shape of a tensor, what is in a dictionary, how many in a tuple, or the type."""
    if isinstance(outputs, Tensor):
        return f"a tensor {tuple(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs))}"
    if isinstance(outputs, (tuple, list)):
        return f"a {type(outputs).__name__} of {len(outputs)}"
    return f"a {type(outputs).__name__}"
