"""Many images through a model, on a CPU a few at a time."""

from typing import Any

import torch
from torch import Tensor, nn

from .outputs import as_weights

PIXELS = 2**19  # for each thread


def at_once(images: Tensor) -> int:
    """How many of ``(B, C, H, W)`` images to take through a model at once: all of them, or on a CPU those of `PIXELS` per thread.

    A layer's output that is larger than the allocator keeps is memory from the system, every page of which is cleared first: through
    EfficientNet-Lite0, 256 images of 160 pixels take more than twice as long at once as they take sixteen at a time.
    """
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return max(1, len(images))
    most = max(1, PIXELS * torch.get_num_threads() // max(1, images[0, 0].numel()) if len(images) else 1)
    parts = max(1, -(-len(images) // most))
    return max(1, -(-len(images) // parts))


def forward(model: nn.Module, images: Tensor) -> Any:
    """``model(images)``, floats in the type of the model's weights.

    Outputs that are no tensor ``(B, …)`` come of all images at once.
    """
    images = as_weights(model, images)
    n = at_once(images)
    if n >= len(images):
        return model(images)
    parts = []
    for part in images.split(n):
        parts.append(model(part))
        if not isinstance(parts[-1], Tensor) or parts[-1].shape[:1] != part.shape[:1]:
            return model(images)
    return torch.cat(parts)
