"""The images a model is measured on: from any dataset, with or without labels, normalised or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
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
        classes: names of the labels, or None.
        index: ``(N,)``, place of each image in its dataset.
        normalization: redone before the model, or None.
    """

    labelled: bool
    classes: tuple[str, ...] | None
    index: Tensor
    normalization: Normalization | None

    def class_name(self, target: int) -> str:
        """The name of a label, or its number."""
        return self.classes[target] if self.classes is not None and target < len(self.classes) else str(target)

    def to_model(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the model wants them."""
        return images if self.normalization is None else self.normalization.redo(images)

    def at_most(self, n: int | None, seed: int) -> "MeasuredImages":
        """``n`` of them, drawn at random without replacement; all of them for None."""
        index = _draw(len(self), n, seed)
        if len(index) == len(self):
            return self
        return replace(self, images=self.images[index], targets=self.targets[index], index=self.index[index])


def prepare(
    data: Any,
    max_images: int | None = None,
    normalization: NormalizationArgument = None,
    seed: int = 0,
    progress: bool | None = None,
) -> MeasuredImages:
    """Whatever the user has to `MeasuredImages`, which every measurement takes as data too.

    Args:
        data: ``(images, labels)`` tensors; images ``(N, C, H, W)`` alone, and nothing about classes is reported; a
            map-style Dataset of (image, label) pairs, or its DataLoader. uint8 or float in [0, 1].
        max_images: at most this many, drawn at random without replacement.
        normalization: ``(mean, std)`` per channel, if the images arrive normalised: undone here, so that transformations
            act on [0, 1], and redone before the model.
        seed: of the draw.
        progress: show a bar; by default if the output is a terminal.

    Raises:
        InstaAugError: as `learning.data.load`, or max_images below 2.
    """
    if isinstance(data, MeasuredImages):
        return data.at_most(max_images, seed)
    if normalization is not None and not isinstance(normalization, Normalization):
        normalization = Normalization(*(tuple(part) for part in normalization))
    if isinstance(data, DataLoader):
        data = data.dataset
    classes, labelled, index = getattr(data, "classes", None), not isinstance(data, Tensor), None
    if isinstance(data, Tensor):
        data = (data, torch.zeros(len(data), dtype=torch.long))
    if isinstance(data, Dataset) and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        # Drawn before anything is read: a large dataset need not fit into memory.
        index = _draw(len(data), max_images, seed)
        data = Subset(data, index.tolist())
        data = data if normalization is None else _Denormalised(data, normalization)
    elif normalization is not None and not isinstance(data, LabelledImages):
        data = (_undo(data[0], normalization), data[1])
    loaded = load(data, "data", progress=progress)
    if loaded.targets.ndim != 1 or loaded.targets.is_floating_point():
        raise InstaAugError(
            f"data: labels must be class indices (N,), got {tuple(loaded.targets.shape)} {loaded.targets.dtype}; give "
            "the images alone to measure without labels"
        )
    names = None if classes is None else tuple(str(name) for name in classes)
    index = torch.arange(len(loaded)) if index is None else index
    images = MeasuredImages(loaded.images, loaded.targets, labelled, names, index, normalization)
    return images.at_most(max_images, seed)


def _draw(n: int, most: int | None, seed: int) -> Tensor:
    """Ascending indices of ``most`` among ``n`` images, or of all of them."""
    if most is not None and (not isinstance(most, int) or most < 2):
        raise InstaAugError(f"max_images: expected a whole number ≥ 2, or None for all, got {most!r}")
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def _undo(images: Tensor, normalization: Normalization) -> Tensor:
    # What was rounded below 0 or above 1 goes back; a wrong mean or std is far outside and `load` says so.
    out = normalization.undo(images)
    return torch.where((out - 0.5).abs() <= 0.501, out.clamp(0, 1), out)


class _Denormalised(Dataset):
    """A dataset with its normalisation undone."""

    def __init__(self, data: Dataset, normalization: Normalization) -> None:
        self.data, self.normalization = data, normalization

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple:
        image, target, *_ = self.data[i]
        image = F.to_image(image) if not isinstance(image, Tensor) else image
        return _undo(image.as_subclass(Tensor), self.normalization), target
