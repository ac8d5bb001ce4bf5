"""What the Tiny-ImageNet example trains: some classes in memory, fresh models, one recipe for all of them."""

import argparse

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms import measure
from instaaug_transforms.learning.data import LabelledImages, load

SIDE = 64


def resized() -> v2.Transform:
    """Any image to 64 × 64."""
    return v2.Compose([v2.Resize(SIDE, antialias=True), v2.CenterCrop(SIDE), v2.ToImage()])


def create(arch: str, n_classes: int, seed: int, smoke: bool) -> nn.Module:
    """A fresh classifier of [0, 1] images, 64 × 64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if arch == "vit":
            name = "test_vit" if smoke else "vit_tiny_patch16_224"
            model = timm.create_model(name, num_classes=n_classes, img_size=SIDE, patch_size=8)
        else:
            model = timm.create_model("test_resnet" if smoke else arch, num_classes=n_classes)
    return ia.timm.wrap(model).to(memory_format=torch.channels_last)


def read(arguments: argparse.Namespace) -> tuple[LabelledImages, LabelledImages]:
    """Train and test images of the chosen classes, labels 0 … classes − 1; test: val/ and unused images of train/."""
    folders = {split: ImageFolder(str(arguments.data / split), resized()) for split in ("train", "val")}
    names = folders["train"].classes
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    chosen = sorted(order[: arguments.classes].tolist())
    label = {target: k for k, target in enumerate(chosen)}
    by_class: dict[int, list[int]] = {target: [] for target in chosen}
    for i, target in enumerate(folders["train"].targets):
        if target in label:
            by_class[target].append(i)
    n, held = arguments.train_per_class, arguments.test_per_class
    parts = {
        "train": [(folders["train"], [i for members in by_class.values() for i in members[:n]])],
        "test": [
            (folders["train"], [i for members in by_class.values() for i in members[n : n + held]]),
            (folders["val"], [i for i, target in enumerate(folders["val"].targets) if target in label]),
        ],
    }
    loaded = {}
    for name, pieces in parts.items():
        data = [load(Subset(folder, index), name) for folder, index in pieces if index]
        targets = torch.tensor([label[int(t)] for piece in data for t in piece.targets])
        loaded[name] = LabelledImages(torch.cat([piece.images for piece in data]), targets)
    return loaded["train"], loaded["test"]


def train(model: nn.Module, data: LabelledImages, arm: str, seed: int, epochs: int, amp: bool, name: str) -> None:
    """AdamW, one cycle, batches of 64; the same for every architecture and arm."""
    part = measure.RandomResizedCropPart(SIDE, arm)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * -(-len(data) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    with torch.random.fork_rng(), tqdm(total=steps, desc=name, unit="step", disable=None) as bar:
        torch.manual_seed(seed)
        for _ in range(epochs):
            for index in torch.randperm(len(data)).split(64):
                images = data.images[index]
                if arm != "none":
                    images = torch.stack([part(image) for image in images])
                images = (images.float() / 255).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                    loss = F.cross_entropy(model(images).float(), data.targets[index])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
    model.eval()


@torch.inference_mode()
def correct(model: nn.Module, data: LabelledImages) -> list[int]:
    """0 or 1 per image."""
    model.eval()
    answers = [model(data.batch(index)[0]).argmax(1) for index in torch.arange(len(data)).split(256)]
    return (torch.cat(answers) == data.targets).int().tolist()
