"""Train a timm classifier on a folder of images, to have one to fit against:

    python examples/train_classifier.py --data DIR --split fit --model convnext_atto --image-size 64 --out atto.safetensors

AdamW, one cycle, random crops and mirroring; a checkpoint after every epoch.
"""

import argparse
import json
import math
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.families import create
from instaaug_transforms.learning.checkpoint import load_state, save_state
from instaaug_transforms.learning.data import LabelledImages, load
from instaaug_transforms.weights import replace_file

CROP = create(["crop"])


def random_crops(images: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """Square crops of area ``least`` … 1, half of them mirrored."""
    side = (least + (1 - least) * torch.rand(len(images), generator=generator)).sqrt()
    cx, cy = (side / 2 + (1 - side) * torch.rand(len(images), generator=generator) for _ in range(2))
    flip = torch.randint(2, (len(images),), generator=generator).float()
    return functional.apply(images, ia.AugmentParams(cx=cx, cy=cy, w=side, h=side, flip=flip), CROP)


def read(folder: Path, size: int, limit: int | None) -> LabelledImages:
    """All images of a split, or ``limit`` of them."""
    dataset = ImageFolder(str(folder), v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()]))
    if limit:
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:limit]
        dataset = torch.utils.data.Subset(dataset, order.tolist())
    return load(dataset, folder.name, workers=2)


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: LabelledImages, amp: bool) -> float:
    """Top-1 in percent."""
    right = 0
    model.eval()
    for index in torch.arange(len(data)).split(256):
        images, targets = data.batch(index)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            right += (model(images.contiguous(memory_format=torch.channels_last)).argmax(1) == targets).sum().item()
    model.train()
    return 100 * right / len(data)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, train, write weights and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the splits")
    parser.add_argument("--split", default="fit", help="folder to train on (%(default)s)")
    parser.add_argument("--test-split", default="val", help="folder whose accuracy is printed at the end (%(default)s)")
    parser.add_argument("--model", default="convnext_atto", help="a timm model (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="(%(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="(%(default)s)")
    parser.add_argument("--min-area", type=float, default=0.35, help="of the random crops (%(default)s)")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of the labels (%(default)s)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the last epoch's checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="weights, .safetensors; figures go beside them, .json")
    parser.add_argument("--smoke", action="store_true", help="a few hundred images, to see that everything runs")
    parsed = parser.parse_args(arguments)
    data = read(parsed.data / parsed.split, parsed.image_size, 256 if parsed.smoke else None)
    test = read(parsed.data / parsed.test_split, parsed.image_size, 64 if parsed.smoke else None)
    n_classes = int(data.targets.max()) + 1
    torch.manual_seed(parsed.seed)
    size = {"img_size": parsed.image_size} if "vit" in parsed.model else {}
    model = ia.timm.wrap(timm.create_model(parsed.model, num_classes=n_classes, **size))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), parsed.lr, weight_decay=parsed.weight_decay)
    steps = math.ceil(len(data) / parsed.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, parsed.lr, total_steps=max(11, parsed.epochs * steps), pct_start=0.15, cycle_momentum=False
    )
    folder = parsed.out.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    about = {key: str(value) for key, value in vars(parsed).items() if key != "resume"}
    first, seconds = 0, 0.0
    found = load_state(folder, about) if parsed.resume else None
    if found:
        values, tensors = found
        model.load_state_dict(tensors["model"])
        optimizer.load_state_dict(tensors["optimizer"])
        schedule.load_state_dict(values["schedule"])
        first, seconds = values["epoch"], values["seconds"]
    start = time.perf_counter() - seconds
    for epoch in range(first, parsed.epochs):
        generator = torch.Generator().manual_seed(parsed.seed * 1000 + epoch)
        torch.manual_seed(parsed.seed * 1000 + epoch)  # drop path
        order = torch.randperm(len(data), generator=generator)
        total = 0.0
        bar = tqdm(order.split(parsed.batch_size), desc=f"epoch {epoch + 1}/{parsed.epochs}", unit="step", disable=None)
        for index in bar:
            images, targets = data.batch(index)
            views = random_crops(images, parsed.min_area, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=parsed.amp):
                logits = model(views)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=parsed.smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}: loss {total / len(data):.4f}, {seconds:.0f} s", flush=True)
        values = {"epoch": epoch + 1, "schedule": schedule.state_dict(), "seconds": seconds}
        save_state(folder, about, values, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    top1 = accuracy(model, test, parsed.amp)
    print(f"{parsed.test_split}: top-1 {top1:.2f} % of {len(test)} images")
    state = {name: tensor.detach().contiguous() for name, tensor in model.model.state_dict().items()}
    replace_file(parsed.out, save(state))
    figures = {
        **about,
        "top1": top1,
        "n": len(test),
        "seconds": seconds,
        "parameters": sum(map(Tensor.numel, state.values())),
    }
    replace_file(parsed.out.with_suffix(".json"), json.dumps(figures, indent=1).encode())


if __name__ == "__main__":
    main()
