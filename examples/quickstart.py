"""Fit a LearnedAugment to a frozen classifier, compare it with input-free views, draw what was learned.

Without arguments: scikit-learn's handwritten digits and a small timm classifier trained on the spot. With --data, your
images (an ImageFolder) and any timm classifier:

    python examples/quickstart.py --data DIR --model resnet18 --checkpoint resnet18.safetensors --image-size 64
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.data import LabelledImages, load
from instaaug_transforms.tta import evaluate, tune
from instaaug_transforms.weights import replace_file


@dataclass
class Problem:
    """A frozen classifier, and the images to fit on, choose on and report on."""

    classifier: nn.Module
    policy: LabelledImages
    choice: LabelledImages
    tests: dict[str, LabelledImages]
    aug: ia.LearnedAugment
    config: ia.FitConfig
    shown: Tensor  # images for the picture


def digits_problem(seed: int, smoke: bool) -> Problem:
    """Crop and rotation for the digits, learned on images as they are and under nuisance."""
    import _digits

    parts = _digits.digits(seed)
    classifier = _digits.train_classifier(parts["classifier"], seed, epochs=2 if smoke else 60)

    def both(data: LabelledImages, nuisance_seed: int) -> LabelledImages:
        moved = _digits.nuisance(data, nuisance_seed)
        return LabelledImages(torch.cat([data.images, moved.images]), torch.cat([data.targets, moved.targets]))

    test = parts["test"]
    tests = {"as they are": test, "under nuisance (simulated)": _digits.nuisance(test, seed + 3)}
    torch.manual_seed(seed)
    # No crop cuts a digit in half: its strokes fill the middle two thirds of the image.
    aug = ia.LearnedAugment([Crop(scales=(1.0, 0.85, 0.7), grids=(1, 3, 3)), "rotate"], in_channels=1)
    config = ia.FitConfig(
        entropy={"crop": (0.3, 0.5), "rotate": (-0.55, -0.35)},
        initial_weight=0.4,
        weight_rate=0.001,
        epochs=2 if smoke else 100,
        batch_size=32,
        views=2,
        patience=100,
        seed=seed,
    )
    shown = torch.stack([test.images[(test.targets == digit).nonzero()[0, 0]] for digit in range(10)])
    policy, choice = both(parts["policy"], seed + 1), both(parts["choice"], seed + 2)
    return Problem(classifier, policy, choice, tests, aug, config, shown)


def folder_problem(arguments: argparse.Namespace, seed: int) -> Problem:
    """Crops for the user's images; a tenth of the images to fit on is held out for choices."""
    splits = {}
    for split in (arguments.fit_split, arguments.test_split):
        folder = arguments.data / split
        if not folder.is_dir():
            raise SystemExit(f"--data: {folder} does not exist; name the folders with --fit-split and --test-split")
        size = arguments.image_size
        transform = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()])
        splits[split] = ImageFolder(str(folder), transform)
    fit_images, test_images = splits[arguments.fit_split], splits[arguments.test_split]
    if fit_images.classes != test_images.classes:
        raise SystemExit("--data: the two splits hold different classes")
    classifier = ia.timm.create_classifier(arguments.model, arguments.checkpoint, len(fit_images.classes))
    policy, test = load(fit_images, arguments.fit_split), load(test_images, arguments.test_split)
    order = torch.randperm(len(policy), generator=torch.Generator().manual_seed(seed))
    if arguments.smoke:
        order, test = order[:200], test.subset(torch.arange(0, len(test), max(1, len(test) // 100)))
    held = len(order) // 10
    torch.manual_seed(seed)
    names = arguments.transforms.split(",")
    aug = ia.LearnedAugment(names)
    config = ia.FitConfig(
        entropy={"crop": (0.6, 0.7)} if "crop" in names else {},
        epochs=1 if arguments.smoke else 15,
        lr=1e-3,
        weight_decay=0.05,
        patience=5,
        amp=arguments.amp,
        seed=seed,
    )
    shown = test.batch(torch.arange(0, len(test), max(1, len(test) // 10))[:10])[0]
    choice, rest = policy.subset(order[:held]), policy.subset(order[held:])
    return Problem(classifier, rest, choice, {arguments.test_split: test}, aug, config, shown)


def run(arguments: argparse.Namespace, seed: int) -> dict:
    """One seed: fit, evaluate, draw."""
    start = time.perf_counter()
    problem = folder_problem(arguments, seed) if arguments.data else digits_problem(seed, arguments.smoke)
    result = ia.fit(problem.aug, problem.classifier, problem.policy, problem.choice, problem.config)
    best = result.best
    entropies = ", ".join(f"{name} {value:.2f}" for name, value in best["entropy"].items())
    print(f"fitted in {result.table_seconds + result.fit_seconds:.0f} s; mean entropy (nats): {entropies}\n")
    setting = tune(problem.classifier, problem.aug, problem.choice, amp=arguments.amp, seed=seed)
    print(f"chosen on held-out images: {setting}\n")
    report = {
        "seed": seed,
        "setting": setting,
        "history": result.history,
        "best_epoch": result.best_epoch,
        "tables": {},
    }
    for name, test in problem.tests.items():
        evaluation = evaluate(
            problem.classifier,
            problem.aug,
            test,
            problem.choice,
            arguments.views,
            **setting,
            amp=arguments.amp,
            seed=seed,
        )
        print(f"{name}, n = {len(test)}, seed {seed}\n\n{evaluation.table()}\n")
        print("\n".join(evaluation.against_input_free()) + "\n")
        report["tables"][name] = evaluation.rows()
    picture = arguments.out / f"learned-{seed}.png"
    viz.save(viz.learned_ranges(problem.aug, problem.shown), picture)
    problem.aug.save(arguments.out / f"augment-{seed}.safetensors", seed=seed)
    report["seconds"] = time.perf_counter() - start
    print(f"{picture} shows what was learned; {report['seconds']:.0f} s in all")
    return report


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with two ImageFolders in it; the digits where left out")
    parser.add_argument(
        "--fit-split", default="train", help="folder to fit on, best unseen by the classifier (%(default)s)"
    )
    parser.add_argument("--test-split", default="val", help="folder to report on (%(default)s)")
    parser.add_argument("--model", default="resnet18", help="a timm model (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="its weights, .safetensors")
    parser.add_argument("--image-size", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument(
        "--transforms", default="crop", help="families to learn on --data, comma-separated (%(default)s)"
    )
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4, 10], help="numbers of views K (2 4 10)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(0)")
    parser.add_argument("--out", type=Path, default=Path("quickstart-out"), help="folder for results (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that everything runs")
    parsed = parser.parse_args(arguments)
    if parsed.data and not parsed.checkpoint:
        parser.error("--data needs --checkpoint: a classifier with random weights has nothing to learn from")
    parsed.out.mkdir(parents=True, exist_ok=True)
    reports = [run(parsed, seed) for seed in parsed.seeds]
    replace_file(parsed.out / "results.json", json.dumps(reports, indent=1).encode())


if __name__ == "__main__":
    main()
