"""Options that name folders of images, and the images in them."""

import argparse
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from ..engine.data import LabelledImages, load
from ..utils.errors import InstaAugError


def add_data_arguments(parser: argparse.ArgumentParser, most: int | None = None) -> None:
    """As timm's validate.py names them, where it has them."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", "--data-dir", type=Path, required=True, help="folder that holds the splits, each as <class>/<image>"
    )
    group.add_argument("--img-size", type=int, default=224, help="side of the images, pixels (%(default)s)")
    group.add_argument(
        "--crop-pct",
        type=float,
        default=1.0,
        help="share of the shorter side that is kept; the rest is cut (%(default)s)",
    )
    group.add_argument(
        "--interpolation", choices=[mode.value for mode in InterpolationMode], default="bilinear", help="(%(default)s)"
    )
    group.add_argument("--in-chans", type=int, choices=(1, 3), default=3, help="channels (%(default)s)")
    group.add_argument("--workers", "-j", type=int, default=2, help="processes that read images (%(default)s)")
    group.add_argument(
        "--max-images", type=int, default=most, help=f"use this many, chosen by the seed ({most or 'all'})"
    )


def folder_of(arguments: argparse.Namespace, split: str | None) -> ImageFolder:
    """The images of a split (of ``--data`` itself where None), not read yet, resized and cut to a square as timm does."""
    folder = arguments.data / split if split else arguments.data
    if not folder.is_dir():
        found = ", ".join(sorted(path.name for path in arguments.data.glob("*/"))) or "nothing"
        raise InstaAugError(f"data: {str(folder)!r} is no folder; {str(arguments.data)!r} holds {found}")
    size = arguments.img_size
    mode = InterpolationMode(arguments.interpolation)
    steps = [v2.Resize(int(size / arguments.crop_pct), mode, antialias=True), v2.CenterCrop(size), v2.ToImage()]
    transform = v2.Compose([v2.Grayscale(1), *steps] if arguments.in_chans == 1 else steps)
    try:
        return ImageFolder(str(folder), transform)
    except FileNotFoundError as error:
        raise InstaAugError(f"data: {str(folder)!r} holds no folders of images, one per class ({error})") from error


def count_classes(arguments: argparse.Namespace, *splits: str | None) -> int:
    """Folders of a split, which must be the same in all of them."""
    classes = [folder_of(arguments, split).classes for split in splits]
    if any(other != classes[0] for other in classes[1:]):
        raise InstaAugError(f"data: {' and '.join(splits)} hold different classes, and labels would not mean the same")
    return len(classes[0])


def read(arguments: argparse.Namespace, split: str, progress: bool | None = None) -> LabelledImages:
    """All images of a split, in memory as uint8, or ``--max-images`` of them."""
    folder = folder_of(arguments, split)
    if arguments.max_images is not None and arguments.max_images < len(folder):
        order = torch.randperm(len(folder), generator=torch.Generator().manual_seed(arguments.seed))
        folder = torch.utils.data.Subset(folder, order[: arguments.max_images].sort().values.tolist())
    return load(folder, split, workers=arguments.workers, progress=progress)
