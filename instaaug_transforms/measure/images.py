"""The images a model is measured on: any dataset, with or without labels, normalised or not."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from ..engine.data import LabelledImages, load
from ..functional.inputs import Normalization
from ..utils.errors import InstaAugError

NormalizationArgument = tuple[Sequence[float], Sequence[float]] | Normalization | None


@dataclass(frozen=True)
class MeasuredImages(LabelledImages):
    """Images in [0, 1] or uint8, and how to name their labels.

    Attributes:
        labelled: whether ``targets`` mean anything.
        classes: names of the labels, where the dataset has them.
        index: ``(N,)``, place of each image in the dataset it came from.
        normalization: redone before the model.
    """

    labelled: bool
    classes: tuple[str, ...] | None
    index: Tensor
    normalization: Normalization | None

    def class_name(self, target: int) -> str:
        """The name of a label, or its number."""
        return self.classes[target] if self.classes is not None and target < len(self.classes) else str(target)

    def fingerprint(self) -> str:
        """sha256 over shape, pixels and labels: two reports on the same images have the same."""
        found = hashlib.sha256(repr((tuple(self.images.shape), str(self.images.dtype))).encode())
        for part in (self.images, self.targets):
            found.update(part.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def to_model(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the model wants them."""
        return images if self.normalization is None else self.normalization.redo(images)


def prepare(
    data: Any,
    max_images: int | None = None,
    normalization: NormalizationArgument = None,
    seed: int = 0,
    progress: bool | None = None,
) -> MeasuredImages:
    """What the user gave to `MeasuredImages`; each later function takes either.

    Args:
        data: ``(images, labels)`` tensors, images ``(N, C, H, W)`` alone (nothing about classes is reported then), a
            map-style Dataset of (image, label) pairs, or its DataLoader; uint8 or float in [0, 1].
        max_images: measure on this many at most, drawn at random without replacement.
        normalization: ``(mean, std)`` per channel where the images arrive normalised: undone here, so that
            transformations act on [0, 1], and redone before the model.
        seed: of the draw.
        progress: show a bar; None where the output is a terminal.

    Raises:
        InstaAugError: as `learning.data.load`, or max_images below 2.
    """
    if isinstance(data, MeasuredImages):
        return data if max_images is None else _at_most(data, max_images, seed)
    if normalization is not None and not isinstance(normalization, Normalization):
        normalization = Normalization(*(tuple(part) for part in normalization))
    if isinstance(data, DataLoader):
        data = data.dataset
    classes = getattr(data, "classes", None)
    labelled = not isinstance(data, Tensor)
    if isinstance(data, Tensor):
        data = (data, torch.zeros(len(data), dtype=torch.long))
    chosen = None
    if isinstance(data, Dataset) and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        if max_images is not None and 2 <= max_images < len(data):
            # Drawn before anything is read: a large dataset need not fit into memory.
            chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:max_images]
            chosen = chosen.sort().values
        data = _Part(data, chosen, normalization)
    elif normalization is not None and not isinstance(data, LabelledImages):
        data = (_undo(data[0], normalization), data[1])
    loaded = load(data, "data", progress=progress)
    if loaded.targets.ndim != 1 or loaded.targets.is_floating_point():
        raise InstaAugError(
            f"data: labels must be class indices (N,), got {tuple(loaded.targets.shape)} {loaded.targets.dtype}; give "
            "the images alone to measure without labels"
        )
    names = None if classes is None else tuple(str(name) for name in classes)
    index = torch.arange(len(loaded)) if chosen is None else chosen
    made = MeasuredImages(loaded.images, loaded.targets, labelled, names, index, normalization)
    return made if max_images is None else _at_most(made, max_images, seed)


def _at_most(images: MeasuredImages, n: int, seed: int) -> MeasuredImages:
    if not isinstance(n, int) or n < 2:
        raise InstaAugError(f"max_images: expected a whole number ≥ 2, or None for all, got {n!r}")
    if n >= len(images):
        return images
    keep = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n].sort().values
    return MeasuredImages(
        images.images[keep],
        images.targets[keep],
        images.labelled,
        images.classes,
        images.index[keep],
        images.normalization,
    )


def _undo(images: Tensor, normalization: Normalization) -> Tensor:
    # What was rounded below 0 or above 1 goes back; a wrong mean or std is far outside and `load` says so.
    out = normalization.undo(images)
    return torch.where((out - 0.5).abs() <= 0.501, out.clamp(0, 1), out)


class _Part(Dataset):
    """Some samples of a dataset, their normalisation undone."""

    def __init__(self, data: Dataset, index: Tensor | None, normalization: Normalization | None) -> None:
        self.data, self.normalization = data, normalization
        self.index = range(len(data)) if index is None else index.tolist()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple:
        image, target, *_ = self.data[self.index[i]]
        if self.normalization is not None:
            image = F.to_image(image) if not isinstance(image, Tensor) else image
            image = _undo(image.as_subclass(Tensor), self.normalization)
        return image, target
