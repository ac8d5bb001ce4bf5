"""scikit-learn's digits, and small models trained on them: the problem of the examples that need no data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from experiments import harness
from sklearn.datasets import load_digits
from torch import Tensor, nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.utils.modes import permutation

BACKGROUND, INK = 10, 0.35


class Frame(Crop):
    stays_inside = False  # boxes may be larger than the image: what lies outside is black


MOVE = ia.LearnedAugment([Frame(), "rotate"], in_channels=1)  # applies what is drawn here; nothing of it is learned


def digits(seed: int, path: Path | None = None) -> dict[str, LabelledImages]:
    """All digits, or those of an .npz, at 32 px, shuffled and split: classifier 700, policy 400, choice 100, test the rest."""
    raw = np.load(path) if path else load_digits()
    images = torch.tensor(raw["images"], dtype=torch.float32)[:, None] / 16  # (N, 1, 8, 8)
    images = F.interpolate(F.pad(images, (2, 2, 2, 2)), size=(32, 32), mode="bicubic").clamp(0, 1)  # room to turn
    order = permutation(len(images), seed)
    sizes = {"classifier": 700, "policy": 400, "choice": 100, "test": len(order) - 1200}
    parts = zip(sizes, order.split(list(sizes.values())), strict=True)
    return {name: LabelledImages(images[index], torch.tensor(raw["target"])[index]) for name, index in parts}


def nuisance(data: LabelledImages, seed: int) -> LabelledImages:
    """Simulated: turned by up to ±40°, shifted by up to 8 % of the frame, drawn at 0.7 to 1.1 of the size."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(data), generator=generator)

    side = 1 / uniform(0.7, 1.1)
    box = {"cx": 0.5 + side * uniform(-0.08, 0.08), "cy": 0.5 + side * uniform(-0.08, 0.08), "w": side, "h": side}
    return LabelledImages(MOVE.apply(data.images, ia.AugmentParams(**box, angle=uniform(-40, 40))), data.targets)


def train(model: nn.Module, loss: Callable, order: Callable, epochs: int, steps: int, decay: float) -> nn.Module:
    """AdamW, one cycle; the rest is `harness.train`'s."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    harness.train(loss, order, epochs, [model], [schedule])
    return model.eval()


def train_classifier(data: LabelledImages, seed: int, epochs: int = 60) -> ia.timm.Classifier:
    """timm's ``test_resnet`` (0.4 M parameters) on digits turned by up to ±60°."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ia.timm.create_classifier("test_resnet", num_classes=10, in_chans=1)
    model.to(memory_format=torch.channels_last)

    def loss(index: Tensor, epoch: int) -> Tensor:
        angle = (2 * torch.rand(len(index), generator=generator) - 1) * 60
        images = MOVE.apply(data.images[index], ia.AugmentParams(angle=angle))
        logits = model(images.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits, data.targets[index], label_smoothing=0.1)

    order = lambda epoch: torch.randperm(len(data), generator=generator).split(64)  # noqa: E731
    return train(model, loss, order, epochs, epochs * -(-len(data) // 64), 0.05)


class SmallUNet(nn.Module):
    """One image channel to 11 logits per pixel; three resolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        wide = 2 * width
        self.high, self.middle, self.low = _block(1, width), _block(width, wide), _block(wide, 2 * wide)
        self.up, self.top = _block(3 * wide, wide), _block(wide + width, width)
        self.head = nn.Conv2d(width, BACKGROUND + 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 1, H, W)`` in [0, 1] to logits ``(B, 11, H, W)``."""
        high = self.high(images)
        middle = self.middle(F.max_pool2d(high, 2))
        low = self.low(F.max_pool2d(middle, 2))
        low = low + low.amax((2, 3), keepdim=True)  # what the whole image looks like
        middle = self.up(torch.cat([F.interpolate(low, scale_factor=2.0), middle], 1))
        return self.head(self.top(torch.cat([F.interpolate(middle, scale_factor=2.0), high], 1)))


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def pixel_labels(data: LabelledImages) -> Tensor:
    """``(N, H, W)``: the digit where there is ink, else `BACKGROUND`."""
    return torch.where(data.images[:, 0] > INK, data.targets[:, None, None], BACKGROUND)


def soft_labels(labels: Tensor, aug: ia.LearnedAugment, params: ia.AugmentParams) -> Tensor:
    """Labels ``(B, H, W)`` moved as the images are, ``(B, 11, H, W)``; what comes into view is background."""
    # Bilinear, so that the gradient of a parameter knows that image and labels move together.
    moved = aug.apply(F.one_hot(labels, BACKGROUND + 1).movedim(-1, 1)[:, :BACKGROUND].float(), params)
    return torch.cat([moved, 1 - moved.sum(1, keepdim=True)], 1)


def train_segmenter(data: LabelledImages, seed: int, steps: int = 600) -> nn.Module:
    """A `SmallUNet` on digits turned by up to ±60°, labels turned alike."""
    generator, labels = torch.Generator().manual_seed(seed), pixel_labels(data)
    torch.manual_seed(seed)
    model = SmallUNet()

    def loss(step: int, epoch: int) -> Tensor:
        index = torch.randint(len(data), (64,), generator=generator)
        params = ia.AugmentParams(angle=120 * torch.rand(64, generator=generator) - 60)
        images, truth = MOVE.apply(data.images[index], params), soft_labels(labels[index], MOVE, params)
        return F.cross_entropy(model(images), truth)

    return train(model, loss, lambda epoch: range(steps), 1, steps, 0.01)


@torch.no_grad()
def ink_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """``(N,)``: intersection over union of each image's ink and the pixels that are called its digit."""
    answers = torch.cat([model(part).argmax(1) for part in images.split(100)])
    ink = labels != BACKGROUND
    hit = ((answers == labels) & ink).sum((1, 2))
    return hit / (ink | (answers != BACKGROUND)).sum((1, 2))
