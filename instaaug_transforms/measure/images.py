"""The images a model is measured on: from any dataset, with or without labels, normalised or not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..engine.data import LabelledImages, has_samples, load
from ..engine.known import sampled_rows
from ..engine.samples import Samples, as_image
from ..functional.inputs import Normalization
from ..utils.errors import InstaAugError, check_whole
from ..utils.modes import permutation
from ..utils.progress import bar

NormalizationArgument = tuple[Sequence[float], Sequence[float]] | Normalization | None


class MeasuredImages(LabelledImages):
    """Images in memory, where they come from, and how to name their labels.

    Args:
        images: ``(N, C, H, W)``, uint8 or float in [0, 1].
        targets: ``(N,)`` class indices, or None.
        classes: names of the labels, or None.
        index: ``(N,)``, place of each image in its dataset.
        normalization: redone before the model, or None.
    """

    per_image = ("images", "targets", "index")

    def __init__(
        self,
        images: Tensor,
        targets: Tensor | None,
        classes: tuple[str, ...] | None,
        index: Tensor,
        normalization: Normalization | None,
    ) -> None:
        super().__init__(images, targets)
        self.classes, self.index, self.normalization = classes, index, normalization

    @property
    def labelled(self) -> bool:
        return self.targets is not None

    def labels(self) -> list[str]:
        """``(N,)`` names of the labels, their numbers if they have no names, or ``""`` without labels."""
        return [self.class_name(target) for target in self.targets.tolist()] if self.labelled else [""] * len(self)

    def class_name(self, target: int) -> str:
        """The name of a label, or its number."""
        return self.classes[target] if self.classes is not None and target < len(self.classes) else str(target)

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
    """Whatever the user has to `MeasuredImages`, which every measurement takes as data too.

    Args:
        data: ``(images, labels)`` tensors; images ``(N, C, H, W)`` alone, and nothing about classes is reported; a
            map-style Dataset of images or (image, label) pairs, or its DataLoader, whose processes read. uint8 or float in [0, 1].
        max_images: at most this many, drawn at random without replacement.
        normalization: ``(mean, std)`` per channel, if the images arrive normalised: undone here, so that transformations
            act on [0, 1], and redone before the model. `MeasuredImages` keep theirs.
        seed: of the draw.
        progress: show a bar; by default if the output is a terminal.

    Raises:
        InstaAugError: as `engine.data.load`; images of several sizes; labels that are no class indices; max_images below 2.
    """
    normalization = Normalization.of(normalization)
    if isinstance(data, MeasuredImages):
        kept, given = (None if n is None else (n.mean, n.std) for n in (data.normalization, normalization))
        if given not in (None, kept):
            raise InstaAugError(
                f"normalization: these images were prepared with {kept or 'none'}, got {given}; leave it out, or give the data itself"
            )
        index = _draw(len(data), max_images, seed)
        return data if len(index) == len(data) else data.subset(index)
    rows, workers = None, 0
    if isinstance(data, DataLoader):
        rows, workers, data = sampled_rows(data, "data"), data.num_workers, data.dataset
    classes, index = getattr(data, "classes", None), None
    if has_samples(data) and len(data):
        # Before anything is read: a large dataset need not fit into memory.
        rows = torch.arange(len(data)) if rows is None else rows
        index = rows[_draw(len(rows), max_images, seed)]
        data = _read(data, index, workers, progress)
    data = (data, None) if isinstance(data, (Tensor, np.ndarray)) else data
    if normalization is not None and isinstance(data, (tuple, list)) and len(data) == 2:
        data = _undo(torch.as_tensor(data[0]), normalization), data[1]
    loaded = load(data, "data").in_memory(progress)
    if index is None:
        index = _draw(len(loaded), max_images, seed)
        loaded = loaded if len(index) == len(loaded) else loaded.subset(index)
    targets = None if loaded.targets is None else loaded.targets.cpu()
    if targets is not None and (targets.ndim != 1 or targets.is_floating_point() or targets.long().min() < 0):
        raise InstaAugError(
            f"data: labels must be class indices (N,), from 0, got {tuple(targets.shape)} {targets.dtype}, from {targets.min():g}; "
            "give the images alone to measure without labels"
        )
    names = None if classes is None else tuple(str(name) for name in classes)
    return MeasuredImages(loaded.images, targets if targets is None else targets.long(), names, index, normalization)


def _draw(n: int, most: int | None, seed: int) -> Tensor:
    """Ascending indices of ``most`` among ``n`` images, or of all of them."""
    check_whole("max_images", most, 2, optional=True)
    return permutation(n, seed)[:most].sort().values


def _read(dataset: Dataset, index: Tensor, workers: int, progress: bool | None) -> tuple[Tensor, Tensor | None]:
    """Images and targets of the given samples, each read once, by so many processes."""
    # Sample by sample and as they are; the generator, for otherwise the seeds of processes are drawn from the global one.
    options = {"batch_size": None, "collate_fn": _as_it_is, "generator": torch.Generator().manual_seed(0)}
    loader = DataLoader(Samples(dataset, "data"), sampler=index.tolist(), num_workers=workers, **options)
    samples = bar(loader, desc="reading data", unit="image", progress=progress, leave=False)
    images, labels = zip(*samples, strict=True)
    images = [as_image(image, "data") for image in images]
    if len({image.shape for image in images}) > 1:
        raise InstaAugError("data: images differ in size; give the Dataset a transform that resizes them")
    return torch.stack(images), None if labels[0] is None else default_collate(list(labels))


def _as_it_is(sample: Any) -> Any:
    return sample


def _undo(images: Tensor, normalization: Normalization) -> Tensor:
    if images.ndim == 4:
        Normalization(normalization.mean, normalization.std, images.shape[1])  # raises unless they fit the images
    if not images.is_floating_point():  # bytes are not normalised
        return images
    # What was rounded below 0 or above 1 goes back; a wrong mean or std is far outside and `load` says so.
    out = normalization.undo(images)
    return torch.where((out - 0.5).abs() <= 0.501, out.clamp(0, 1), out)
