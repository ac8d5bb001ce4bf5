"""Training together on few images, from the first step: right answers on images as they are, and on varied ones.

A small network learns from 300 images for 360 steps, alone, with torchvision's rotation by up to 60° or RandomResizedCrop of an area from 0.25,
or with a learned augmentation whose bands are the defaults. Varied test images are turned by up to 60°, or cropped to a side of 0.5 to 1.
Simulated but for the digits.

    python -m tests.benchmarks.measure_few_images --seeds 0 1 2
"""

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from tabulate import tabulate
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

import instaaug_transforms as ia
from tests.benchmarks.measure_label_harm import gratings

N, STEPS, BATCH, SIDE = 300, 360, 32, 32
FIXED = {
    "rotate": v2.RandomRotation(60, v2.InterpolationMode.BILINEAR),
    "crop": v2.RandomResizedCrop(SIDE, (0.25, 1.0), antialias=True),
}


def faces(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A disc with eyes and a mouth; of six labels, each is one of three mouths with open or half-closed eyes."""
    labels = torch.arange(n) % 6
    mouth, closed = (labels // 2 - 1)[:, None, None].float(), (labels % 2)[:, None, None].float()
    line = torch.arange(SIDE) / SIDE * 2 - 1
    x, y, size = 0.3 * torch.rand(3, n, 1, 1, generator=generator) - 0.15
    u, v = (line - x) / (0.65 + 2 / 3 * size), (line[:, None] - y) / (0.65 + 2 / 3 * size)
    head = u**2 + v**2 < 1
    dark = ((v - 0.45 + 1.2 * mouth * (u**2 - 0.1)).abs() < 0.13) & (u.abs() < 0.5)
    for eye in (-0.4, 0.4):
        dark |= (u - eye) ** 2 + ((v + 0.3) * (1 + 3 * closed)) ** 2 < 0.04
    back, skin = 0.5 * torch.rand(2, n, 3, 1, 1, generator=generator)
    images = torch.where(head[:, None], skin + 0.5, back) * (1 - 0.8 * (dark & head)[:, None].float())
    return (images + 0.15 * torch.randn(images.shape, generator=generator)).clamp(0, 1), labels


def digits(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, enlarged to 24 pixels in a frame of 32."""
    pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=generator)[:n]
    images = F.interpolate(pixels.view(-1, 1, 8, 8)[order].float() / 16, size=24, mode="bilinear")
    return F.pad(images, (4, 4, 4, 4)).expand(-1, 3, -1, -1), labels[order]


def network() -> nn.Sequential:
    """Four convolutions, batch normalisation, average pooling."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 24, 1), (24, 48, 2), (48, 96, 2), (96, 96, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def trained(images: Tensor, labels: Tensor, family: str, arm: str, seed: int) -> nn.Module:
    """The network after all steps, in eval mode."""
    torch.manual_seed(seed)
    model, generator = network(), torch.Generator().manual_seed(seed)
    aug = ia.LearnedAugment([family])
    objective = ia.InstaAugObjective(aug, warm_up=arm != "learned, no warm-up") if arm.startswith("learned") else None
    groups = [{"params": model.parameters(), "lr": 2e-3}]
    groups += [{"params": objective.parameters(), "lr": 1e-3}] if objective else []
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    order = torch.cat([torch.randperm(N, generator=generator) for _ in range(STEPS * BATCH // N + 1)])
    for index in order.split(BATCH)[:STEPS]:
        views, sample = images[index], None
        if objective:
            views, sample = aug.sample(views, generator=generator)
        elif arm == "fixed":
            views = torch.stack([FIXED[family](view) for view in views])
        losses = F.cross_entropy(model(views), labels[index], reduction="none")
        optimizer.zero_grad()
        (objective(losses, sample) if objective else losses.mean()).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def varied(images: Tensor, family: str) -> Tensor:
    """Each image turned or cropped by chance, the same way always."""
    a, x, y = torch.rand(3, len(images), generator=torch.Generator().manual_seed(1))
    side = 0.5 + 0.5 * a
    centre = {"cx": 0.5 + (x - 0.5) * (1 - side), "cy": 0.5 + (y - 0.5) * (1 - side)}
    params = {"angle": 120 * a - 60} if family == "rotate" else centre | {"w": side, "h": side}
    return ia.LearnedAugment([family]).apply(images, ia.AugmentParams(**params))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per task, family and arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(%(default)s)")
    seeds = parser.parse_args(arguments).seeds
    torch.set_num_threads(1)
    cases = [(faces, "rotate"), (faces, "crop"), (digits, "rotate"), (digits, "crop"), (gratings, "rotate")]
    arms, rows = ("none", "fixed", "learned, no warm-up", "learned"), []
    for (draw, family), arm in tqdm([(case, arm) for case in cases for arm in arms], disable=None):
        found = []
        for seed in seeds:
            images, labels = draw(N + 1000, torch.Generator().manual_seed(100 + seed))
            model = trained(images[:N], labels[:N], family, arm, seed)
            with torch.no_grad():
                tests = (images[N:], varied(images[N:], family))
                found.append([100 * (model(test).argmax(1) == labels[N:]).double().mean().item() for test in tests])
        by_seed = torch.tensor(found).T
        means = [f"{each.mean():.1f} [{each.min():.1f}, {each.max():.1f}]" for each in by_seed]
        rows.append([draw.__name__, family, arm, *means])
    print(tabulate(rows, ["task", "family", "augmentation", "as they are, %", "varied, %"], tablefmt="github"))


if __name__ == "__main__":
    main()
