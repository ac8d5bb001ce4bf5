"""Draw what was learned for photographs: crops, rotation, colour, and a sheet of samples."""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .. import viz
from ..augment import LearnedAugment
from ..utils.errors import InstaAugError
from .arguments import natural, positive_int
from .images import SUFFIXES, is_image, read_image
from .models import add_model_arguments, add_weights_arguments, load_transform
from .outputs import check_folder

OVERVIEW = 224  # side, pixels, of the copies that are drawn together
DRAWN = 10  # images at most in one drawing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, weights, and where the pictures go."""
    parser.add_argument("images", nargs="+", type=Path, help="image files and folders of them")
    add_weights_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("instaaug-show"), help="folder for the pictures (%(default)s)")
    parser.add_argument("--crops", type=positive_int, default=6, help="boxes drawn at most (%(default)s)")
    parser.add_argument("--dark", action="store_true", help="for dark pages and slides")
    parser.add_argument("--seed", type=natural, default=0, help="of the samples (%(default)s)")
    add_model_arguments(parser)  # for weights that read its features
    parser.set_defaults(device="cpu")


def run(arguments: argparse.Namespace) -> None:
    """Write ``<name>-samples.png`` per image and a picture per family that has one; for several images also ``all-….png``."""
    check_folder(arguments.out, "out")
    files = find_images(arguments.images)
    aug = load_transform(arguments)[0].cpu()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with viz.dark() if arguments.dark else nullcontext():
        draw(aug, files, arguments)


def draw(aug: LearnedAugment, files: list[Path], arguments: argparse.Namespace) -> None:
    """All pictures of all files."""
    seen = []
    for path, name in zip(files, names_of(files), strict=True):
        image = read_pixels(path, aug.in_channels)
        for kind, figure in pictures(aug, image, arguments):
            _write(figure, arguments.out / f"{name}-{kind}.png")
        seen.append(F.resize(image, [OVERVIEW, OVERVIEW]))
    if len(seen) > 1:
        for kind, figure in overview(aug, torch.stack(seen)):
            _write(figure, arguments.out / f"all-{kind}.png")


def pictures(aug: LearnedAugment, image: Tensor, arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Kind and figure of everything there is to draw about one image."""
    families = {family.name for family in aug.families}
    if "crop" in families:
        yield "crops", viz.likeliest_crops(aug, image, arguments.crops)
        yield "centres", viz.crop_centres(aug, image)
    if "rotate" in families:
        yield "rotation", viz.rotation_arcs(aug, image)
    if "hsv" in families:
        yield "colour", viz.colour_ranges(aug, image, seed=arguments.seed)
    if any(family.name != "crop" for family in aug.anchor_families):
        yield "candidates", viz.likeliest_candidates(aug, image, arguments.crops)
    yield "samples", viz.contact_sheet(aug, image, seed=arguments.seed)


def overview(aug: LearnedAugment, images: Tensor) -> Iterator[tuple[str, Any]]:
    """Kind and figure of what several images say together; the drawings show the first of them."""
    families = {family.name for family in aug.families}
    if "crop" in families:
        yield "sizes", viz.crop_sizes(aug, images)
        yield "centres", viz.crop_centres(aug, images[:DRAWN])
    if "rotate" in families:
        yield "rotation", viz.rotation_arcs(aug, images[:DRAWN])
    if "hsv" in families:
        yield "colour", viz.colour_ranges(aug, images[:DRAWN])


def _write(figure: Any, target: Path) -> None:
    viz.save(figure, target)
    print(target)


def names_of(files: list[Path]) -> list[str]:
    """A name per file for its pictures: its own, with suffix and folders where that would name two of them alike."""
    tries = [
        [path.stem for path in files],
        [path.name for path in files],
        ["-".join(path.parts[-2:]) for path in files],
    ]
    # Of some file systems A and a are one; all is what pictures of several images are called.
    counts = [Counter(["all", *(name.casefold() for name in names)]) for names in tries]
    unique = ["-".join(path.resolve().parts[1:]) for path in files]
    return [
        next(
            (names[i] for names, count in zip(tries, counts, strict=True) if count[names[i].casefold()] == 1), unique[i]
        )
        for i in range(len(files))
    ]


def find_images(paths: list[Path]) -> list[Path]:
    """The files themselves, and the images of every folder, sorted."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if is_image(file.relative_to(path)))
        elif path.is_file():
            files.append(path)
        else:
            raise InstaAugError(f"images: {str(path)!r} does not exist")
    if not files:
        raise InstaAugError(f"images: no image in {', '.join(map(str, paths))}; known suffixes: {', '.join(SUFFIXES)}")
    return files


def read_pixels(path: Path, channels: int) -> Tensor:
    """An image file as ``(C, H, W)`` float in [0, 1], upright as the camera meant it."""
    return F.pil_to_tensor(read_image(path, "images", "L" if channels == 1 else "RGB")).float() / 255
