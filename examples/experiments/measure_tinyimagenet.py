"""Where does invariance come from? Four crops, two architectures, three conditions, on classes of Tiny-ImageNet.

ResNet-18 is trained without augmentation and with translation, scale or full RandomResizedCrop: which part recovers the gain? How
invariant are untrained, trained and augmented ResNet-18 and ViT-tiny, and do architectures or conditions differ more? With
--classifier, weights of a timm model of all classes: do ranges fitted to it end where its answers do?

    python examples/experiments/measure_tinyimagenet.py --data DIR --classifier resnet18.safetensors --amp

DIR holds train/ and val/. Tested on val/ and on --test-per-class further train images.
"""

from argparse import Namespace
from itertools import product
from pathlib import Path

import harness
import numpy as np
import torch
import torch.nn.functional as F
from harness import LabelledImages, paired_interval
from safetensors.torch import save_model
from scipy.stats import bootstrap
from torch import Tensor, nn
from torch.utils.data import Subset

import instaaug_transforms as ia
from instaaug_transforms import measure, viz
from instaaug_transforms.utils.modes import permutation

SIDE = 64
ARMS = {"resnet18": ("none", "translation", "scale", "full"), "vit": ("none", "full")}
CONDITIONS = {"untrained": None, "trained": "none", "augmented": "full"}
MEASURES = ("relative_cosine", "d_cosine", "relative_l2", "d_l2", "agreement")


def read(options: Namespace) -> tuple[LabelledImages, LabelledImages]:
    """Train and test images of classes drawn at random."""
    names = sorted(path.name for path in options.data.glob("train/*/"))
    order = permutation(len(names), 0)
    common = {"size": SIDE, "classes": [names[i] for i in sorted(order[: options.classes].tolist())]}
    n, held = options.train_per_class, options.test_per_class
    train = harness.read(options.data / "train", per_class=slice(n), **common)
    more = harness.read(options.data / "train", per_class=slice(n, n + held), **common)
    val = harness.read(options.data / "val", **common)
    return train, LabelledImages(torch.cat([more.images, val.images]), torch.cat([more.targets, val.targets]))


