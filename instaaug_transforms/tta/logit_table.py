"""Logits of a classifier on many views of every image, once, so that many ways of choosing views can be compared."""

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import functional
from ..engine.data import Images
from ..engine.rows import compute_rows
from ..families import create
from ..params import AugmentParams
from ..utils.hashing import fingerprint
from ..utils.modes import frozen


def build_logit_table(
    classifier: nn.Module,
    data: Images,
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
        folder: keep the table there, memory-mapped, and go on with what is there already; in memory if None.
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
    n_views = views.batch_shape[0]

    def compute(images: Tensor, targets: Tensor | None, _: slice) -> dict[str, Tensor]:
        # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
        images = images.contiguous(memory_format=torch.channels_last)
        columns = []
        for v in range(n_views):
            params = views.map(lambda field, v=v: field[v].expand(len(images)))
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                columns.append(classifier(functional.apply(images, params, families)).half())
        return {"logits": torch.stack(columns, 1)}

    about = {"views": {name: field.tolist() for name, field in views.items()}, "amp": amp}
    if folder is not None:
        about |= {"images": data.fingerprint(), "classifier": fingerprint(classifier)}
    with frozen(classifier):
        rows = compute_rows(
            data, compute, chunk=batch_size, folder=folder, name=desc, about=about, forwards=n_views, progress=progress
        )
    return rows["logits"].tensor()
