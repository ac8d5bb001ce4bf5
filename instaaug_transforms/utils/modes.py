"""A classifier held still while something is learned through it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode and no parameter gradients inside; modes, requires_grad, gradients and buffers as before afterwards.

    Gradients still flow to the input. The state comes back after an exception too.
    """
    modes = {module: module.training for module in model.modules()}
    needs_grad = {parameter: parameter.requires_grad for parameter in model.parameters()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        model.eval()
        for parameter in needs_grad:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, needed in needs_grad.items():
            parameter.requires_grad_(needed)
        with torch.no_grad():
            for buffer, before in buffers.items():
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
