"""Do no harm: what `ia.fit` recommends for images as they are, against one view and the best input-free policy, on images it never saw.

Every classifier is fitted through its own features, with labels, as `instaaug fit` does it, and `TTAModel.recommended` answers on test images.
"best input-free" is twice a rival: the policy of the fit's report that its held-out images choose (by accuracy, at any K), and the one that is
best on the test images themselves, which nobody could have chosen.

    python -m tests.benchmarks.measure_harm
    python -m tests.benchmarks.measure_harm --data DIR/train --test DIR/val --model resnet18 --checkpoint FILE --size 64
"""

import argparse
import time
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.cli.class_map import read_class_map
from instaaug_transforms.cli.image_files import ImageFiles
from instaaug_transforms.tta.views import load_setting
from instaaug_transforms.utils.stats import mean_interval

from .measure_recommendation import digits


@torch.no_grad()
def answers(model: torch.nn.Module, images: Tensor, labels: Tensor, amp: bool) -> Tensor:
    """Which images are right, ``(N,)``."""
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        parts = [model(part.float() / 255).float().argmax(1) for part in images.split(50)]
    return (torch.cat(parts) == labels).double()


def judge(
    classifier, families, train, test: tuple[Tensor, Tensor], seed: int, size: int, labels: bool, amp: bool
) -> list:
    """A row: accuracy of one view, of the best input-free arms and of what is recommended, and what the latter gains over each."""
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(families, predictor=ia.FeaturesPredictor(classifier, size))
    config = ia.FitConfig(seed=seed, amp=amp, progress=False, table_batch_size=64)
    result = ia.fit(aug, classifier, train, config=config, labels=labels)
    right, held_out = {"one view": answers(classifier, *test, amp)}, {}
    for arm in result.report.arms:
        if arm.name.startswith("best input-free") and arm.setting is not None:
            right[f"K = {arm.n_views}"] = answers(ia.TTAModel(classifier, aug, **load_setting(arm.setting)), *test, amp)
            held_out[f"K = {arm.n_views}"] = arm.correct.mean()
    chosen = result.report.recommended
    ours = right["one view"]
    if chosen is not result.report.arms[0]:
        ours = answers(ia.TTAModel.recommended(classifier, aug, result), *test, amp)
    on_test = {name: correct.mean().item() for name, correct in right.items()}
    free = max(held_out, key=held_out.get)
    known, best = max(["one view", free], key=on_test.get), max(on_test, key=on_test.get)
    text = "{:+.2f} [{:+.2f}, {:+.2f}]".format
    gains = [
        text(*(100 * value for value in mean_interval((ours - right[rival]).numpy())))
        for rival in ("one view", known, best)
    ]
    top1 = [f"{100 * correct.mean():.2f}" for correct in (right["one view"], right[free], right[best], ours)]
    return [" × ".join(families), seed, *top1, f"{chosen.name}, K = {chosen.n_views}", *gains]


def add_folders(parser: argparse.ArgumentParser) -> None:
    """A classifier, and folders of classes."""
    parser.add_argument("--data", nargs="+", type=Path, help="folders of classes to fit on; what is drawn if left out")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--checkpoint")
    parser.add_argument("--class-map", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--test-images", type=int, default=3000, help="(%(default)s)")
    parser.add_argument(
        "--sure", type=float, default=1.0, help="times the classifier's logits: how much too sure it is made"
    )


def from_folders(options: argparse.Namespace, images: int, seed: int):
    """The classifier, so many images to fit on, and test images with their labels."""
    resize = v2.Compose([v2.Resize(options.size), v2.CenterCrop(options.size), v2.ToImage()])
    classes = options.class_map and read_class_map(options.class_map)
    data = ConcatDataset([ImageFiles(folder, resize, classes) for folder in options.data])
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:images]
    held = ImageFiles(options.test, resize, classes)
    some = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))[: options.test_images]
    test = torch.stack([held[i][0].as_subclass(Tensor) for i in some.tolist()]), torch.tensor(held.targets)[some]
    own = {} if classes else {"num_classes": int(max(held.targets)) + 1}
    classifier = ia.timm.create_classifier(options.model, options.checkpoint, **own).eval()
    with torch.no_grad():
        *_, last = (layer for layer in classifier.modules() if isinstance(layer, torch.nn.Linear))
        last.weight *= options.sure
        last.bias *= options.sure
    return classifier, Subset(data, order.tolist()), test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_folders(parser)
    parser.add_argument("--images", type=int, default=1500, help="to fit on (%(default)s)")
    parser.add_argument("--families", nargs="+", default=["crop", "turn", "light"], help="a × b for a product")
    parser.add_argument("--no-labels", action="store_true")
    parser.add_argument("--amp", action="store_true", help="bfloat16, for processors that are faster by it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    rows, start = [], time.perf_counter()
    for seed in options.seeds:
        if options.data is None:
            classifier, images, labels = digits(seed)
            images, half = (images * 255).byte(), len(images) // 2
            train, test = (images[:half], labels[:half]), (images[half:], labels[half:])
        else:
            classifier, train, test = from_folders(options, options.images, seed)
        for names in options.families:
            row = judge(
                classifier, names.split(" × "), train, test, seed, options.size, not options.no_labels, options.amp
            )
            rows.append(row)
            print(*rows[-1], f"{time.perf_counter() - start:.0f} s", sep=" | ", flush=True)
    headers = [
        "families",
        "seed",
        "one view",
        "best input-free, by held-out",
        "best of all, by test",
        "recommended",
        "which is",
        "over one view",
        "over the better of one view and best input-free",
        "over the best by test",
    ]
    print(f"\n{options.model if options.data else 'digits, a small network'}: {len(test[1])} test images\n")
    print(tabulate(rows, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
