"""What a look costs and what it gains: φ of several sizes, fitted to one loss table of crops, each on held-out images.

    python tests/benchmarks/measure_phi.py --data DIR --checkpoint resnet18.safetensors

DIR holds train/<class>/ and val/<class>/. A gain is the mean fall of the cross-entropy, in nats, and of the error, in
points, of K averaged views against one plain view of the same val images, with its paired 95 % interval; the last column
is what the first row's nats gain over each row.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages, load
from instaaug_transforms.tta import paired_interval

SIZES = {
    "64 px, width 32": {},
    "64 px, width 16": {"width": 16},
    "32 px, width 32": {"image_size": 32},
    "32 px, patches, width 32": {"image_size": 32, "patches": True},
    "32 px, patches, width 24": {"image_size": 32, "width": 24, "patches": True},
    "32 px, patches, width 16": {"image_size": 32, "width": 16, "patches": True},
    "no look": None,
}


def read(folder: Path, size: int, most: int) -> LabelledImages:
    """Images drawn at random, the same ones always, in memory."""
    images = ImageFolder(str(folder), v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()]))
    index = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:most]
    return load(Subset(images, index.tolist()), str(folder), workers=2).in_memory()


@torch.no_grad()
def losses_and_hits(model: torch.nn.Module, data: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and whether right, ``(N,)`` each."""
    logits = torch.cat([model(data.batch(rows)[0]) for rows in torch.arange(len(data)).split(100)])
    return F.cross_entropy(logits, data.targets, reduction="none"), (logits.argmax(1) == data.targets).float()


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "checkpoint"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", default="resnet18", help="of timm (%(default)s)")
    for name, default in (("image_size", 64), ("images", 4000), ("val_images", 2000), ("views", 4), ("epochs", 30)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="the first is what others are held against"
    )
    parser.add_argument("--workdir", type=Path, help="keep the loss tables there")
    options = parser.parse_args(arguments)
    classes = sum(path.is_dir() for path in (options.data / "train").iterdir())
    classifier = ia.timm.create_classifier(options.model, options.checkpoint, classes).eval()
    data = read(options.data / "train", options.image_size, options.images)
    val = read(options.data / "val", options.image_size, options.val_images)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
    chosen_on, fitted_on = order[: len(order) // 10], order[len(order) // 10 :]
    where = {"folder": options.workdir, "desc": "losses-of-crops"}
    table = ia.build_loss_table(classifier, data, ia.LearnedAugment(["crop"]), **where)
    parts, tables = [data.subset(rows) for rows in (fitted_on, chosen_on)], [table[fitted_on], table[chosen_on]]
    plain, rows, first = losses_and_hits(classifier, val), [], None
    for name in options.sizes:
        gains, size = [], SIZES[name]
        for seed in options.seeds:
            torch.manual_seed(seed)
            aug = ia.LearnedAugment(["crop"], predictor="global" if size is None else ia.ConvPredictor(**size))
            rate = 2e-3 * (30 if size is None else 1)  # free numbers move slower than a network's outputs
            config = ia.FitConfig(entropy={"crop": (0.5, 0.6)}, epochs=options.epochs, lr=rate, seed=seed)
            ia.fit(aug, classifier, *parts, config, table=tables[0], val_table=tables[1])
            averaged = losses_and_hits(ia.TTAModel(classifier, aug.eval(), options.views), val)
            gains.append((plain[0] - averaged[0], 100 * (averaged[1] - plain[1])))
        nats, points = (torch.stack(each).mean(0) for each in zip(*gains, strict=True))
        first = nats if not rows else first
        columns = (nats, "+.3f"), (points, "+.2f"), (first - nats, "+.3f")
        cells = ["{:{f}} [{:{f}}, {:{f}}]".format(*paired_interval(each.numpy()), f=form) for each, form in columns]
        rows.append([name, f"{aug.predictor.multiplications(options.image_size) / 1e6:.2f}", *cells])
        print(*rows[-1], sep="; ", flush=True)
    of = f"{options.views} views, {len(val)} images, seeds {options.seeds}"
    heads = ["φ", "M multiplications", "nats", "points", "first row over it, nats"]
    print(f"\n{of}\n\n{tabulate(rows, heads, tablefmt='github')}")


if __name__ == "__main__":
    main()
