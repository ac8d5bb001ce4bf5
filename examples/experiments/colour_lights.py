"""Colours under lights: train under one or a few of 23 simulated lights, test under all of them.

Each arm's strength — the grid's range, the entropy band — is the widest whose NLL on held-out train images, under the train
lights, is within a standard error of the best (Hastie et al., Elements of Statistical Learning, 7.10). Lights are simulated in
linear RGB. Reported over all lights, over the hard half (where the plain model is worst) and over gradients; a prediction is
the mean probability over views of the arm's own augmentation.

    python examples/experiments/colour_lights.py --data DIR --classes-file classes.txt  # lines of wnid<TAB>names
"""

import math
from functools import partial
from pathlib import Path

import harness
import numpy as np
import torch
from harness import LabelledImages
from joint import Arm
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.engine import hold_out
from instaaug_transforms.utils.modes import permutation

WAVELENGTHS = (610e-9, 550e-9, 465e-9)  # metres: where an sRGB display's primaries peak, about
Gains = tuple[float, float, float]  # of linear red, green and blue
Light = tuple[str, Gains, Gains]  # name, gains at the left and at the right edge
BATCH = 64
HSV = ia.LearnedAugment(["hsv"])  # applies what is drawn here; nothing of it is learned
# Dishes, fruit and vegetables among Tiny-ImageNet's classes, by their first name in classes.txt.
FOOD = "guacamole,ice cream,ice lolly,pretzel,mashed potato,cauliflower,bell pepper,mushroom,orange,lemon,banana,"
FOOD += "pomegranate,meat loaf,pizza,potpie,espresso"


# Candidates of each arm, from narrow to wide: half-widths of hue and of both factors; or a family, its predictor, the first λ, and
# the entropy band per range, nats: about a fourteenth, a fifth and a half of what is possible.
GRID = [(0.0, 0.25), (0.0, 0.4), (0.03, 0.25), (0.03, 0.4), (0.1, 0.4), (0.3, 0.6)]
BANDS = [(-3.0, -2.3), (-2.0, -1.3), (-1.0, -0.3)]
ARMS = {
    "none": [()],
    "global hsv": GRID,
    "hsv, without input": [("hsv", "global", 0.1, band) for band in BANDS],
    "ours, hsv": [("hsv", "conv", 0.1, band) for band in BANDS],
    # The field has eight ranges: as much λ for each would open all of them before the classifier objects.
    "ours, local field": [("local_colour", "conv", 0.02, band) for band in BANDS],
}


def planckian(kelvin: float) -> Gains:
    """Gains of a black body by Planck's law at three wavelengths, relative to 6500 K, the green one 1."""
    exponent = 1.438777e-2 / torch.tensor(WAVELENGTHS, dtype=torch.float64)
    gain = torch.expm1(exponent / 6500.0) / torch.expm1(exponent / kelvin)
    return tuple((gain / gain[1]).tolist())


def all_lights() -> list[Light]:
    """23 lights; the first is the neutral one."""
    even = {"neutral": (1.0, 1.0, 1.0)} | {f"{k} K": planckian(k) for k in (2700, 3200, 4000, 5000, 8000, 9500)}
    for gain in (0.25, 0.5, 2.0):
        even |= {f"intensity {gain:g}": (gain,) * 3, f"3200 K, intensity {gain:g}": gain * np.array(planckian(3200))}
    even |= {"red": (1, 0.15, 0.15), "green": (0.15, 1, 0.15), "blue": (0.15, 0.15, 1)}
    white, warm, cold = np.ones(3), np.array(planckian(2700)), np.array(planckian(9500))
    uneven = {"dark to bright": (0.2 * white, 1.5 * white), "bright to dark": (1.5 * white, 0.2 * white)}
    uneven |= {"warm to cold": (warm, cold), "cold to warm": (cold, warm)}
    uneven |= {"dark to bright, warm": (0.2 * warm, 1.5 * warm), "bright to dark, cold": (1.5 * cold, 0.2 * cold)}
    uneven["red to neutral"] = (even["red"], white)
    lights = [(name, tuple(gains), tuple(gains)) for name, gains in even.items()]
    return lights + [(f"gradient {name}", tuple(left), tuple(right)) for name, (left, right) in uneven.items()]


