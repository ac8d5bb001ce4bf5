"""Crops, centre zooms and mirror images through a frozen ResNet-18 on Tiny-ImageNet: fitted and chosen by the report's rules.

The table of losses comes from an int8 copy of the classifier (see int8.py), on a CPU a quarter of the time; what is chosen on
held-out images and reported on val/ comes from the classifier itself. Of the 10,000 images that the classifier has not been trained
on (*policy*) 1,000 are held out and the others fitted on; with --split all, those that it knows too. Seed 0 is kept.

    python hub/recipes/crop_zooms.py --data DIR --checkpoint resnet18.safetensors --seeds 0 1 2 --workdir work
    python hub/recipes/crop_zooms.py --data DIR --checkpoint resnet18.safetensors --seeds 0 1 2 --workdir work --predictor features

DIR holds Tiny-ImageNet as train/<wnid>/ and val/<wnid>/; the checkpoint is a timm resnet18 (200 classes, 64 px) trained on the *fit* images
alone (see tinyimagenet_splits.py).
"""

import argparse
from pathlib import Path

import torch
from cards import N_VIEWS, Arm, answers, strongest
from int8 import Int8Copy, agreement
from tabulate import tabulate
from torch import Tensor
from torchvision.datasets.folder import find_classes, make_dataset
from torchvision.io import ImageReadMode, decode_image
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms.engine import load
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.tta.views import load_setting
from instaaug_transforms.utils.stats import mean_interval

HELD_OUT, KS = 1000, (*N_VIEWS, 10)


def read(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Bytes ``(N, 3, 64, 64)``, labels and names of a folder of classes."""
    files = make_dataset(str(folder), find_classes(folder)[1], (".jpeg",))
    images = [decode_image(file, ImageReadMode.RGB) for file, _ in tqdm(files, f"reading {folder}")]
    return torch.stack(images), torch.tensor([label for _, label in files]), [Path(file).stem for file, _ in files]


def unseen(name: str) -> bool:
    """Whether it is of *policy*, which the classifier has not been trained on."""
    k = int(name.split("_")[-1])
    return k % 5 == 4 and k >= 254


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--split", choices=("policy", "all"), default="policy", help="images to fit on (%(default)s)")
    parser.add_argument("--images", type=int, help="to fit on, drawn at random (all)")
    parser.add_argument("--predictor", choices=("patches", "conv", "features"), default="patches")
    parser.add_argument("--steps", type=int, default=3000, help="for each λ (%(default)s)")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.3], help="λ to choose among (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("crop_zooms.safetensors"))
    options = parser.parse_args()
    classifier = ia.timm.create_classifier("resnet18", options.checkpoint, 200).eval()
    images, labels, names = read(options.data / "train")
    policy = torch.tensor([i for i, name in enumerate(names) if unseen(name)])
    held = policy[torch.randperm(len(policy), generator=torch.Generator().manual_seed(0))][:HELD_OUT]
    of_split = policy if options.split == "policy" else torch.arange(len(images))
    rest = of_split[~torch.isin(of_split, held)]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))][: options.images]
    train, chosen_on = (images[rest], labels[rest]), (images[held], labels[held])
    val = load(read(options.data / "val")[:2], "val")
    del images

    crops = Crop(zooms=(0.95, 0.9, 0.85, 0.75), flips="centre")
    fast = Int8Copy(classifier, train[0][:256].float() / 255)
    print(agreement(classifier, fast, chosen_on[0].float() / 255, chosen_on[1]), flush=True)
    table = ia.build_loss_table(
        fast, train, ia.LearnedAugment([crops]), batch_size=250, folder=options.workdir, progress=True
    )
    arms: list[Arm] = []  # of every seed
    for seed in options.seeds:
        torch.manual_seed(seed)
        looks = ia.FeaturesPredictor(classifier, 64) if options.predictor == "features" else options.predictor
        aug = ia.LearnedAugment([crops], predictor=looks)
        config = ia.FitConfig(
            entropy_weights=tuple(options.weights), max_steps=options.steps, epochs=1000, seed=seed, progress=False
        )
        workdir = options.workdir / options.predictor
        result = ia.fit(aug, classifier, train, chosen_on, config, table=table, workdir=workdir)
        best = {f"entropy/{name}": round(h, 3) for name, h in result.best["val_entropy"].items()}
        print(f"\nseed {seed}: fit {result.fit_seconds:.0f} s, {best}\n\n{result.report}\n", flush=True)
        if seed == options.seeds[0]:
            aug.save(options.out, images=len(rest), seed=seed)
        aug.eval()
        for arm in result.report.arms:
            if arm.setting is None:
                continue
            model = ia.TTAModel(classifier, aug, **load_setting(arm.setting))
            if seed == options.seeds[0] or not arm.name.startswith(("one", "best", "mean")):
                arms.append((f"{arm.name}, K = {arm.n_views}", model, False))
            if arm.name == "ours":  # the views of another image: as strong, without looking
                arms.append((f"best input-free (ours, shuffled), K = {arm.n_views}", model, True))
            if arm is result.report.recommended:
                arms.append(("recommended", model, False))
    right = {f"as they are: {name}": runs for name, runs in answers(classifier, arms, val, None, amp=False).items()}
    lines = []
    for name, runs in sorted(right.items(), key=lambda item: (item[0].split("= ")[-1].zfill(2), item[0])):
        mean, line = torch.stack(runs).mean(0), [name.split(": ", 1)[1], f"{100 * torch.stack(runs).mean():.2f}"]
        k = int(name.split("= ")[-1]) if "=" in name else max(KS)
        rivals = {n: r for n, r in right.items() if "best input-free" in n and int(n.split("= ")[-1]) <= k}
        for rival in ("as they are: one view, K = 1", strongest(rivals, "as they are")):
            gain = [100 * value for value in mean_interval((mean - torch.stack(right[rival]).mean(0)).numpy())]
            line.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain))
        lines.append(line)
    print(
        f"resnet18 at 64 px, {len(rest)} images to fit, φ: {options.predictor}, n = {len(val)}, seeds {options.seeds}\n"
    )
    print(tabulate(lines, ["views", "top-1 %", "over one view", "over best input-free of at most as many"], "github"))


if __name__ == "__main__":
    main()
