"""The loss table of a frozen classifier: L[i, a] is the loss of image i seen through crop anchor a."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .. import functional
from ..families.crop import Crop
from ..utils.hashing import fingerprint
from ..utils.modes import frozen
from .data import LabelledImages
from .row_store import RowStore

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
    folder: Path | None = None,
) -> Tensor:
    """One forward per image and anchor, jitter off; shared by the processes of `torch.distributed`.

    Args:
        classifier: images in [0, 1] to outputs; held in eval mode meanwhile.
        data: images the classifier has not memorised.
        crop: the family whose anchors are tried.
        loss: per-view loss of (outputs, targets).
        output_size: (height, width) the views are resized to; the images' own where None.
        batch_size: images per chunk, and views per forward.
        amp: bfloat16 autocast.
        progress: show a bar; None where the output is a terminal.
        desc: of the bar; also the name of the files.
        folder: keep the table there, memory-mapped, and go on with what is there already: a kill loses one chunk at
            most. In memory where None.

    Returns:
        ``(N, A)`` float32 on the CPU.

    Raises:
        InstaAugError: ``folder`` holds the table of other images, another classifier or other settings.
    """
    anchors = crop.anchor_params().to(device)
    description = {"anchors": crop.anchors.tolist(), "output_size": output_size, "amp": amp}
    description["loss"] = f"{loss.__module__}.{loss.__qualname__}" if hasattr(loss, "__qualname__") else repr(loss)
    if folder is not None:
        description |= {"images": fingerprint(data.images, data.targets), "classifier": fingerprint(classifier)}
    name = desc.replace(" ", "-")
    store = RowStore(folder, name, len(data), (crop.n_anchors,), torch.float32, batch_size, description)

    def compute(part: slice) -> Tensor:
        images, targets = data.batch(part, device)
        # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
        images = images.contiguous(memory_format=torch.channels_last)
        columns = []
        for a in range(crop.n_anchors):
            params = anchors.map(lambda field, a=a, n=len(images): field[a].expand(n))
            views = functional.apply(images, params, [crop], output_size)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
                outputs = classifier(views)
            columns.append(loss(outputs, targets).float())
            bar.update(len(images))
        return torch.stack(columns, 1)

    rows, done = store.share
    bar = tqdm(
        total=rows * crop.n_anchors,
        initial=done * crop.n_anchors,
        desc=desc,
        unit="view",
        unit_scale=True,
        disable=None if progress is None else not progress,
    )
    with bar, frozen(classifier), torch.no_grad():
        for part in store.todo():
            store.put(part, compute(part))
    return store.gather()
