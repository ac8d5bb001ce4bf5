"""Work shared by the processes of `torch.distributed`; one process where it is not initialised."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Index of this process, 0 where it is the only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 where it is the only one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def share(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all processes, in place.

    Where every element is non-zero in one process at most, it is what that process had, to the bit.
    """
    if world_size() > 1:
        if dist.get_backend() == "nccl" and not tensor.is_cuda:
            moved = tensor.to(torch.device("cuda", torch.cuda.current_device()))
            dist.all_reduce(moved)
            return tensor.copy_(moved)
        dist.all_reduce(tensor)
    return tensor
