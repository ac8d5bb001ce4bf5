"""The loss table of a frozen classifier: L[i, a] is the loss of image i seen through crop anchor a."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .. import ops
from ..families.crop import Crop
from .data import LabelledImages
from .frozen import frozen

PerViewLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``(B, classes)`` logits and ``(B,)`` labels to ``(B,)`` nats."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def build_loss_table(
    classifier: nn.Module,
    data: LabelledImages,
    crop: Crop,
    *,
    loss: PerViewLoss = cross_entropy,
    output_size: tuple[int, int] | None = None,
    batch_size: int = 256,
    amp: bool = False,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
    desc: str = "loss table",
) -> Tensor:
    """One forward per image and anchor, jitter off.

    Args:
        classifier: images in [0, 1] to outputs; held in eval mode meanwhile.
        data: images the classifier has not memorised.
        crop: the family whose anchors are tried.
        loss: per-view loss of (outputs, targets).
        output_size: (height, width) the views are resized to; the images' own where None.
        batch_size: views per forward.
        amp: bfloat16 autocast.
        progress: show a bar; None where the output is a terminal.

    Returns:
        ``(N, A)`` float32 on the CPU.
    """
    table = torch.empty(len(data), crop.n_anchors)
    anchors = crop.anchor_params().to(device)
    bar = tqdm(
        total=table.numel(), desc=desc, unit="view", unit_scale=True, disable=None if progress is None else not progress
    )
    with frozen(classifier), torch.no_grad(), bar:
        for start in range(0, len(data), batch_size):
            index = slice(start, start + batch_size)
            images, targets = data.batch(index, device)
            # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
            images = images.contiguous(memory_format=torch.channels_last)
            for a in range(crop.n_anchors):
                params = anchors.map(lambda field, a=a, n=len(images): field[a].expand(n))
                views = ops.apply(images, params, [crop], output_size)
                with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
                    outputs = classifier(views)
                table[index, a] = loss(outputs, targets).float().cpu()
                bar.update(len(images))
    return table
