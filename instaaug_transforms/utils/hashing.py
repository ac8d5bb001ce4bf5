"""What tells one set of numbers from another."""

import hashlib

import torch
from torch import Tensor, nn


def fingerprint(*things: Tensor | nn.Module) -> str:
    """sha256 over tensors, and over the parameters and buffers of modules: the same bits, the same string."""
    state = hashlib.sha256()
    for thing in things:
        tensors = {"": thing} if isinstance(thing, Tensor) else thing.state_dict()
        for name, tensor in tensors.items():
            state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            # Viewed as bytes: NumPy knows no bfloat16.
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()
