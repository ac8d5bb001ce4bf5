"""What a fit needs of its images besides the images: what φ sees of them, and the loss table."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..augment import LearnedAugment
from ..families.crop import Crop
from ..utils.errors import InstaAugError
from ..utils.hashing import fingerprint
from .config import FitConfig
from .data import LabelledImages
from .loss_table import PerViewLoss, build_loss_table
from .row_store import RowStore

NOT_MEANT = ("progress", "checkpoint_seconds")  # options of a fit that change none of its numbers


@dataclass(frozen=True)
class Prepared:
    """Images, what φ sees of them (mirrored too, where crops may be), and their loss table ``(N, A)``, if any."""

    data: LabelledImages
    looked: tuple[Tensor, ...]
    mirrored: tuple[Tensor, ...] | None
    table: Tensor | None
    device: torch.device

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What φ sees, and the table's rows, of ``(B,)`` images."""
        at = index.cpu()
        table = None if self.table is None else self.table[at].to(self.device)
        return tuple(part[at].to(self.device) for part in self.looked), table

    def mirror_half(
        self, index: Tensor, generator: torch.Generator, mirror_index: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """As `rows`, half of the images mirrored: with mirrored anchors their losses are in the table already, exactly."""
        looked, rows = self.rows(index)
        chosen = torch.rand(len(index), generator=generator, device=self.device) < 0.5
        at = index.cpu()
        other = (part[at].to(self.device) for part in self.mirrored)
        mixed = tuple(
            torch.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), two, one)
            for one, two in zip(looked, other, strict=True)
        )
        return mixed, torch.where(chosen[:, None], rows[:, mirror_index.to(rows.device)], rows)


def prepare(
    data: LabelledImages,
    table: Tensor | None,
    name: str,
    aug: LearnedAugment,
    classifier: nn.Module,
    loss: PerViewLoss,
    config: FitConfig,
    crop: Crop | None,
    folder: Path | None,
    with_table: bool = True,
) -> Prepared:
    """Compute it, or take it from ``folder`` as far as it is there. ``name`` is ``"table"`` or ``"val_table"``."""
    held = "" if name == "table" else "held-out "
    device = next(aug.predictor.parameters()).device
    wanted = crop is not None and with_table
    if wanted and table is None:
        table = build_loss_table(
            classifier,
            data,
            crop,
            loss=loss,
            output_size=aug.output_size,
            batch_size=config.table_batch_size,
            amp=config.amp,
            device=device,
            progress=config.progress,
            desc=f"{held}loss table",
            folder=folder,
        )
    if wanted and table.shape != (len(data), crop.n_anchors):
        raise InstaAugError(
            f"{name}: expected shape {(len(data), crop.n_anchors)} (images, anchors), got {tuple(table.shape)}; "
            "build it again for these data and this crop family"
        )
    if wanted and not table.isfinite().all():
        raise InstaAugError(f"{name}: holds losses that are not finite; look at the classifier's outputs")
    flips = wanted and crop.flips and len(aug.families) == 1
    looked = _look(aug, data, config, folder, f"{held}copies", mirrored=False)
    mirrored = _look(aug, data, config, folder, f"{held}mirrored copies", mirrored=True) if flips else None
    return Prepared(data, looked, mirrored, table.float() if wanted else None, device)


@torch.no_grad()
def _look(
    aug: LearnedAugment, data: LabelledImages, config: FitConfig, folder: Path | None, desc: str, mirrored: bool
) -> tuple[Tensor, ...]:
    """What φ sees of every image, the same at every epoch."""
    device = next(aug.predictor.parameters()).device
    size = config.table_batch_size

    def look(part: slice) -> tuple[Tensor, ...]:
        images = data.batch(part, device)[0]
        return aug.predictor.look(images.flip(-1) if mirrored else images)

    first = look(slice(0, min(size, len(data))))
    description = {"predictor": aug.predictor.config()}
    if folder is not None:
        description["images"] = fingerprint(data.images)
    stores = [
        RowStore(folder, f"{desc}-{i}".replace(" ", "-"), len(data), part.shape[1:], part.dtype, size, description)
        for i, part in enumerate(first)
    ]
    rows, done = stores[0].share
    disable = None if config.progress is None else not config.progress
    with tqdm(total=rows, initial=done, desc=desc, unit="image", disable=disable) as bar:
        for part in stores[0].todo():
            values = look(part)
            # The first store last: what it says is done is then done in all of them.
            for store, value in reversed(list(zip(stores, values, strict=True))):
                store.put(part, value)
            bar.update(part.stop - part.start)
    return tuple(store.gather() for store in stores)


def describe(
    aug: LearnedAugment, classifier: nn.Module, train: Prepared, val: Prepared, config: FitConfig
) -> dict[str, Any]:
    """What a checkpoint belongs to, as JSON values."""
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_MEANT}
    return {
        "transform": aug.config(),
        "classifier": fingerprint(classifier),
        "train_data": fingerprint(train.data.images, train.data.targets),
        "val_data": fingerprint(val.data.images, val.data.targets),
        **settings,
    }
