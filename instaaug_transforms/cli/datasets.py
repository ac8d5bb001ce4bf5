"""Options that name folders of images, and the images in them."""

import argparse
import os
import sys
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode, v2

from ..engine import Images, load
from ..utils.errors import InstaAugError
from ..utils.modes import permutation
from ..utils.progress import bar
from .arguments import fraction, natural, positive_int
from .class_map import first_of, read_class_map
from .image_files import ImageFiles, ReadingErrors, class_folders, inside, left_out, not_read
from .images import is_image

SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")


def add_data_arguments(parser: argparse.ArgumentParser, most: int | None = None, required: bool = True) -> None:
    """As timm's validate.py names them, where it has them."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        "--data-dir",
        type=Path,
        required=required,
        help="folder that holds the splits, each as <class>/<image>",
    )
    group.add_argument(
        "--class-map",
        type=Path,
        help="a line per class of the classifier, folder name or name<TAB>words, the line number from 0 being the label; "
        "splits may then hold some of the classes (folders named 0, 1, 2 … are labels; others are numbered as sorted)",
    )
    group.add_argument("--img-size", type=positive_int, help="side of the images, pixels (the timm model's own; 224)")
    group.add_argument(
        "--crop-pct",
        type=fraction,
        help="share of the shorter side that is kept; the rest is cut (timm's, of images of the model's own size; 1)",
    )
    group.add_argument(
        "--interpolation", choices=[mode.value for mode in InterpolationMode], help="(likewise; bilinear)"
    )
    group.add_argument("--in-chans", type=int, choices=(1, 3), default=3, help="channels (%(default)s)")
    group.add_argument("--workers", "-j", type=natural, default=2, help="processes that read images (%(default)s)")
    group.add_argument(
        "--max-images", type=positive_int, default=most, help=f"use this many, chosen by the seed ({most or 'all'})"
    )


def add_reading_arguments(group: argparse._ArgumentGroup, batch_size: int, per: str) -> None:
    """For commands that read images with `read`."""
    group.add_argument(
        "--batch-size", "-b", type=positive_int, default=batch_size, help=f"images per {per} (%(default)s)"
    )
    group.add_argument("--seed", type=natural, default=0, help="(%(default)s)")
    group.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="look through all files first and leave out what is no image, saying how many; else the first one stops it",
    )


def folder_of(arguments: argparse.Namespace, split: str | None, labels: str = "folders") -> ImageFiles:
    """The images of a split (of ``--data`` itself if None), not read yet, resized and cut to a square as timm does.

    Args:
        arguments: of the command line.
        split: a folder below ``--data``.
        labels: ``"folders"``, where class folders are needed; ``"none"``, where all images at any depth are taken without
            labels; ``"auto"``, without labels where images lie in the folder itself.

    Raises:
        InstaAugError: no such folder, no images in it, some inside and some outside class folders, folders without a label,
            or a label that ``--num-classes`` does not allow.
    """
    folder = arguments.data / split if split else arguments.data
    if not folder.is_dir():
        raise InstaAugError(
            f"data: {str(folder)!r} is no folder; {str(arguments.data)!r} holds {inside(arguments.data)}"
        )
    loose = sum(entry.is_file() and is_image(entry.name) for entry in os.scandir(folder))
    classes = class_folders(folder)
    if labels != "none" and loose and classes:
        raise InstaAugError(
            f"data: {loose} images lie in {str(folder)!r} itself, beside folders ({inside(folder)}): move them into class "
            "folders, or away; instaaug fit --no-labels takes all of them without labels"
        )
    labelled = labels == "folders" or (labels == "auto" and not (loose and arguments.class_map is None))
    if labelled and not classes:
        instead = (
            f"; {loose} images lie in it without: move them into such folders, by label (lists of labels are not read)"
            if loose
            else not_read(folder)
        )
        raise InstaAugError(f"data: {str(folder)!r} holds no folders of images, one per class{instead}")
    class_map = read_class_map(arguments.class_map) if arguments.class_map else None
    try:
        files = ImageFiles(folder, _resized(arguments), class_map, labelled)
    except FileNotFoundError as error:
        what = f"no folders of images, one per class ({error})" if labelled else "no images"
        raise InstaAugError(f"data: {str(folder)!r} holds {what}{not_read(folder)}") from error
    n, largest = getattr(arguments, "num_classes", None), max(files.targets)
    if n is not None and largest >= n:
        raise InstaAugError(
            f"num-classes: {n} is too few for the labels in {str(folder)!r}, which go up to {largest} "
            f"({files.classes[largest]}); labels are folders in their order, numbers, or by --class-map"
        )
    return files


def find_split(arguments: argparse.Namespace, default: str, labels: str = "folders") -> str | None:
    """``--split``; else ``default`` where ``--data`` holds it, and ``--data`` itself, as None, where it holds images.

    Raises:
        InstaAugError: ``--data`` holds other splits: taken for class folders they would give labels without a meaning. Or it
            holds class folders, one of which has the name of a split.
    """
    data = arguments.data
    if arguments.split is None and _holds_images(data / default):
        beside = [name for name in class_folders(data) if name not in SPLITS and _holds_images(data / name)]
        if beside:
            raise InstaAugError(
                f"data: {str(data)!r} holds images in {default!r}, the name of a split, and in {', '.join(beside[:3])}"
                f"{', …' if beside[3:] else ''}; for the split alone give --split {default}, and if it is a class like the "
                f"others, --data {data.resolve().parent} --split {data.resolve().name}"
            )
    if arguments.split is not None or (data / default).is_dir() or not data.is_dir():
        return arguments.split or default
    places = [data, *(data / name for name in class_folders(data))]
    if labels != "none" and not any(is_image(path.name) for place in places for path in place.iterdir()):
        raise InstaAugError(
            f"data: {str(data / default)!r} is no folder, and {str(data)!r} holds neither images nor class folders of "
            f"images, but {inside(data)}; name one of them with --split{not_read(data)}"
        )
    return None


def _holds_images(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.is_file() and is_image(entry.name) for entry in entries)


def count_classes(*folders: ImageFiles) -> int | None:
    """How many labels several folders share; None without labels.

    Raises:
        InstaAugError: folders numbered in their order that are not the same everywhere.
    """
    named = [folder.classes for folder in folders if folder.classes is not None]
    if not all(folder.numbered for folder in folders) and any(classes != named[0] for classes in named):
        where = " and ".join(Path(folder.root).name for folder in folders)
        raise InstaAugError(
            f"data: {where} hold different classes, and labels would not mean the same; say what they mean with --class-map"
        )
    return max(map(len, named), default=None)


def say_left_out(files: ImageFiles) -> None:
    """On stderr, how many images of its folder are of kinds that nothing here reads."""
    if said := left_out(files.root):
        print(said, file=sys.stderr)


def chosen(arguments: argparse.Namespace, files: ImageFiles, progress: bool | None = None) -> ImageFiles:
    """``--max-images`` of them, by the seed, and with ``--skip-unreadable`` those that can be read."""
    if progress is not False:
        say_left_out(files)
    if arguments.max_images is not None and arguments.max_images < len(files):
        order = permutation(len(files), arguments.seed)
        files = files.keep(order[: arguments.max_images].sort().values.tolist())
    if not arguments.skip_unreadable:
        return files
    loader = DataLoader(ReadingErrors(files), 64, num_workers=arguments.workers, collate_fn=list)
    batches = bar(loader, desc="looking through files", unit="batch", progress=progress, leave=False)
    errors = [error for batch in batches for error in batch]
    readable = [i for i, error in enumerate(errors) if error is None]
    if not readable:
        raise InstaAugError(f"{errors[0]}; nor can any other of {len(files)} files in {files.root!r}")
    if progress is not False and len(readable) < len(files):
        skipped = [path for path, error in zip(files.paths, errors, strict=True) if error is not None]
        said = f"skipped {len(skipped)} of {len(files)} files that cannot be read: {first_of(skipped)}"
        print(said, file=sys.stderr)
    return files.keep(readable)


def read(arguments: argparse.Namespace, files: ImageFiles, progress: bool | None = None) -> Images:
    """The images that `chosen` leaves, read as they are needed."""
    images = load(chosen(arguments, files, progress), Path(files.root).name, arguments.workers)
    if files.classes is None:
        images.targets = None
    return images


def _resized(arguments: argparse.Namespace) -> v2.Transform:
    size, mode = arguments.img_size, InterpolationMode(arguments.interpolation)
    steps = [v2.Resize(int(size / arguments.crop_pct), mode, antialias=True), v2.CenterCrop(size), v2.ToImage()]
    return v2.Compose([v2.Grayscale(1), *steps] if arguments.in_chans == 1 else steps)