def shine(images: Tensor, light: Light) -> Tensor:
    """Images ``(B, 3, H, W)`` in [0, 1], sRGB, under a light; what is brighter than white is clipped, as a camera does."""
    along = (torch.arange(images.shape[-1], device=images.device) + 0.5) / images.shape[-1]
    left, right = (torch.tensor(gains, device=images.device, dtype=torch.float32)[:, None] for gains in light[1:])
    gain = left + (right - left) * along  # (3, W)
    return linear_rgb_to_rgb((rgb_to_linear_rgb(images) * gain[None, :, None, :]).clamp(0, 1)).clamp(0, 1)


def global_hsv(hue: float, factor: float, images: Tensor, generator: torch.Generator) -> Tensor:
    """Hue within ±h turns, saturation and value within 1 ± f, for every image."""
    u = 2 * torch.rand(3, len(images), generator=generator) - 1
    params = {"hue": hue * u[0], "saturation": 1 + factor * u[1], "value": 1 + factor * u[2]}
    return HSV.apply(images, ia.AugmentParams(**params))


def under_lights(images: Tensor, chosen: list[Light], generator: torch.Generator) -> Tensor:
    """Each image under one of the lights, at random."""
    which = torch.randint(len(chosen), (len(images),), generator=generator)
    out = images.clone()
    for k, light in enumerate(chosen):
        out[which == k] = shine(images[which == k], light)
    return out


