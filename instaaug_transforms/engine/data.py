"""Images to learn from and to report on: tensors in memory, or a Dataset that is read as it is needed."""

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..functional.inputs import as_bytes, as_floats, check_range
from ..utils.errors import InstaAugError
from ..utils.hashing import fingerprint
from ..utils.progress import bar
from .known import known_identities, known_targets, names_of, same_label, sampled_rows
from .samples import Samples, as_image, collated, kind, without_key

logger = logging.getLogger(__name__)
FINGERPRINTED = 64  # images of a Dataset that are read to tell it from another
AS_THEY_ARE = (
    "images are taken as they are before v2.Normalize here, also for a transform with normalization=(mean, std), whose classifier gets "
    "them normalised: leave v2.Normalize out of the data; divide 0…255 floats by 255"
)


class Images:
    """N images and, where there are any, their targets.

    Attributes:
        targets: tensor that leads with ``(N,)``; None without labels.
        identities: a name per image (its path, say), or None.
        groups: ``(N,)`` integers: images of one are no independent witnesses; None where all are.
        per_image: names of the attributes that are tensors and lead with ``(N,)``.
    """

    per_image: ClassVar[tuple[str, ...]] = ("targets", "groups")
    targets: Tensor | None = None
    groups: Tensor | None = None
    identities: list[str] | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def batch(self, index: Tensor | slice, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
        """Float images in [0, 1] and targets of the given indices, on ``device``."""
        (part,) = self.batches([index], device)
        return part

    def batches(
        self, indices: Sequence[Tensor | slice], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`batch` of each of ``indices``, in order."""
        raise NotImplementedError

    def subset(self, index: Tensor | slice) -> Self:
        """The samples of the given indices."""
        part = copy.copy(self)
        for name in self.per_image:
            value = getattr(self, name)
            setattr(part, name, None if value is None else value[index])
        part.identities = names_of(self.identities, index)
        return part

    def grouped(self, groups: Sequence[Any] | None) -> Self:
        """The same images; what belongs together says ``groups``, a name per image.

        Raises:
            InstaAugError: not one each.
        """
        if groups is None:
            return self
        names = groups.tolist() if isinstance(groups, (Tensor, np.ndarray)) else list(groups)
        if len(names) != len(self):
            raise InstaAugError(f"groups: expected a name per image, {len(self)}, got {len(names)}")
        several = next((name for name in names if isinstance(name, (list, dict, set))), None)
        if several is not None:
            raise InstaAugError(f"groups: expected a name per image, a number or text, got {several!r}; make one of it")
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        images = copy.copy(self)
        images.groups = torch.tensor([number[name] for name in names])
        return images

    def without_targets(self) -> Self:
        """The same images, of which nothing is known."""
        images = copy.copy(self)
        images.targets = None
        return images

    def fingerprint(self) -> str:
        """What tells these images and targets from others."""
        raise NotImplementedError

    def in_memory(self, progress: bool | None = None) -> "LabelledImages":
        """All of it as tensors."""
        raise NotImplementedError


class LabelledImages(Images):
    """Images in memory.

    Args:
        images: ``(N, C, H, W)``, uint8 or float in [0, 1].
        targets: tensor that leads with ``(N,)``; None without labels.
        identities: a name per image.
    """

    per_image = ("images", "targets", "groups")

    def __init__(self, images: Tensor, targets: Tensor | None = None, identities: list[str] | None = None) -> None:
        self.images, self.targets, self.identities = images, targets, identities

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, indices: Sequence[Tensor | slice], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        for index in indices:
            images = as_floats(self.images[index].to(device))
            yield images, None if self.targets is None else self.targets[index].to(device)

    def fingerprint(self) -> str:
        return fingerprint(self.images, *([] if self.targets is None else [self.targets]))

    def in_memory(self, progress: bool | None = None) -> "LabelledImages":
        return self


class StreamedImages(Images):
    """Images of a map-style Dataset, read when they are asked for: memory does not grow with their number.

    Args:
        dataset: anything with a length and samples by index: images, tuples of image and target, or dictionaries with
            an image and a label (`samples.parts`); PIL images, arrays or tensors, all of one size.
        name: the argument's name, for errors.
        workers: processes that read ahead.
        rows: indices into ``dataset``; all of it by default.
    """

    per_image = ("rows", "targets", "groups")

    def __init__(self, dataset: Dataset, name: str = "data", workers: int = 0, rows: Tensor | None = None) -> None:
        self.dataset, self.name, self.workers = dataset, name, workers
        self.rows = torch.arange(len(dataset)) if rows is None else rows
        if not len(self.rows):
            raise InstaAugError(f"{name}: the Dataset is empty; give at least one sample")
        some, every = torch.linspace(0, len(self.rows) - 1, min(len(self.rows), 16)).long(), Samples(dataset, name)
        with torch.random.fork_rng([]):
            samples = {row: every[row] for row in self.rows[some].tolist()}
            again = as_image(every[int(self.rows[0])][0], name)
        labelled = _are_labelled([label for _, label in samples.values()], name)
        if not labelled and every.others:
            logger.warning(without_key(every.others, name))
        self._size, targets = None, known_targets(dataset) if labelled else None
        # What a Dataset knows need not be what its samples say: labels are mapped in `__getitem__`, say.
        if labelled and (targets is None or not all(same_label(targets[row], s[1]) for row, s in samples.items())):
            targets = [every[i][1] for i in range(len(dataset))]
            targets = collated(targets, name) if _are_labelled(targets, name) else None
        once = as_image(samples[int(self.rows[0])][0], name)
        if once.shape == again.shape and not torch.equal(once, again):
            logger.warning(
                "%s: a sample is another image each time it is read; what is compared are then different images. Leave random "
                "transforms out of the Dataset; nuisance= disturbs images, the same way each time",
                name,
            )
        try:
            self.targets = None if targets is None else torch.as_tensor(targets)[self.rows]
        except (TypeError, ValueError, RuntimeError) as error:
            raise InstaAugError(
                f"{name}: labels must be numbers, got {kind(targets)}; give the classes' numbers"
            ) from error
        self.identities = names_of(known_identities(dataset), self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, indices: Sequence[Tensor | slice], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        rows = [self.rows[index] for index in indices]
        loader = DataLoader(
            _ImagesOnly(self.dataset, self.name),
            batch_sampler=[row.tolist() for row in rows],
            num_workers=self.workers if len(rows) > 1 else 0,
            collate_fn=_stack,
            generator=torch.Generator().manual_seed(0),  # else the seeds of workers are drawn from the global one
        )
        for index, images in zip(indices, self._checked(loader, rows), strict=True):
            yield as_floats(images.to(device)), None if self.targets is None else self.targets[index].to(device)

    def _checked(self, loader: DataLoader, rows: list[Tensor]) -> Iterator[Tensor]:
        for images, numbers in zip(loader, rows, strict=True):
            if isinstance(images, str) or (self._size or images.shape[1:]) != images.shape[1:]:
                sizes = images if isinstance(images, str) else f"{tuple(self._size)} and {tuple(images.shape[1:])}"
                raise InstaAugError(
                    f"{self.name}: images differ in size ({sizes}); give the Dataset a transform that resizes them"
                )
            self._size = images.shape[1:]
            _check_images(images, self.name, numbers.tolist())
            yield images

    def fingerprint(self) -> str:
        # Reading all images to tell them apart would double the time of a fit: their names, a few of them and the labels do.
        sample = torch.linspace(0, len(self) - 1, min(len(self), FINGERPRINTED)).long()
        images, _ = self.batch(sample)
        names = hash_text(json.dumps([self.identities, self.rows.tolist()]))
        return fingerprint(images, names, *([] if self.targets is None else [self.targets]))

    def in_memory(self, progress: bool | None = None) -> LabelledImages:
        read, order = [], torch.arange(len(self)).split(256)
        loop = self.batches(order)
        for images, _ in bar(
            loop, desc=f"reading {self.name}", total=len(order), leave=False, progress=progress, unit="batch"
        ):
            read.append(as_bytes(images) if self._is_bytes() else images)
        images = LabelledImages(torch.cat(read), self.targets, self.identities)
        images.groups = self.groups
        return images

    def _is_bytes(self) -> bool:
        first, _ = Samples(self.dataset, self.name)[int(self.rows[0])]
        return not as_image(first, self.name).is_floating_point()


def hash_text(text: str) -> Tensor:
    """A string as a tensor of bytes, for `fingerprint`."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def load(
    data: Any,
    name: str = "data",
    workers: int = 0,
    channels: int | None = None,
    labelled: bool = False,
) -> Images:
    """What a user gives as images to `Images`.

    Args:
        data: ``(images, targets)`` tensors or arrays, images ``(N, C, H, W)`` alone, a map-style Dataset (or a list of
            samples), or its DataLoader (whose sampler must go through the Dataset in some order).
        name: the argument's name, for errors.
        workers: processes that read a Dataset.
        channels: that the images must have; any by default.
        labelled: whether they need targets.

    Raises:
        InstaAugError: another kind of object, no sample, images of different sizes, values outside [0, 1], or what
            ``channels`` and ``labelled`` do not allow.
    """
    images = _load(data, name, workers)
    _, given, _, last = images.batch(slice(0, 1))[0].shape
    if channels not in (None, given):
        fix = f"convert them, or make LearnedAugment(…, in_channels={given})"
        if last == channels:
            fix = "theirs come last: give tensors images.permute(0, 3, 1, 2), arrays images.transpose(0, 3, 1, 2)"
        raise InstaAugError(f"{name}: images have {given} channel(s), the transform was made for {channels}; {fix}")
    if labelled and images.targets is None:
        raise InstaAugError(f"{name}: expected images with labels, got images alone; give (images, labels)")
    return images


def _load(data: Any, name: str, workers: int) -> Images:
    if isinstance(data, Images):
        return data
    if isinstance(data, DataLoader):
        return StreamedImages(data.dataset, name, workers or data.num_workers, sampled_rows(data, name))
    if has_samples(data):
        return StreamedImages(data, name, workers)
    if isinstance(data, (Tensor, np.ndarray)):
        data = (data, None)
    if isinstance(data, (tuple, list)):
        images, targets = data
        rows = isinstance(targets, (list, tuple)) and all(isinstance(one, (int, float, list, tuple)) for one in targets)
        images, targets = (
            torch.as_tensor(part) if isinstance(part, np.ndarray) else part for part in (images, targets)
        )
        with suppress(TypeError, ValueError):  # rows of text, or of several lengths
            targets = torch.tensor(targets) if rows else targets
        if targets is not None and not isinstance(targets, Tensor):
            raise InstaAugError(
                f"{name}: targets must be a tensor of numbers, as many for every image, got {kind(targets)}"
            )
        given = f"images {tuple(images.shape)} {images.dtype}"
        given += "" if targets is None else f", targets {tuple(targets.shape)}"
        if images.ndim != 4 or 0 in images.shape or (targets is not None and targets.shape[:1] != images.shape[:1]):
            raise InstaAugError(f"{name}: expected images (N, C, H, W) with one target each, at least one; got {given}")
        _check_images(images, f"{name} of {given}")
        return LabelledImages(images, targets)
    fix = "of a folder make torchvision.datasets.ImageFolder(folder, transform)" if isinstance(data, str) else ""
    fix = "give one of its splits: data['train'], say" if isinstance(data, Mapping) else fix
    raise InstaAugError(
        f"{name}: expected images, (images, labels) tensors, a Dataset or a DataLoader, got {type(data).__name__}; "
        f"{fix or 'of what can only be iterated make a list: list(data)'}"
    )


def has_samples(data: Any) -> bool:
    """Whether it gives samples by index, as lists and Datasets do; Hugging Face's are no subclass of torch's."""
    if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], (Tensor, np.ndarray)):
        return False  # images and targets
    if isinstance(data, (Tensor, np.ndarray, str, bytes, Mapping, IterableDataset)):  # whose `__getitem__` only raises
        return False
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _check_images(images: Tensor, name: str, numbers: Sequence[int] | None = None) -> None:
    if images.is_floating_point():
        try:
            check_range(images, False, name, fix=AS_THEY_ARE)
        except InstaAugError:
            for number, image in zip(numbers or range(len(images)), images, strict=True):
                check_range(image, False, f"number {number} of {name}", fix=AS_THEY_ARE)
    elif images.dtype != torch.uint8:
        fix = "give floats: of 16 bits images.float() / 65535; of 8 give images.to(torch.uint8)"
        raise InstaAugError(f"{name}: images must be uint8 or float in [0, 1], got {images.dtype}; {fix}")


def _are_labelled(labels: Sequence[Any], name: str) -> bool:
    """Whether samples have labels: all of them, or none.

    Raises:
        InstaAugError: some have.
    """
    missing = sum(label is None for label in labels)
    if 0 < missing < len(labels):
        raise InstaAugError(
            f"{name}: {missing} of {len(labels)} samples that were looked at have no label; leave these samples out, or all labels"
        )
    return not missing


class _ImagesOnly(Samples):
    def __getitem__(self, index: int) -> Tensor:
        return as_image(super().__getitem__(index)[0], self.name)


def _stack(images: list[Tensor]) -> Tensor | str:
    sizes = {tuple(image.shape) for image in images}
    return torch.stack(images) if len(sizes) == 1 else " and ".join(map(str, sorted(sizes)[:2]))
