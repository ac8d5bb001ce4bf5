"""Folders of image files as a dataset, with or without labels."""

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from torch.utils.data import Dataset
from torchvision.datasets import DatasetFolder

from ..utils.errors import InstaAugError
from .class_map import first_of, label_folders
from .images import SUFFIXES, is_image, read_image

LOOKED_AT = 10_000  # files, to say what else a folder holds
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw")  # images all the same


class ImageFiles(DatasetFolder):
    """Image files as ``(pixels, label)``: uint8 ``(C, H, W)``, and −1 where images have no labels.

    Attributes:
        classes: the name of every label, folders that are missing here included; None without labels.
        targets: the label of every image.
        numbered: whether folders are named by their labels.
        paths: where it lies below ``root``, with forward slashes: the same on every machine.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        class_map: Sequence[str] | None = None,
        labelled: bool = True,
    ) -> None:
        self.class_map, self.labelled = class_map, labelled
        reader, shown = partial(read_image, option="data"), partial(_is_shown, len(str(root)))
        super().__init__(str(root), reader, transform=transform, is_valid_file=shown)
        self.classes = self.classes if labelled else None

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """All class names, and the label of each folder that is here; hidden folders are none."""
        if not self.labelled:
            return [], {"": -1}  # the folder itself, whatever lies in it
        return label_folders(class_folders(directory), self.class_map)

    @property
    def numbered(self) -> bool:
        return self.labelled and all(name == str(label) for label, name in enumerate(self.classes))

    @property
    def paths(self) -> list[str]:
        return [Path(path).relative_to(self.root).as_posix() for path, _ in self.samples]

    def keep(self, index: Sequence[int]) -> "ImageFiles":
        """The same with some of the images."""
        kept = copy.copy(self)
        kept.samples = [self.samples[i] for i in index]
        kept.targets = [label for _, label in kept.samples]
        return kept


class ReadingErrors(Dataset):
    """Why each file cannot be read; None where it can."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> str | None:
        try:
            self.files.loader(self.files.samples[index][0])
        except InstaAugError as error:
            return str(error)
        return None


def _is_shown(start: int, path: str) -> bool:
    """Whether it is an image, by what its path goes on with at ``start``, below the root: that may be in a hidden folder itself."""
    return is_image(path[start:].lstrip(os.sep))


def class_folders(directory: str | os.PathLike) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out."""
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith("."))


def inside(directory: Path) -> str:
    """Folders in one, for errors."""
    return first_of(class_folders(directory) if directory.is_dir() else []) or "nothing"


def not_read(directory: str | os.PathLike) -> str:
    """Of a folder without images, for errors: what its files end in, at any depth, and what images do."""
    suffixes = set(_suffixes(directory)) - {"", *SUFFIXES}
    if not suffixes:
        return ""
    return f". Its files end in {first_of(sorted(suffixes))}; convert them to what is read: {', '.join(SUFFIXES)}"


def left_out(directory: str | os.PathLike) -> str:
    """Of a folder of images, for whoever runs a command: how many it holds that are not read; nothing if there are none."""
    unread = [suffix for suffix in _suffixes(directory) if suffix in UNREAD]
    return (
        f"left out {len(unread)} images that end in {first_of(sorted(set(unread)))}; convert them first"
        if unread
        else ""
    )


def _suffixes(directory: str | os.PathLike) -> list[str]:
    """What the first files of a folder end in, at any depth; hidden ones are left out."""
    files = (name for _, _, names in os.walk(directory) for name in names if not name.startswith("."))
    return [Path(name).suffix.lower() for name in islice(files, LOOKED_AT)]
