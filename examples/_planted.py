"""A planted problem for learned crops: a digit in one corner of a cluttered canvas."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import instaaug_transforms as ia
from instaaug_transforms.learning.data import LabelledImages
from instaaug_transforms.tta import paired_interval

CANVAS, OBJECT = 64, 24  # pixels


def planted(seed: int, smoke: bool = False) -> tuple[LabelledImages, LabelledImages, torch.Tensor]:
    """Train (1,200) and test (597) images, ``(N, 3, 64, 64)`` uint8, and where the test images' digits are, `objects`.

    Clutter is pieces of other digits, too small to tell which, so that nothing but the object gives the class.
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
    corner = torch.randint(4, (n,), generator=generator)
    low, high = 2, CANVAS - OBJECT - 2
    tops, lefts = torch.where(corner >= 2, high, low), torch.where(corner % 2 == 1, high, low)
    for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        canvas[i, :, top : top + OBJECT, left : left + OBJECT] = digits[i]
    images = (canvas.expand(-1, 3, -1, -1) * 255).to(torch.uint8).contiguous()
    labels = torch.tensor(raw.target)[order]
    split = 64 if smoke else 1200
    boxes = torch.stack([lefts, tops, lefts + OBJECT, tops + OBJECT], 1)[1200:] / CANVAS
    return LabelledImages(images[:split], labels[:split]), LabelledImages(images[1200:], labels[1200:]), boxes


@torch.no_grad()
def object_kept(aug: ia.LearnedAugment, data: LabelledImages, boxes: torch.Tensor) -> dict[str, list[float]]:
    """Expected share of the digit's box inside a learned crop, and by how much less with another image's crops.

    Means with 95 % intervals over images, in percent.
    """
    device = next(aug.parameters()).device
    parts = torch.arange(len(data)).split(256)
    p = torch.cat([aug.distribution(data.batch(part, device)[0]).parts["crop"].anchors.probs.cpu() for part in parts])
    (crop,) = aug.families
    cx, cy, w, h = crop.anchors[:, :4].cpu().unbind(1)
    width = (torch.minimum(cx + w / 2, boxes[:, 2:3]) - torch.maximum(cx - w / 2, boxes[:, 0:1])).clamp(min=0)
    height = (torch.minimum(cy + h / 2, boxes[:, 3:4]) - torch.maximum(cy - h / 2, boxes[:, 1:2])).clamp(min=0)
    share = 100 * width * height / (OBJECT / CANVAS) ** 2  # (N, A)
    other = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    own, shuffled = ((q * share).sum(1).numpy() for q in (p, p[other]))
    return {"object kept": list(paired_interval(own)), "more than shuffled": list(paired_interval(own - shuffled))}
