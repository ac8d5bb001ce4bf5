"""What tells one set of numbers from another."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # NumPy, and Python on Windows, write them in capitals


def unwrapped(model: nn.Module) -> nn.Module:
    """The module itself, of one that is compiled or spread over devices."""
    while isinstance(model, nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, nn.DataParallel) else model._orig_mod
    return model


def fingerprint(*things: Tensor | nn.Module | Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> str:
    """sha256 over tensors: the same bits, the same string.

    Args:
        *things: tensors; modules, for their parameters and buffers, compiled or not; mappings of names to tensors, in any order.
        config: JSON values that count too.
    """
    state = hashlib.sha256(b"" if config is None else json.dumps(config, sort_keys=True).encode())
    for thing in things:
        if isinstance(thing, Mapping):
            entries = sorted(thing.items())
        else:
            entries = [("", thing)] if isinstance(thing, Tensor) else list(_kept_by(unwrapped(thing)))
        for name, tensor in entries:
            if not isinstance(tensor, Tensor):  # what a module keeps besides, a quantised one say
                state.update(f"{name}|{ADDRESS.sub('', repr(tensor))}|".encode())
                continue
            tensor = tensor.dequantize() if tensor.is_quantized else tensor
            state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            # Viewed as bytes: NumPy knows no bfloat16.
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()


def _kept_by(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What its state holds, and the tensors inside programs of torch.jit: frozen ones keep their weights nowhere else."""
    yield from module.state_dict().items()
    for name, part in module.named_modules():
        graph = getattr(part, "graph", None) if isinstance(part, torch.jit.ScriptModule) else None
        if graph is None:  # it has no program of its own
            continue
        for kind in ("prim::Constant", "prim::ConstantMKLDNNTensor"):
            nodes = (node for node in graph.findAllNodes(kind) if node.hasAttribute("value"))
            tensors = (node.t("value") for node in nodes if node.kindOf("value") == "t")
            yield from ((f"{name}|{i}", tensor.to_dense()) for i, tensor in enumerate(tensors))
