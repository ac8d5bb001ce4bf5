"""Work shared by the processes of `torch.distributed`; one process if it is not initialised.

φ is called through its transform, not through `DistributedDataParallel`, whose hooks would never fire. Its parameters
pass an identity instead whose backward averages all of their gradients in one collective, whatever else the backward
contains: another DDP model, checkpointed blocks, accumulated micro-batches.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call


def rank() -> int:
    """Index of this process, 0 for the only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 for the only one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all processes, in place.

    If every element is non-zero in one process at most, it is what that process had, to the bit.
    """
    if world_size() > 1:
        _exchange(tensor, dist.all_reduce)
    return tensor


def _exchange(tensor: Tensor, collective: Callable[..., Any], **kwargs: Any) -> None:
    """A collective in place, where processes can exchange the tensor: NCCL does so between GPUs alone."""
    moved = tensor
    if dist.get_backend() == "nccl" and not tensor.is_cuda:
        moved = tensor.to(torch.device("cuda", torch.cuda.current_device()))
    collective(moved, **kwargs)
    if moved is not tensor:
        tensor.copy_(moved)


def all_reduce_mean(values: Tensor) -> Tensor:
    """``values`` averaged over all processes, detached."""
    return all_reduce_sum(values.detach().clone()) / world_size()


def broadcast(module: nn.Module) -> None:
    """Every process takes rank 0's parameters and buffers, as DDP's constructor does."""
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            _exchange(tensor.detach(), dist.broadcast, src=0)


def call_with_mean_gradients(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)``; its gradients will be the mean over all processes, each of which must run the backward."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if world_size() == 1 or not torch.is_grad_enabled() or not trainable:
        return module(*inputs)
    synced = _MeanGradient.apply(*trainable.values())
    return functional_call(module, dict(zip(trainable, synced, strict=True)), inputs)


class _MeanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *parameters: Tensor) -> tuple[Tensor, ...]:
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, ...]:
        flat = all_reduce_mean(torch.cat([grad.flatten() for grad in grads]))
        parts = flat.split([grad.numel() for grad in grads])
        return tuple(part.view_as(grad) for part, grad in zip(parts, grads, strict=True))
