"""Train under few simulated lights, test under all: does a learned colour range beat one tuned for all images?

Arms: none; HSV ranges from a grid, the same for all images; learned HSV ranges, without input and ours; ours, the local
field. Each arm's strength — the grid's range, the entropy band — is the widest whose NLL on held-out train images, under
the train lights, is within a standard error of the best (Hastie et al., Elements of Statistical Learning, 7.10). Lights are
simulated in linear RGB. Reported over all lights, over the hard half (where the plain model is worst) and over gradients; a
prediction is the mean probability over views of the arm's own augmentation.

    python examples/colour_lights.py --data DIR --classes-file classes.txt
"""

import time
from pathlib import Path

import _lights
import _training
import numpy as np
import torch
from _lights_arms import GlobalHSV, Learned, choose, predict
from tabulate import tabulate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.learning.data import LabelledImages, load
from instaaug_transforms.tta import paired_interval

# Dishes, fruit and vegetables among Tiny-ImageNet's classes, by their first name in classes.txt.
FOOD = "guacamole,ice cream,ice lolly,pretzel,mashed potato,cauliflower,bell pepper,mushroom,orange,lemon,banana,"
FOOD += "pomegranate,meat loaf,pizza,potpie,espresso"
# Half-widths of hue and of both factors, from narrow to wide.
GRID = [(0.0, 0.25), (0.0, 0.4), (0.03, 0.25), (0.03, 0.4), (0.1, 0.4), (0.3, 0.6)]
# Entropy per range, nats: about a fourteenth, a fifth and a half of what is possible.
BANDS = [(-3.0, -2.3), (-2.0, -1.3), (-1.0, -0.3)]
LEARNED = {
    "hsv, without input": ("hsv", "global", 0.1),
    "ours, hsv": ("hsv", "conv", 0.1),
    # The field has eight ranges: as much λ for each would open all of them before the classifier objects.
    "ours, local field": ("local_colour", "conv", 0.02),
}  # family, predictor, first λ


def food(options, split: str) -> LabelledImages:
    """The food classes of one split, uint8 in memory."""
    words = dict(line.split("\t", 1) for line in options.classes_file.read_text(encoding="utf-8").splitlines())
    wanted = sorted(w for w, names in words.items() if names.split(",")[0].strip().lower() in FOOD.split(","))
    size = options.image_size
    folder = ImageFolder(str(options.data / split), v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()]))
    number = {folder.class_to_idx[w]: k for k, w in enumerate(wanted) if w in folder.class_to_idx}
    chosen = [i for i, (_, label) in enumerate(folder.samples) if label in number]
    if not chosen:
        raise SystemExit(f"--data: no food classes of --classes-file in {options.data / split}")
    data = load(torch.utils.data.Subset(folder, chosen), split)
    return LabelledImages(data.images, torch.tensor([number[int(t)] for t in data.targets]))


