"""Draw what was learned for photographs: the likeliest crops, and a sheet of samples."""

import argparse
from pathlib import Path

import PIL.Image
import PIL.ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .. import viz
from ..augment import LearnedAugment
from ..errors import InstaAugError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, weights, and where the pictures go."""
    parser.add_argument("images", nargs="+", type=Path, help="image files and folders of them")
    parser.add_argument(
        "--weights", default="crop_tinyimagenet", help="a name that `instaaug weights` lists, or a file"
    )
    parser.add_argument("--out", type=Path, default=Path("instaaug-show"), help="folder for the pictures (%(default)s)")
    parser.add_argument("--crops", type=int, default=6, help="boxes drawn at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write ``<name>-crops.png`` (where crops were learned) and ``<name>-samples.png`` per image."""
    aug = LearnedAugment.from_pretrained(arguments.weights)
    files = find_images(arguments.images)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in files:
        image = read_image(path, aug.in_channels)
        figures = {"samples": viz.contact_sheet(aug, image, seed=arguments.seed)}
        if any(family.name == "crop" for family in aug.families):
            figures["crops"] = viz.likeliest_crops(aug, image, arguments.crops)
        for kind, figure in sorted(figures.items()):
            target = arguments.out / f"{path.stem}-{kind}.png"
            viz.save(figure, target)
            print(target)


def find_images(paths: list[Path]) -> list[Path]:
    """The files themselves, and the images of every folder, sorted."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise InstaAugError(f"images: {str(path)!r} does not exist")
    if not found:
        raise InstaAugError(
            f"images: no image in {', '.join(map(str, paths))}; known suffixes: {', '.join(sorted(SUFFIXES))}"
        )
    return found


def read_image(path: Path, channels: int) -> Tensor:
    """An image file as ``(C, H, W)`` float in [0, 1], upright as the camera meant it."""
    try:
        with PIL.Image.open(path) as file:
            image = PIL.ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
    except (PIL.UnidentifiedImageError, OSError) as error:
        raise InstaAugError(f"images: {str(path)!r} cannot be read as an image ({error})") from error
    return F.pil_to_tensor(image).float() / 255
