"""Make turn_photos, light_photos and turn_light_photos: a small network that tells what was done to a photograph.

Photographs are turned and lit at random (simulated), and φ learns which candidate undoes it: no labels, and no classifier.
Run it twice: turns alone learn faster first.

    python hub/recipes/photos.py --data DIR --photos DIR --families turn --images 700000 --out turn.safetensors
    python hub/recipes/photos.py --data DIR --photos DIR --families turn light --lit 0.5 --images 300000 \
        --init turn.safetensors --out turn_light.safetensors
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets.folder import find_classes, make_dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as TF
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms import functional

SIDE, LARGE = 64, 128
HELD = 500


def read(folders: list[Path], side: int) -> Tensor:
    """Every image below folders of classes, as ``(N, 3, side, side)`` bytes."""
    files = [
        file for folder in folders for file, _ in make_dataset(str(folder), find_classes(folder)[1], (".jpeg", ".jpg"))
    ]
    images = (decode_image(file, ImageReadMode.RGB) for file in tqdm(files, f"reading {folders[0]}"))
    return torch.stack([image if image.shape[1:] == (side, side) else _squared(image, side) for image in images])


def _squared(image: Tensor, side: int) -> Tensor:
    return TF.resize(TF.center_crop(image, [min(image.shape[1:])] * 2), [side, side], antialias=True)


def small(images: Tensor) -> Tensor:
    return F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)


def cropped(images: Tensor, smallest: float) -> Tensor:
    """Random boxes of at least ``smallest`` of the area, mirrored half of the time."""
    n = len(images)
    side, ratio = torch.empty(n).uniform_(smallest, 1).sqrt(), torch.empty(n).uniform_(-0.25, 0.25).exp()
    w, h = (side * ratio).clamp(max=1), (side / ratio).clamp(max=1)
    cx, cy = w / 2 + (1 - w) * torch.rand(n), h / 2 + (1 - h) * torch.rand(n)
    params = ia.AugmentParams(cx=cx, cy=cy, w=w, h=h, flip=torch.randint(2, (n,)).float())
    return functional.apply(images, params, ia.families.create(["crop"]))


def jittered(images: Tensor) -> Tensor:
    """Gains, casts and contrast changed at random, a tenth of the pictures without colour."""
    n = len(images)
    gain = torch.empty(n, 1, 1, 1).uniform_(-0.3, 0.3).exp() * torch.empty(n, 3, 1, 1).uniform_(-0.08, 0.08).exp()
    mean, contrast = images.mean((1, 2, 3), keepdim=True), torch.empty(n, 1, 1, 1).uniform_(-0.25, 0.25).exp()
    images = ((images - mean) * contrast + mean) * gain
    grey = torch.rand(n) < 0.1
    images[grey] = images[grey].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return images.clamp(0, 1)


def disturbed(
    images: Tensor, families: list, lit: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Every family's disturbance, and the candidate of each that undoes it; of light, for a part ``lit`` of the images."""
    targets = {}
    for family in families:
        fields = family.disturb(torch.rand(len(images), family.n_disturb, generator=generator))
        target, out = family.undoing(fields), functional.apply(images, ia.AugmentParams(**fields), [family])
        if family.name == "light" and lit < 1:
            some = torch.rand(len(images), generator=generator) < lit
            target, out = torch.where(some, target, 0), torch.where(some[:, None, None, None], out, images)
        targets[family.name], images = target, out
    return images, targets


@torch.no_grad()
def accuracy(aug: ia.LearnedAugment, images: Tensor) -> dict[str, float]:
    """How often the likeliest candidate is the one that undoes it, percent."""
    right: dict[str, float] = {}
    images, targets = disturbed(images, aug.families, generator=torch.Generator().manual_seed(0))
    for start in range(0, len(images), 128):
        raw = aug.predictor(images[start : start + 128])
        for name, target in targets.items():
            right[name] = right.get(name, 0.0) + (raw[name].argmax(1) == target[start : start + 128]).sum().item()
    return {name: round(100 * value / len(images), 2) for name, value in right.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Tiny-ImageNet, which holds train/ and val/")
    parser.add_argument("--photos", type=Path, required=True, help="photographs, in fit/ and many/, as <class>/<image>")
    parser.add_argument("--families", nargs="+", default=["turn"])
    parser.add_argument("--images", type=int, default=700_000, help="to go through (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--lit", type=float, default=1.0, help="part of the pictures that are lit at random (%(default)s)"
    )
    parser.add_argument("--amp", action="store_true", help="bfloat16, for processors that have it")
    parser.add_argument("--blocks", type=int, nargs=3, default=[0, 1, 2], help="of the network (%(default)s)")
    parser.add_argument("--init", type=Path, help="start from these weights, as far as they go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    photos = read([options.photos / "fit", options.photos / "many"], LARGE)
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(1))
    held, photos = small(photos[order[:HELD]]) / 255, photos[order[HELD:]]
    tiny = read([options.data / "train"], SIDE)
    aug = ia.LearnedAugment(options.families, predictor=ia.EquivariantPredictor(SIDE, blocks=tuple(options.blocks)))
    if options.init:
        known, state = ia.LearnedAugment.from_pretrained(options.init).state_dict(), aug.state_dict()
        for name, tensor in state.items():
            if name not in known and name.endswith("second_norm.weight"):
                tensor.zero_()  # blocks that are new begin as nothing
        aug.load_state_dict(state | known)
    average, parameters = copy.deepcopy(aug).eval(), list(aug.parameters())
    groups = [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]]
    groups = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (0.02, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    steps = math.ceil(options.images / options.batch_size)
    few = options.batch_size // 8  # photographs in a batch: a hundred times as often as thumbnails
    start = time.perf_counter()
    for step in tqdm(range(steps)):
        rate = options.lr * min(1, step / 200) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        thumbnails = tiny[torch.randint(len(tiny), (options.batch_size - few,))].float() / 255
        whole = len(thumbnails) // 3
        parts = [cropped(thumbnails[whole:], 0.4), thumbnails[:whole]]
        larger = cropped(photos[torch.randint(len(photos), (few,))].float() / 255, 0.35)
        images = torch.cat([*parts, small(larger)]).clamp(0, 1)
        images = images if "light" in options.families else jittered(images)
        images, targets = disturbed(images, aug.families, options.lit)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.amp):
            features = aug.predictor.features(images)
        features = type(features)(*(part.float() for part in features))
        losses = [F.cross_entropy(aug.predictor.heads[name](features), target) for name, target in targets.items()]
        optimizer.zero_grad(set_to_none=True)
        sum(losses).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), parameters, 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 500 == 499 or step == steps - 1:
            found = accuracy(average, held)
            notes = {"images": (step + 1) * options.batch_size, "held_out_photographs": found, "seed": options.seed}
            print(
                json.dumps({**notes, "loss": sum(losses).item(), "minutes": (time.perf_counter() - start) / 60}),
                flush=True,
            )
            average.save(options.out, **notes)


if __name__ == "__main__":
    main()
