"""Many images through a model, on a CPU a few at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .outputs import as_weights

PIXELS = 2**18  # for every four threads


def in_parts(images: Tensor) -> Sequence[Tensor]:
    """``(B, C, H, W)`` images as a model takes them at once: all of them, or on a CPU parts of one size, of up to `PIXELS`.

    A layer's output that is larger than the allocator keeps is memory from the system, every page of which is cleared first: through
    EfficientNet-Lite0, 256 images of 160 pixels take more than twice as long at once as they take eight at a time.
    """
    # Who compiles counts no images: the batch would be fixed.
    if images.device.type != "cpu" or torch.compiler.is_compiling() or not images.numel():
        return [images]
    most = max(1, PIXELS * max(1, torch.get_num_threads() // 4) // images[0, 0].numel())
    return images.split(-(-len(images) // -(-len(images) // most)))


def forward(model: nn.Module, images: Tensor) -> Any:
    """``model(images)``, floats in the type of the model's weights.

    Outputs that are no tensor ``(B, …)`` come of all images at once.
    """
    images = as_weights(model, images)
    parts = in_parts(images)
    if len(parts) == 1:
        return model(images)
    outputs = []
    for part in parts:
        outputs.append(model(part))
        if not isinstance(outputs[-1], Tensor) or outputs[-1].shape[:1] != part.shape[:1]:
            return model(images)
    return torch.cat(outputs)


def answers(model: nn.Module, images: Tensor, amp: bool) -> Any:
    """`forward` under bfloat16 autocast where ``amp`` asks for it, as a frozen classifier looks at views."""
    # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
        return forward(model, images)