def train(candidate: tuple, data: LabelledImages, under: list[Light], seed: int, options) -> Arm:
    """One classifier with its augmentation."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = ia.timm.create_classifier("test_resnet", num_classes=int(data.targets.max()) + 1)
    optimizer, objective = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05), None
    if len(candidate) == 4:
        family, predictor, weight, band = candidate
        side = min(64, data.images.shape[-1])
        aug = ia.LearnedAugment([family], predictor=ia.ConvPredictor(side) if predictor == "conv" else predictor)
        entropy = {family: tuple(len(aug.families[0].fields) * end for end in band)}
        # λ has few steps to settle in, and the first epoch is plain.
        objective = ia.InstaAugObjective(aug, ia.EntropyConfig(entropy, weight, rate=0.01), warm_up=False)
        rate = 3e-2 if predictor == "global" else 1e-3  # free numbers move slower than a network's outputs
        optimizer.add_param_group({"params": list(objective.parameters()), "lr": rate, "weight_decay": 0.0})
    arm = Arm(model, generator, partial(global_hsv, *candidate) if len(candidate) == 2 else None, objective)
    steps = len(data) // BATCH
    orders = [torch.randperm(len(data), generator=generator).split(BATCH)[:steps] for _ in range(options.epochs)]

    def loss(index: Tensor, epoch: int) -> Tensor:
        images, labels = data.batch(index)
        return arm.loss(under_lights(images, under, generator), labels, plain=epoch == 0)

    schedule = harness.warmup_cosine(optimizer, steps * options.epochs, steps * options.epochs // 10)
    harness.train(loss, orders.__getitem__, options.epochs, arm.modules, [schedule])
    model.eval()
    return arm


def predict(arm: Arm, data: LabelledImages, under: list[Light], views: int, seed: int) -> Tensor:
    """Log-probabilities ``(lights, N, classes)``, of the mean over views; of the image itself for ``views=0``."""
    generator, parts = torch.Generator().manual_seed(seed), torch.arange(len(data)).split(256)
    rows = [[arm.predict(shine(data.batch(part)[0], light), views, generator) for part in parts] for light in under]
    return torch.stack([torch.cat(row) for row in rows]).log_softmax(-1)


def widest_within_one_error(scores: list[np.ndarray]) -> int:
    """Of candidates from narrow to wide, by their losses ``(N,)``."""
    best = min(scores, key=np.mean)
    allowed = best.mean() + best.std(ddof=1) / math.sqrt(len(best))
    return max(k for k, score in enumerate(scores) if score.mean() <= allowed)


def choose(candidates: list, data: LabelledImages, under: list[Light], seed: int, options) -> tuple[Arm, dict]:
    """Train each of the candidates; the one to keep by a held-out tenth of ``data``, and the reasons."""
    rest, held = hold_out(data, seed, 0.1)
    trained = [train(candidate, rest, under, seed, options) for candidate in candidates]
    own = torch.arange(len(held)), held.targets
    # NLL of each held-out image, mean over lights.
    scores = [-predict(arm, held, under, options.views, seed)[:, *own].mean(0).numpy() for arm in trained]
    best = widest_within_one_error(scores)
    return trained[best], {"chosen": candidates[best], "held-out NLL": [float(score.mean()) for score in scores]}


def experiment(data: LabelledImages, test: LabelledImages, count: int, seed: int, options) -> dict:
    """All arms at one number of lights; draws what the local field learned."""
    every = all_lights()
    # The neutral light first, then a random choice that does not depend on the arms.
    chosen = permutation(len(every) - 1, seed)[: count - 1] + 1
    under = [every[0], *(every[i] for i in chosen.tolist())]
    kept, rows, right = {}, {}, {}
    for name, candidates in ARMS.items():
        candidates = candidates[: 1 if options.smoke else None]
        kept[name], rows[name] = choose(candidates, data, under, seed, options)
        for views in (0, options.views):  # the image itself, and views of it
            right[name, views] = (predict(kept[name], test, every, views, seed).argmax(-1) == test.targets).numpy()
    hard = np.argsort(right["none", 0].mean(1))[: len(every) // 2]
    groups = {"all": list(range(len(every))), "hard": hard.tolist()}
    groups["gradients"] = [i for i, light in enumerate(every) if light[1] != light[2]]
    for name, row in rows.items():
        shares = {group: right[name, options.views][members].mean(0) for group, members in groups.items()}  # per image
        shares["all, the image itself"] = right[name, 0].mean(0)
        row["top1"] = {group: 100 * float(share.mean()) for group, share in shares.items()}
        row["correct"] = {group: share.round(4).tolist() for group, share in shares.items()}
        if (objective := kept[name].objective) is not None:
            row |= {"entropies": objective.entropies, "weights": objective.weights}
    picture = viz.learned_ranges(kept["ours, local field"].aug, test.batch(torch.arange(6))[0])
    viz.save(picture, options.out / f"learned-{count}-{seed}.png")
    about = {"lights": count, "train lights": [light[0] for light in under], "n": len(test), "views": options.views}
    return about | {"simulated": True, "arms": rows}


def table(runs: list[dict], columns: list[str], against: str) -> list[dict]:
    """Per number of lights, and over all of them, and group of lights: a row per arm."""
    rows = []
    for count in [*dict.fromkeys(run["lights"] for run in runs), "mean"]:
        same = [(run, arm, row) for run in runs if count in ("mean", run["lights"]) for arm, row in run["arms"].items()]
        for group in runs[0]["arms"]["none"]["top1"]:
            flat = [{"arm": arm, "seed": (run["lights"], run["seed"])} for run, arm, _ in same]
            for each, (_, _, row) in zip(flat, same, strict=True):
                each |= {"top1": row["top1"][group], "correct": row["correct"][group]}
            rows += [{"lights": count, "group": group, **row} for row in harness.seed_table(flat, columns, against)]
    return rows


def food(options, split: str) -> LabelledImages:
    """The food classes of one split, uint8 in memory."""
    lines = (options.classes_file or options.data / "classes.txt").read_text(encoding="utf-8").splitlines()
    words = dict(line.split("\t", 1) for line in lines)
    wanted = sorted(w for w, names in words.items() if names.split(",")[0].strip().lower() in FOOD.split(","))
    return harness.read(options.data / split, options.image_size, classes=wanted)


def main(arguments: list[str] | None = None) -> None:
    """Every number of train lights, every seed, every arm."""
    own = {"lights": [1, 2, 4, 8], "views": 4, "image_size": 64, "epochs": 20, "classes_file": Path}
    few, folder = {"lights": [1, 2], "epochs": 2, "views": 2, "seeds": [0]}, "folder that holds train/ and val/"
    options = harness.parse(arguments, __doc__, folder, smoke=few, optional="smoke", **own)
    splits = () if options.smoke else ("train", "val")
    data, test = [food(options, split) for split in splits] or harness.noise((96, 32), 32, 4)
    one = lambda count, seed: experiment(data, test, count, seed, options)  # noqa: E731
    runs = harness.sweep(options, options.lights, one, ["top1"], "global hsv", table=table)
    print(f"\n{harness.show(table(runs, ['top1'], 'ours, hsv'))}")  # which changes the whole image alike


if __name__ == "__main__":
    main()
