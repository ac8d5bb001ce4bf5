"""Logits of a classifier on many views of every image, once, so that many ways of choosing views can be compared."""

from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import functional
from ..families import create
from ..learning.data import LabelledImages
from ..learning.row_store import RowStore
from ..params import AugmentParams
from ..utils.hashing import fingerprint
from ..utils.modes import frozen


def build_logit_table(
    classifier: nn.Module,
    data: LabelledImages,
    views: AugmentParams,
    *,
    folder: Path | None = None,
    batch_size: int = 256,
    amp: bool = False,
    progress: bool | None = None,
    desc: str = "logits",
) -> Tensor:
    """Every image through every view; shared by the processes of `torch.distributed`.

    Args:
        classifier: images in [0, 1] to logits ``(B, K)``, held in eval mode.
        data: N images.
        views: ``(V,)`` crops and rotations, the same for all images.
        folder: keep the table there, memory-mapped, and go on with what is there already; in memory where None.
        batch_size: images per chunk, and views per forward.
        amp: bfloat16 autocast.
        progress: show a bar; None where the output is a terminal.
        desc: of the bar, and first part of the files' names.

    Returns:
        ``(N, V, K)`` float16: an error of 0.05 % of a logit.

    Raises:
        InstaAugError: ``folder`` holds the table of other images, another classifier or other settings.
    """
    families = create(["crop", "rotate"])
    with frozen(classifier), torch.no_grad():
        n_classes = classifier(data.batch(slice(0, 1))[0]).shape[-1]
    description = {"views": {name: field.tolist() for name, field in views.items()}, "amp": amp}
    if folder is not None:
        description |= {"images": fingerprint(data.images), "classifier": fingerprint(classifier)}
    n_views = views.batch_shape[0]
    store = RowStore(folder, desc, len(data), (n_views, n_classes), torch.float16, batch_size, description)
    rows, done = store.share
    bar = tqdm(
        total=rows * n_views,
        initial=done * n_views,
        desc=desc,
        unit="view",
        unit_scale=True,
        disable=None if progress is None else not progress,
    )
    with bar, frozen(classifier), torch.no_grad():
        for part in store.todo():
            # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
            images = data.batch(part)[0].contiguous(memory_format=torch.channels_last)
            columns = []
            for v in range(n_views):
                params = views.map(lambda field, v=v, n=len(images): field[v].expand(n))
                with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                    columns.append(classifier(functional.apply(images, params, families)).half())
                bar.update(len(images))
            store.put(part, torch.stack(columns, 1))
    return store.gather()
