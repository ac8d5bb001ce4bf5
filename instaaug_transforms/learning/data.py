"""Labelled images in memory: what a fit and an evaluation go through many times."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from ..functional.inputs import check_range
from ..utils.errors import InstaAugError


@dataclass(frozen=True)
class LabelledImages:
    """Images ``(N, C, H, W)``, uint8 or float in [0, 1], and targets that lead with ``(N,)``."""

    images: Tensor
    targets: Tensor

    def batch(self, index: Tensor | slice, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Float images in [0, 1] and targets of the given indices, on ``device``."""
        images = self.images[index].to(device)
        return (images.float() / 255 if images.dtype == torch.uint8 else images), self.targets[index].to(device)

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, index: Tensor | slice) -> "LabelledImages":
        """The samples of the given indices."""
        return LabelledImages(self.images[index], self.targets[index])


def hold_out(data: LabelledImages, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Nine tenths to fit on and, chosen by the seed, one tenth to choose on; the same ones for the same seed."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held = max(1, len(data) // 10)
    return data.subset(order[held:]), data.subset(order[:held])


def load(data: Any, name: str = "data", workers: int = 0, progress: bool | None = None) -> LabelledImages:
    """``(images, targets)`` tensors, a map-style Dataset of such pairs, or its DataLoader, to `LabelledImages`.

    A Dataset is read once, PIL images kept as uint8: N·C·H·W bytes of memory.

    Args:
        data: what the user gave.
        name: the argument's name, for errors.
        workers: processes that read a Dataset.
        progress: show a bar; None where the output is a terminal.

    Raises:
        InstaAugError: another kind of object, no sample, images of different sizes, or values outside [0, 1].
    """
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, LabelledImages):
        loaded = data
    elif isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        loaded = LabelledImages(*data)
    elif isinstance(data, Dataset) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        loaded = _read(data, name, workers, progress)
    else:
        raise InstaAugError(
            f"{name}: expected (images, labels) tensors, a Dataset or a DataLoader, got {type(data).__name__}"
        )
    images, targets = loaded.images, loaded.targets
    given = f"images {tuple(images.shape)} {images.dtype}, targets {tuple(targets.shape)}"
    if images.ndim != 4 or len(images) != targets.shape[0] or 0 in images.shape:
        raise InstaAugError(f"{name}: expected images (N, C, H, W) with one target each, at least one; got {given}")
    if images.is_floating_point():
        check_range(images, False, f"{name} of {given}")
    elif images.dtype != torch.uint8:
        raise InstaAugError(f"{name}: images must be uint8 or float in [0, 1], got {given}")
    return loaded


def _collate(samples: list) -> tuple[Tensor, Tensor]:
    images = [F.to_image(image) if not isinstance(image, Tensor) else image for image, *_ in samples]
    return torch.stack([image.as_subclass(Tensor) for image in images]), default_collate([s[1] for s in samples])


def _read(dataset: Dataset, name: str, workers: int, progress: bool | None) -> LabelledImages:
    loader = DataLoader(dataset, batch_size=256, num_workers=workers, collate_fn=_collate)
    disable = None if progress is None else not progress
    try:
        parts = list(tqdm(loader, desc=f"reading {name}", unit="batch", disable=disable, leave=False))
    except RuntimeError as error:
        if "equal size" not in str(error):
            raise
        raise InstaAugError(f"{name}: images differ in size; give the Dataset a transform that resizes them") from error
    if not parts:
        raise InstaAugError(f"{name}: the Dataset is empty; give at least one sample")
    return LabelledImages(torch.cat([images for images, _ in parts]), torch.cat([targets for _, targets in parts]))
