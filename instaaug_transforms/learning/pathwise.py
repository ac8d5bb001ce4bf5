"""Losses of views through the frozen classifier, and their gradients in the views' parameters."""

from typing import Any

import torch
from torch import Tensor

from ..engine.data import LabelledImages
from ..params import AugmentParams
from ..utils import distributed
from ..utils.errors import InstaAugError
from ..utils.outputs import as_weights
from .losses import per_view
from .task import Task


def view_losses(task: Task, data: LabelledImages, index: Tensor, params: AugmentParams) -> Tensor:
    """Losses ``(n, B)`` of ``(n, B)`` views, differentiable in those parameters that require a gradient.

    The classifier's work is done in chunks of ``table_batch_size`` views that the processes of `torch.distributed` share. A chunk
    holds the same views however many processes there are, so all of them end up with the bits of one.

    Args:
        index: ``(B,)`` rows of ``data``, on the CPU.

    Raises:
        InstaAugError: a classifier that gives no gradient.
    """
    wanted = [name for name, field in params.items() if field.requires_grad]
    flat, n = params.flatten().detach(), params.batch_shape[0]
    many, device, chunk = index.repeat(n), task.aug.device, task.config.table_batch_size
    losses = torch.zeros(len(many), device=device)
    slopes = {name: torch.zeros_like(flat[name]) for name in wanted}
    for c, part in enumerate(torch.arange(len(many)).split(chunk)):
        if c % distributed.world_size() != distributed.rank():
            continue
        images, targets = data.batch(many[part], device)
        some = flat.map(lambda field, part=part: field[part])
        leaves = {name: some[name].clone().requires_grad_() for name in wanted}
        with torch.set_grad_enabled(bool(wanted)):
            views = task.aug.apply(images, some.replace(**leaves))
            with torch.autocast(device.type, torch.bfloat16, enabled=task.config.amp):
                outputs = task.classifier(as_weights(task.classifier, views))
            value = per_view(task.loss, outputs, targets, len(part))
        losses[part] = value.detach().to(losses)
        if wanted and not value.requires_grad:
            raise InstaAugError(
                f"classifier: ranges learn through its gradient, and it gives none for {', '.join(wanted)}: it computes under torch.no_grad(), in "
                "another library or as a frozen program. Give the module itself, or use families of candidates (crop, turn, light, …)"
            )
        if wanted:
            gradients = torch.autograd.grad(value.sum(), list(leaves.values()))
            for name, slope in zip(leaves, gradients, strict=True):
                slopes[name][part] = slope
    distributed.all_reduce_sum(losses)
    out: Any = losses.unflatten(0, params.batch_shape)
    for name in wanted:
        slope = distributed.all_reduce_sum(slopes[name]).unflatten(0, params.batch_shape)
        # Worth nothing, with the gradient of the loss: φ's part of the chain rule is left to autograd.
        change = slope * (params[name] - params[name].detach())
        out = out + change.flatten(2).sum(-1) if change.ndim > 2 else out + change
    return out