def create(arch: str, options: Namespace, seed: int) -> nn.Module:
    """A fresh classifier of [0, 1] images, 64 × 64."""
    full, tiny, sizes = "resnet18", "test_resnet", {}
    if arch == "vit":
        full, tiny, sizes = "vit_tiny_patch16_224", "test_vit", {"img_size": SIDE, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ia.timm.create_classifier(tiny if options.smoke else full, num_classes=options.classes, **sizes)
    return model.to(memory_format=torch.channels_last).eval()


def trained(options: Namespace, data: tuple, arch: str, arm: str, seed: int) -> tuple[nn.Module, list[int]]:
    """A model and its correctness, 0 or 1, on the test images. AdamW, one cycle, the same for every model and arm."""
    model, part = create(arch, options, seed), measure.RandomResizedCropPart(SIDE, arm)
    weights = options.out / "stages" / f"{arch}-{arm}-{seed}.safetensors"
    train, test = data

    def loss(index: Tensor, epoch: int) -> Tensor:
        images = train.images[index]
        if arm != "none":
            images = torch.stack([part(image) for image in images])
        images = (images.float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.amp):
            logits = model(images)
        return F.cross_entropy(logits.float(), train.targets[index])

    def make() -> dict:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        steps, epochs = options.epochs * -(-len(train) // 64), options.epochs
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            order = lambda epoch: torch.randperm(len(train)).split(64)  # noqa: E731
            harness.train(loss, order, epochs, [model.train()], [schedule], clip=1.0)
        save_model(model.model, str(weights))
        with torch.inference_mode():
            return {"correct": harness.right(model.eval(), test).int().tolist()}

    correct = harness.stage(options, weights.stem, make)["correct"]
    ia.timm.load_checkpoint(model.model, weights)
    return model.eval(), correct


def measured(options: Namespace, model: nn.Module, test: LabelledImages, name: str) -> dict:
    """Per-image means over magnitudes, (T, N) for each measure, on the same images for every model."""

    def make() -> dict:
        how = {"transformations": ["rotate", "hue"] if options.smoke else None, "fills": (0.0,), "amp": options.amp}
        sweeps = ia.measure_invariance(model, (test.images, test.targets), options.measure_images, seed=0, **how).sweeps
        per_image = {m: [sweep.per_image(m).tolist() for sweep in sweeps] for m in (*MEASURES, "b_cosine", "b_l2")}
        return {"names": [sweep.transformation.name for sweep in sweeps], "values": per_image}

    return harness.stage(options, f"invariance-{name}", make)


def invariance_rows(tables: dict[tuple[str, str], dict]) -> list[dict]:
    """A row per architecture, condition and transformation ("all" is their mean), intervals over images."""
    rows = []
    for (arch, condition), table in tables.items():
        for k, name in enumerate([*table["names"], "all"]):
            row = {"model": arch, "condition": condition, "transformation": name}
            for m, values in table["values"].items():
                row[m] = paired_interval(np.mean(values, 0) if name == "all" else np.array(values[k]))
            rows.append(row)
    return rows


def gaps(tables: dict[tuple[str, str], dict], name: str) -> list[dict]:
    """Mean over transformations of |difference of means|: between architectures, between conditions, and which is larger."""
    values = {key: np.array(table["values"][name]) for key, table in tables.items()}  # (T, N)
    first, second = ARMS
    pairs = {f"architecture, {c}": values[first, c] - values[second, c] for c in CONDITIONS}
    for a, b in (("untrained", "trained"), ("trained", "augmented")):
        pairs |= {f"{a} → {b}, {arch}": values[arch, a] - values[arch, b] for arch in ARMS}
    terms = {pair: {pair: 1.0} for pair in pairs}
    models = dict.fromkeys(("architecture, trained", "architecture, augmented"), 0.5)
    changes = {pair: -0.25 for pair in pairs if "→" in pair}
    rows, n = [], next(iter(pairs.values())).shape[1]
    for gap, weights in (terms | {"architecture (trained models) − conditions": models | changes}).items():

        def statistic(index: np.ndarray, weights: dict[str, float] = weights) -> float:
            return float(sum(w * np.abs(pairs[pair][:, index].mean(1)).mean() for pair, w in weights.items()))

        how = {"vectorized": False, "n_resamples": 1000, "method": "percentile", "rng": np.random.default_rng(0)}
        interval = bootstrap((np.arange(n),), statistic, **how).confidence_interval
        estimate = [statistic(np.arange(n)), *map(float, interval)]
        rows.append({"measure": name, "gap between": gap, "over zero": estimate})
    return rows


def learned(options: Namespace) -> dict:
    """The given classifier: crops as shipped, rotation and colour fitted here, each against what it bears on val/."""
    train, val = (harness.image_folder(options.data / split, SIDE) for split in ("train", "val"))
    classifier = ia.timm.create_classifier(options.classifier_model, options.classifier, len(train.classes))
    # Images that the classifier was not trained on: see hub/recipes/tinyimagenet_splits.py.
    numbers = [int(Path(path).stem.split("_")[-1]) for path, _ in train.samples]
    unseen = torch.tensor([i for i, k in enumerate(numbers) if k % 5 == 4 and k >= 254])
    chosen = unseen[permutation(len(unseen), 0)[: options.fit_images]].tolist()
    torch.manual_seed(0)
    aug, bands = ia.LearnedAugment(["rotate", "hsv"]), {"rotate": (-2.5, -1.2), "hsv": (-6.0, -3.0)}
    config = ia.FitConfig(entropy=bands, epochs=options.fit_epochs, batch_size=64, amp=options.amp, seed=0)
    ia.fit(aug, classifier, Subset(train, chosen), config=config)
    aug.save(options.out / "rotate-hsv.safetensors", seed=0)
    probe = measure.Probe(classifier, val, options.measure_images, amp=options.amp, seed=0)
    crops, steps = ia.LearnedAugment.from_pretrained("crop_tinyimagenet"), 5 if options.smoke else 41
    reports = [probe.learned(each, steps=steps) for each in (aug, crops)]
    reports[0].plot(options.out / "learned-against-measured.png")
    rows = [row for report in reports for row in report.records()]
    return {"rows": rows, "n": len(probe.images), "fitted_on": len(chosen)}


def picture(results: dict, path: Path) -> None:
    """Accuracy by arm; mean invariance by condition; invariance by transformation."""
    figure = viz.new_figure(12, 4.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 0.9, 1.6])
    for arch, colour, aside in (("resnet18", viz.ACCENT, -0.08), ("vit", "#2a6fb0", 0.08)):
        accuracy = {row["arm"]: row["top1"] for row in results["accuracy"] if row["model"] == arch}
        rows = [row for row in results["invariance"] if row["model"] == arch]
        means = {row["condition"]: row["relative_cosine"] for row in rows if row["transformation"] == "all"}
        for axes, bars, places in ((left, accuracy, ARMS["resnet18"]), (middle, means, list(CONDITIONS))):
            y, low, high = np.array(list(bars.values())).T
            x = np.array([places.index(name) for name in bars]) + aside
            axes.errorbar(x, y, [y - low, high - y], fmt="o", color=colour, markersize=5)
            axes.set_xticks(range(len(places)), places, fontsize=8)
        for marker, condition in zip("xso", CONDITIONS, strict=True):
            each = {r["transformation"]: r["relative_cosine"][0] for r in rows if r["condition"] == condition}
            del each["all"]
            style = {"color": colour, "markerfacecolor": "none" if marker == "s" else colour, "markersize": 5}
            places = np.arange(len(each)) + aside
            right.plot(list(each.values()), places, marker, label=f"{arch}, {condition}", **style)
    right.set_yticks(range(len(each)), [name.replace("_", " ") for name in each], fontsize=8)
    right.grid(axis="y", color="#eeeeee")
    right.invert_yaxis()
    titles = {left: "top-1 %, 95 % over images", middle: "relative invariance (cosine), all", right: "the same, each"}
    for axes, title in titles.items():
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    viz.save(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """Every stage; tables as they come, results.json and results.png."""
    own = {"classifier": Path, "classifier_model": "resnet18", "classes": 50, "train_per_class": 60, "epochs": 25}
    own |= {"test_per_class": 75, "measure_images": 256, "fit_images": 1000, "fit_epochs": 6, "seeds": [0]}
    few = {"classes": 3, "train_per_class": 8, "test_per_class": 2, "epochs": 1, "measure_images": 8}
    few |= {"fit_images": 8, "fit_epochs": 1}
    options = harness.parse(arguments, __doc__, "folder with train/ and val/", smoke=few, amp=False, **own)
    data, seed = read(options), options.seeds[0]
    results: dict = {"n_train": len(data[0]), "n_test": len(data[1]), "accuracy": [], "gain": []}
    scores, tables = {}, {}
    for arch, arms in ARMS.items():
        for arm in arms:
            scores[arch, arm] = np.array([trained(options, data, arch, arm, s)[1] for s in options.seeds], float)
            top1 = paired_interval(100 * scores[arch, arm].mean(0))
            results["accuracy"].append({"model": arch, "arm": arm, "top1": top1})
    print(f"\n{harness.show(results['accuracy'], 1)}\n")
    for part in ("translation", "scale"):
        found = measure.gain_recovered(*(scores["resnet18", arm] for arm in ("none", part, "full")))
        results["gain"].append({"part": part, **{key: list(value) for key, value in vars(found).items()}})
        print(f"resnet18, {part} only: {found.summary()}")
    results["crop_statistics"] = measure.crop_statistics(SIDE).rows()
    for arch, (condition, arm) in product(ARMS, CONDITIONS.items()):
        model = trained(options, data, arch, arm, seed)[0] if arm else create(arch, options, seed)
        tables[arch, condition] = measured(options, model, data[1], f"{arch}-{condition}-{seed}")
    results["invariance"] = invariance_rows(tables)
    results["gaps"] = [row for name in MEASURES for row in gaps(tables, name)]
    print(f"\n{harness.show([row for row in results['invariance'] if row['transformation'] == 'all'], 3)}\n")
    print(harness.show([row for row in results["gaps"] if row["measure"] in ("relative_cosine", "d_cosine")], 3))
    if options.classifier:
        results["learned"] = harness.stage(options, "learned", lambda: learned(options))
        print(f"\nlearned against measured, n = {results['learned']['n']} images of val/\n")
        print(harness.show(results["learned"]["rows"], 3))
    harness.write(options, **results)
    picture(results, options.out / "results.png")


if __name__ == "__main__":
    main()
