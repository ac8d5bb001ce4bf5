"""A planted problem for learned crops: a digit in one corner of a cluttered canvas."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from instaaug_transforms.learning.data import LabelledImages

CANVAS, OBJECT = 64, 24  # pixels


def planted(seed: int, smoke: bool = False) -> tuple[LabelledImages, LabelledImages]:
    """Train (1,200) and test (597) images, ``(N, 3, 64, 64)`` uint8; the digit's corner is random, the clutter strokes.

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
    for i in range(n):
        top, left = (high if corner[i] >= 2 else low), (high if corner[i] % 2 else low)
        canvas[i, :, top : top + OBJECT, left : left + OBJECT] = digits[i]
    images = (canvas.expand(-1, 3, -1, -1) * 255).to(torch.uint8).contiguous()
    labels = torch.tensor(raw.target)[order]
    split = 64 if smoke else 1200
    return LabelledImages(images[:split], labels[:split]), LabelledImages(images[1200:], labels[1200:])
