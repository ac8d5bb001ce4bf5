"""Whether a classifier's answers and the labels go together, found out from a few images before the long work."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.data import Images
from ..families import identity_of
from ..params import AugmentParams
from ..utils.errors import InstaAugError
from ..utils.outputs import as_labels, as_weights, check_logits, warn_of_probabilities
from .loss_table import Viewer
from .losses import PerViewLoss, per_view
from .task import Task

logger = logging.getLogger(__name__)

FEW = 4
SEVERAL = 64
ALIKE, EPSILON = 1e-3, 1e-6  # of the largest loss, and of the largest output: what rounding may change in a loss
APART = 0.05  # of the spread of answers: by how much rounding does not move them
MOST_NUMBERS = 4096  # per image; what has more is a map, whose pixels move with the views


def check_answers(task: Task, data: Mapping[str, Images]) -> int:
    """How many classes there are; raise where the cross-entropy of answers and labels would fail, or mean nothing. Labels are made int64.

    Args:
        task: whose classifier makes logits; held in eval mode by the caller.
        data: images by argument name.

    Raises:
        InstaAugError: a classifier on another device, whose answers are no logits, or labels that are not its classes.
    """
    aug, classifier = task.aug, task.classifier
    weight = next(classifier.parameters(), None)
    if weight is not None and weight.device.type != aug.device.type:
        raise InstaAugError(
            f"classifier: its weights are on {weight.device}, the transform's on {aug.device}; move one to the other: "
            f"aug.to({weight.device.type!r})"
        )
    logits = check_logits(_few(task, next(iter(data.values())))[0])
    _warn_of_company(task, next(iter(data.values())), logits)
    warn_of_probabilities(logits)
    _check_scale(classifier, next(iter(data.values())), aug.device)
    for name, part in data.items():
        if part.targets is not None:
            part.targets = as_labels(part.targets, logits.shape[1], name)
    return logits.shape[1]


def _check_scale(classifier: nn.Module, data: Images, device: torch.device) -> None:
    """Raise where a classifier is right on bytes and not on floats in [0, 1]: it scales images itself."""
    images, targets = data.batch(slice(0, SEVERAL), device)
    if targets is None or targets.ndim != 1:
        return
    right = []
    for given in (images, images.mul(255).round_().to(torch.uint8)):
        try:
            with torch.no_grad():
                right.append((classifier(as_weights(classifier, given)).argmax(1) == targets).float().mean().item())
        except Exception:  # most take floats alone, and say so in many ways
            return
    if right[1] - right[0] > 3 * (0.5 / len(targets)) ** 0.5:
        raise InstaAugError(
            f"classifier: it is right on {100 * right[1]:.0f} % of some bytes, and on {100 * right[0]:.0f} % of the same images as floats in "
            "[0, 1], which it gets here: it scales images itself. Wrap it so that it takes floats: model(images * 255), say"
        )


def can_average(task: Task, data: Images) -> bool:
    """Whether outputs of several views can be averaged, and the average be judged by the loss: one tensor of a few numbers.

    The loss is called once, so that it fails before the long work where it fails.

    Args:
        task: whose classifier is held in eval mode by the caller.
        data: with targets, unless they are the classifier's own outputs.
    """
    outputs, targets = _few(task, data)
    targets = task.own(outputs) if task.own else targets
    # Maps, of whatever size, move with the views; an average of them as they are judges nothing.
    single = isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim < 4
    if single:
        _warn_of_company(task, data, outputs)
    n = min(FEW, len(data))
    losses = per_view(task.loss, outputs, targets, n)
    if isinstance(outputs, Tensor) and outputs.shape[:1] == (n,):
        _check_each_alone(task.loss, outputs, targets, losses)
    return single and outputs.shape[:1] == (n,) and outputs[0].numel() <= MOST_NUMBERS


def _check_each_alone(loss: PerViewLoss, outputs: Tensor, targets: Tensor, losses: Tensor) -> None:
    """Raise where the loss of an image is another one without the other images: outputs (B, 1) less targets (B,) are (B, B), say."""
    half = len(losses) // 2
    if not half:
        return
    alone = per_view(loss, outputs[:half], targets[:half], half).float()
    rounding = ALIKE * losses.float().abs().amax() + EPSILON * (1 + outputs.float().abs().amax())
    if bool(((alone - losses[:half].float()).abs() > rounding).any()):
        raise InstaAugError(
            f"loss: what it gives for an image depends on the other images of the batch; of outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)} it may pair each with every other: give both one shape, targets.reshape(outputs.shape), and take means "
            "over an image's own numbers alone"
        )


def _warn_of_company(task: Task, data: Images, outputs: Tensor) -> None:
    """Log that answers depend on what else is in the batch, or on chance: ``outputs`` are those of the first `FEW` images."""
    half = FEW // 2
    if len(outputs) < FEW:
        return
    try:
        alone = _few(task, data, half)[0]
    except Exception:  # a model that takes batches of one size alone
        return
    if alone.shape != outputs[:half].shape:
        return
    if (outputs[:half] - alone).float().abs().max() > APART * (outputs.float().amax() - outputs.float().amin()):
        logger.warning(
            "classifier: what it answers for an image depends on the other images of the batch, or on chance: BatchNorm that keeps no "
            "statistics, say, or dropout in eval mode. What held-out images tell, in batches of views, may not hold for yours"
        )


def _few(task: Task, data: Images, n: int = FEW) -> tuple[Any, Tensor | None]:
    """Outputs of the first images as they are, and their targets."""
    images, targets = data.batch(slice(0, n), task.aug.device)
    images = images.clone(memory_format=torch.channels_last)  # as it gets them: what lies otherwise is copied for it
    before, identity = images.clone(), AugmentParams.alike(identity_of(task.aug.families), 1)
    with torch.no_grad():
        outputs = Viewer(task.aug, task.classifier, identity).plain(images)
    if not torch.equal(images, before):
        raise InstaAugError(
            "classifier: it changes the images that it is given, in place, and the views after that would be of changed ones; begin its "
            "forward with images = images.clone()"
        )
    return outputs, targets
