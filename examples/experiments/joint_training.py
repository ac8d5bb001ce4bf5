"""Train any timm model on an ImageFolder together with its augmentation, beside the augmentations it must beat.

    python examples/experiments/joint_training.py --data DIR --model resnet18 --image-size 64 --classes 40

DIR holds ``train/`` and ``val/``; the first --classes classes and --per-class train images of each are taken. Every arm has the same
budget, flips and views at test time; differences to the random crop come with a paired bootstrap interval over the images.
--planted needs no data: digits in one corner of a cluttered canvas, where a crop that does not look cuts the object away.
"""

from functools import partial

import harness
import joint
import torch
import torch.nn.functional as F
from harness import LabelledImages, paired_interval
from sklearn.datasets import load_digits

import instaaug_transforms as ia

CANVAS, OBJECT = 64, 24  # pixels


def planted(seed: int, smoke: bool = False) -> tuple[LabelledImages, LabelledImages, torch.Tensor]:
    """Train (1,200) and test (597) images, ``(N, 3, 64, 64)`` uint8, and the boxes of the test images' digits.

    Boxes ``(N, 4)`` are left, top, right, bottom as fractions of the canvas. Clutter is pieces of other digits, too small to tell which, so that nothing but the object gives the class.
    """
    raw = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(raw.images), generator=generator)
    digits = F.interpolate(torch.tensor(raw.images)[order, None].float() / 16, size=OBJECT, mode="bicubic").clamp(0, 1)
    n = len(digits)
    canvas = torch.zeros(n, 1, CANVAS, CANVAS)
    for _ in range(10):
        piece = digits[torch.randperm(n, generator=generator)][:, :, 8:16, 8:16]
        y, x = torch.randint(CANVAS - 8, (2, n), generator=generator)
        for i in range(n):
            canvas[i, :, y[i] : y[i] + 8, x[i] : x[i] + 8] = piece[i] * 0.7
    corner, low, high = torch.randint(4, (n,), generator=generator), 2, CANVAS - OBJECT - 2
    tops, lefts = torch.where(corner >= 2, high, low), torch.where(corner % 2 == 1, high, low)
    for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        canvas[i, :, top : top + OBJECT, left : left + OBJECT] = digits[i]
    images = (canvas.expand(-1, 3, -1, -1) * 255).to(torch.uint8).contiguous()
    labels, split = torch.tensor(raw.target)[order], 64 if smoke else 1200
    boxes = torch.stack([lefts, tops, lefts + OBJECT, tops + OBJECT], 1)[1200:] / CANVAS
    return LabelledImages(images[:split], labels[:split]), LabelledImages(images[1200:], labels[1200:]), boxes


@torch.no_grad()
def object_kept(aug: ia.LearnedAugment, data: LabelledImages, boxes: torch.Tensor) -> dict[str, list[float]]:
    """Expected share of the digit's box inside a learned crop, percent, and by how much less with another image's crops."""
    crops, parts = aug.families[0].candidates(), []  # (A,)
    for part in torch.arange(len(data)).split(256):
        distribution = aug.distribution(data.batch(part, aug.device)[0])
        parts.append(distribution.log_prob(crops.for_each(len(part)).to(aug.device)).exp().cpu())
    p, (left, top, right, bottom) = torch.cat(parts, 1), boxes.T  # (A, N), (N,) each
    cx, cy, w, h = (crops[name][:, None] for name in ("cx", "cy", "w", "h"))
    width = (torch.minimum(cx + w / 2, right) - torch.maximum(cx - w / 2, left)).clamp(min=0)
    height = (torch.minimum(cy + h / 2, bottom) - torch.maximum(cy - h / 2, top)).clamp(min=0)
    share = 100 * width * height / (OBJECT / CANVAS) ** 2
    other = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    own, shuffled = ((q * share).sum(0).numpy() for q in (p, p[:, other]))
    return {"object kept": paired_interval(own), "more than shuffled": paired_interval(own - shuffled)}


def main(arguments: list[str] | None = None) -> None:
    """Run every arm with every seed, report, draw what the learned arms learned."""
    own = joint.OPTIONS | {"batch_size": int, "planted": False, "optional": "planted", "choices": joint.CHOICES}
    own |= {"model": "resnet18", "image_size": 64, "classes": int, "per_class": int, "areas": [float], "bands": [str]}
    few = {"epochs": 2, "batch_size": 32, "views": 2, "seeds": [0], "classes": 2, "per_class": 32}
    options = harness.parse(arguments, __doc__, "folder that holds train/ and val/", smoke=few, **own)
    options.batch_size = options.batch_size or (32 if options.planted else 100)
    make, kept, choice = partial(ia.timm.create_classifier, options.model), None, None
    if options.planted:
        train, test, boxes = planted(options.seeds[0], options.smoke)
        kept = lambda name, arm: object_kept(arm.aug.eval(), test, boxes) if name in ("ours", "without input") else {}  # noqa: E731
    else:
        names = sorted(path.name for path in options.data.glob("train/*/"))[: options.classes]
        common = {"size": options.image_size, "classes": names}
        learned, last = (options.per_class or 0) - options.hold_out or None, options.per_class
        train = harness.read(options.data / "train", per_class=slice(learned), **common)
        if options.hold_out:
            choice = harness.read(options.data / "train", per_class=slice(learned, last), **common)
        test = harness.read(options.data / "val", **common)
    joint.sweep(options, make, train, test, joint.jobs_of(options.arms, options.areas, options.bands), kept, choice)


if __name__ == "__main__":
    main()
