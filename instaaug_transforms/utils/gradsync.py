"""Gradients of a small module averaged over the processes of a `torch.distributed` group.

φ is called through its transform, not through `DistributedDataParallel`, whose hooks would never fire. Its parameters
pass an identity instead whose backward averages all of their gradients in one collective, whatever else the backward
contains: another DDP model, checkpointed blocks, accumulated micro-batches.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call


def active() -> bool:
    """Whether there is more than one process to agree with."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def call(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)``; its gradients will be the mean over all processes, each of which must run the backward."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not active() or not torch.is_grad_enabled() or not trainable:
        return module(*inputs)
    synced = _MeanGradient.apply(*trainable.values())
    return functional_call(module, dict(zip(trainable, synced, strict=True)), inputs)


def mean(values: Tensor) -> Tensor:
    """``values`` averaged over all processes, detached."""
    values = values.detach().clone()
    if active():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return values


def broadcast(module: nn.Module) -> None:
    """Every process takes rank 0's parameters and buffers, as DDP's constructor does."""
    if active():
        for tensor in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(tensor.detach(), src=0)


class _MeanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, ...]:
        flat = mean(torch.cat([grad.flatten() for grad in grads]))
        parts = flat.split([grad.numel() for grad in grads])
        return tuple(part.view_as(grad) for part, grad in zip(parts, grads, strict=True))