def main(arguments: list[str] | None = None) -> None:
    """Every number of train lights, every seed, every arm."""
    parser = _training.parser(__doc__, "lights-out")
    parser.add_argument("--data", type=Path, help="folder that holds train/ and val/ (ImageFolders named by wnid)")
    parser.add_argument("--classes-file", type=Path, help="lines of wnid<TAB>names; DATA/classes.txt where left out")
    parser.add_argument("--lights", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of train lights (1 2 4 8)")
    parser.add_argument("--views", type=int, default=4, help="per image at test time (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="(%(default)s)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    few = None
    if options.smoke:
        options.lights, options.epochs, options.seeds, options.views, few = [1, 2], 2, options.seeds[:1], 2, 1
        generator = torch.Generator().manual_seed(0)
        made = [torch.randint(256, (n, 3, 32, 32), generator=generator).byte() for n in (96, 32)]
        train_data, test = (LabelledImages(images, torch.arange(len(images)) % 4) for images in made)
    else:
        if options.data is None:
            parser.error("--data: the folder that holds train/ and val/ (or --smoke)")
        options.classes_file = options.classes_file or options.data / "classes.txt"
        train_data, test = food(options, "train"), food(options, "val")
    lights, done = _lights.all_lights(), {}
    results = options.out / "results.json"
    if options.resume and results.is_file():
        done = {(run["lights"], run["seed"]): run for run in _training.read_results(options.out)}
    for count in options.lights:
        for seed in options.seeds:
            if (count, seed) not in done:
                done[count, seed], aug = experiment(
                    train_data, test, lights, count, seed, options.epochs, options.views, few
                )
                _training.write_results(options.out, list(done.values()))
                shown = test.batch(torch.arange(6))[0]
                viz.save(viz.learned_ranges(aug, shown), options.out / "learned.png")
            print(f"{count} lights, seed {seed}: {done[count, seed]['seconds']:.0f} s", flush=True)
    for against in ("global hsv", "ours, hsv"):  # the latter changes the whole image alike
        print(
            f"\nOver {against}:\n\n{tabulate(table(list(done.values()), against), headers='keys', tablefmt='github')}"
        )


def table(runs: list[dict], against: str) -> list[dict]:
    """Top-1 in percent per number of lights, and over all of them, and arm; and what is gained on one of the arms.

    Intervals are bootstraps over the test images, whose differences are averaged over lights and runs first.
    """
    groups = {
        count: [run["arms"] for run in runs if run["lights"] == count] for count in (run["lights"] for run in runs)
    }
    if len(groups) > 1:
        groups["mean"] = [run["arms"] for run in runs]
    rows = []
    for count, same in groups.items():
        for arm in same[0]:
            row = {"lights": count, "arm": arm}
            for group in same[0][arm]["correct"]:
                each = np.mean([arms[arm]["correct"][group] for arms in same], axis=0)
                base = np.mean([arms[against]["correct"][group] for arms in same], axis=0)
                mean, low, high = paired_interval(100 * (each - base))
                over = "" if arm == against else f" ({mean:+.2f} [{low:+.2f}, {high:+.2f}])"
                row[group] = f"{100 * each.mean():.2f}{over}"
            rows.append(row)
    return rows


def experiment(
    train_data, test, lights, count: int, seed: int, epochs: int, views: int, few: int | None
) -> tuple[dict, ia.LearnedAugment]:
    """All arms at one number of lights: JSON-ready rows, and the last learned transform."""
    start = time.perf_counter()
    # The neutral light first, then a random choice: which ones must not depend on the arms.
    chosen = torch.randperm(len(lights) - 1, generator=torch.Generator().manual_seed(seed))[: count - 1] + 1
    seen = [lights[0], *(lights[i] for i in chosen.tolist())]
    order = torch.randperm(len(train_data), generator=torch.Generator().manual_seed(seed))
    held = train_data.subset(order[: len(order) // 10])
    rest = train_data.subset(order[len(order) // 10 :])
    arms = {"none": [None], "global hsv": [GlobalHSV(*half) for half in GRID]}
    for name, (family, predictor, weight) in LEARNED.items():
        arms[name] = [Learned(family, predictor, weight, band) for band in BANDS]
    kept, choices, correct = {}, {}, {}
    for name, candidates in arms.items():
        run = {"lights": seen, "epochs": epochs, "seed": seed, "views": views, "label": f"{count} lights, {name}"}
        kept[name], choices[name] = choose(candidates[:few], rest, held, **run)
        correct[name] = {}
        for k in (0, views):  # the image itself, and views of it
            answers = predict(kept[name], test, lights, k, seed).argmax(-1)
            correct[name][k] = (answers == test.targets).numpy()
    hard = np.argsort(correct["none"][0].mean(1))[: len(lights) // 2]
    gradients = [i for i, light in enumerate(lights) if light.is_gradient]
    groups = {"all": list(range(len(lights))), "hard": hard.tolist(), "gradients": gradients}
    rows = {}
    for name, bits in correct.items():
        # Per image, the share of lights under which it is right.
        shares = {group: bits[views][members].mean(0) for group, members in groups.items()}
        shares["all, the image itself"] = bits[0].mean(0)
        rows[name] = choices[name] | {"top1": {group: 100 * float(share.mean()) for group, share in shares.items()}}
        rows[name]["correct"] = {group: share.round(4).tolist() for group, share in shares.items()}
        if kept[name].objective is not None:
            rows[name] |= {"entropies": kept[name].objective.entropies, "weights": kept[name].objective.weights}
    aug = kept["ours, local field"].objective.aug
    report = {"lights": count, "seed": seed, "n": len(test), "views": views, "arms": rows, "simulated": True}
    return report | {"train lights": [light.name for light in seen], "seconds": time.perf_counter() - start}, aug


if __name__ == "__main__":
    main()
