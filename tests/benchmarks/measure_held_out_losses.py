"""Do a classifier's losses on crops of its own training images say what other images' crops are worth, or what it remembers?

    python -m tests.benchmarks.measure_held_out_losses --data DIR/train --model resnet10t --size 32 --judge FILE --checkpoints A B

Crops of images that the classifiers were trained on (the first of every class) and of others (those after --after) get a loss from
each classifier, and from a judge that has not memorised either. A row per classifier and kind of image: the loss of the whole image,
how much losses differ between crops of one image, which share of that is the image's own (the rest holds for all images), how they and
their own part agree with the judge's (mean correlation over images), and what the judge loses or gains by the crop that the classifier likes best, all with 95 % intervals over images.
"""

import argparse
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.utils.stats import mean_interval


def told(losses: Tensor, judge: Tensor) -> list[str]:
    """Cells from tables ``(N, A)``, the whole image first."""
    pair = [table - table.mean(1, keepdim=True) for table in (losses, judge)]
    agree = torch.nn.functional.cosine_similarity(*pair, dim=1)
    own = [table - table.mean(0) for table in pair]  # without what holds for all images: that smaller crops are harder
    share = own[0].square().mean(1) / pair[0].square().mean()
    agree_own = torch.nn.functional.cosine_similarity(*own, dim=1)
    gain = judge[:, 0] - judge.gather(1, losses.argmin(1, keepdim=True)).squeeze(1)
    cells = losses[:, 0], pair[0].square().mean(1).sqrt(), share, agree, agree_own, gain
    return ["{:.3f} [{:.3f}, {:.3f}]".format(*map(float, mean_interval(cell.double().numpy()))) for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of classes")
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--checkpoints", nargs="+", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--judge-model", default="resnet18")
    parser.add_argument("--judge-size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--size", type=int, default=32, help="pixels (%(default)s)")
    parser.add_argument(
        "--after", type=int, default=200, help="images of every class from here on are unknown (%(default)s)"
    )
    parser.add_argument("--per-class", type=int, default=5, help="of either kind (%(default)s)")
    options = parser.parse_args()
    kinds, tables = {"trained on": 0, "unknown": options.after}, {}
    contestants = [(options.judge_model, options.judge, options.judge_size)]
    contestants += [(options.model, path, options.size) for path in options.checkpoints]
    for model, path, size in contestants:
        resize = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()])
        folder = ImageFolder(str(options.data), resize)
        targets = torch.tensor(folder.targets)
        members = [(targets == k).nonzero().squeeze(1) for k in range(len(folder.classes))]
        classifier = ia.timm.create_classifier(model, path, num_classes=len(members)).eval()
        for kind, first in kinds.items():
            index = torch.cat([m[first : first + options.per_class] for m in members]).tolist()
            table = ia.build_loss_table(classifier, Subset(folder, index), ia.LearnedAugment(["crop"]))
            tables[path, kind] = torch.as_tensor(table).float()
    rows = []
    for path in options.checkpoints:
        for kind in kinds:
            rows.append([path.stem, kind, *told(tables[path, kind], tables[options.judge, kind])])
    heads = [
        "classifier",
        "images",
        "loss, whole image",
        "sd over crops",
        "the image's own share",
        "agreement with the judge",
        "of the own part",
        "judge gains by its favourite",
    ]
    print(f"{len(index)} images of either kind\n\n{tabulate(rows, heads, 'github', disable_numparse=True)}")


if __name__ == "__main__":
    main()
