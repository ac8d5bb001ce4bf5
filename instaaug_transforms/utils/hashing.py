"""What tells one set of numbers from another."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(*things: Tensor | nn.Module | Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> str:
    """sha256 over tensors: the same bits, the same string.

    Args:
        *things: tensors; modules, for their parameters and buffers; mappings of names to tensors, in any order.
        config: JSON values that count too.
    """
    state = hashlib.sha256(b"" if config is None else json.dumps(config, sort_keys=True).encode())
    for thing in things:
        if isinstance(thing, Mapping):
            entries = sorted(thing.items())
        else:
            entries = [("", thing)] if isinstance(thing, Tensor) else list(thing.state_dict().items())
        for name, tensor in entries:
            state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            # Viewed as bytes: NumPy knows no bfloat16.
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()
