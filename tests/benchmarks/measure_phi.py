"""What a look costs and what it gains: φ of several kinds and sizes, fitted to one loss table of crops, reported on other images.

    python -m tests.benchmarks.measure_phi --data DIR --checkpoint resnet18.safetensors --int8

DIR holds train/<class>/. A tenth of the images chooses epochs, another tenth is reported on. A gain is the mean fall of the
cross-entropy, in nats, of K averaged likeliest views against one plain view, with its paired 95 % interval; the last column is what
the first row gains over each row. All of it is read off the table.
"""

import argparse
import math
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages, load
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.tta import paired_interval

SIZES = {
    "convolutions, 64 px, width 32": lambda: ia.ConvPredictor(),
    "convolutions, 32 px, width 32": lambda: ia.ConvPredictor(32),
    "patches, 32 px, width 64": lambda: ia.PatchPredictor(width=64),
    "patches, 32 px, width 48": lambda: ia.PatchPredictor(width=48),
    "patches, 32 px, width 40": lambda: ia.PatchPredictor(),
    "patches, 32 px, width 32": lambda: ia.PatchPredictor(width=32),
    "no look": lambda: "global",
}


def read(folder: Path, size: int, most: int) -> LabelledImages:
    """Images drawn at random, the same ones always, in memory."""
    images = ImageFolder(str(folder), v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()]))
    index = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:most]
    return load(Subset(images, index.tolist()), str(folder), workers=2).in_memory()


@torch.no_grad()
def saved(aug: ia.LearnedAugment, data: LabelledImages, losses: Tensor, views: int) -> Tensor:
    """Nats that the average of the likeliest views saves over the plain one, ``(N,)``."""
    parts = [aug.distribution(data.batch(rows)[0]).parts["crop"] for rows in torch.arange(len(data)).split(256)]
    likeliest = torch.cat([part.categorical.logits for part in parts]).topk(views, 1).indices
    averaged = math.log(views) - torch.logsumexp(-losses.gather(1, likeliest), 1)
    return losses[:, 0] - averaged


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "checkpoint"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", default="resnet18", help="of timm (%(default)s)")
    for name, default in (("image_size", 64), ("images", 5000), ("views", 4), ("steps", 3000)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="(%(default)s)")
    parser.add_argument("--weight", type=float, default=0.1, help="λ (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="the first is what others are held against"
    )
    parser.add_argument("--int8", action="store_true", help="the table through an int8 copy, see hub/recipes/int8.py")
    parser.add_argument("--workdir", type=Path, help="keep the loss table there")
    options = parser.parse_args(arguments)
    classes = sum(path.is_dir() for path in (options.data / "train").iterdir())
    classifier = ia.timm.create_classifier(options.model, options.checkpoint, classes).eval()
    data = read(options.data / "train", options.image_size, options.images)
    if options.int8:
        from hub.recipes.int8 import Int8Copy

        classifier = Int8Copy(classifier, data.batch(slice(0, 256))[0])
    crops = Crop(zooms=(0.95, 0.9, 0.85, 0.75), flips="centre")
    table = ia.build_loss_table(classifier, data, ia.LearnedAugment([crops]), folder=options.workdir)
    tenth = len(data) // 10
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
    told, chosen_on, fitted_on = order.split([tenth, tenth, len(order) - 2 * tenth])
    parts, tables = [data.subset(rows) for rows in (fitted_on, chosen_on)], [table[fitted_on], table[chosen_on]]
    rows, first = [], None
    for name in options.sizes:
        gains = []
        for seed in options.seeds:
            torch.manual_seed(seed)
            aug = ia.LearnedAugment([crops], predictor=SIZES[name]())
            rate = 2e-3 * (30 if name == "no look" else 1)  # free numbers move slower than a network's outputs
            config = ia.FitConfig(
                entropy_weights=(options.weight,), epochs=1000, max_steps=options.steps, lr=rate, seed=seed
            )
            ia.fit(aug, classifier, *parts, config, table=tables[0], val_table=tables[1])
            gains.append(saved(aug.eval(), data.subset(told), table[told], options.views))
        nats = torch.stack(gains).mean(0)
        first = nats if first is None else first
        cells = ["{:+.4f} [{:+.4f}, {:+.4f}]".format(*paired_interval(each.numpy())) for each in (nats, first - nats)]
        rows.append([name, f"{aug.predictor.multiplications(options.image_size) / 1e6:.2f}", *cells])
        print(*rows[-1], sep="; ", flush=True)
    print(f"\n{options.views} views, {len(fitted_on)} images to fit, {tenth} to report on, seeds {options.seeds}\n")
    print(tabulate(rows, ["φ", "M multiplications", "nats", "first row over it, nats"], tablefmt="github"))


if __name__ == "__main__":
    main()
