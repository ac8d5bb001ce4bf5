"""Where does invariance come from? Four crops, two architectures, three conditions, on classes of Tiny-ImageNet.

1. Train ResNet-18 without augmentation, with translation only, scale only and full RandomResizedCrop: the share of the
   gain that each part recovers.
2. Invariance of untrained, trained and trained-with-augmentation ResNet-18 and ViT-tiny (patch 8), relative and raw; is the
   difference between the two smaller than that between the conditions?
3. Learned ranges of a transform fitted to a given classifier (--classifier) against the ranges that classifier bears.

    python examples/measure_tinyimagenet.py --data DIR --classifier resnet18.safetensors --amp

DIR holds train/ and val/, folders of one folder per class. --resume goes on where an earlier run stopped.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _tinyimagenet import SIDE, correct, create, read, resized, train
from instaaug_transforms.learning.data import LabelledImages, load
from instaaug_transforms.weights import replace_file
from safetensors.torch import save_model
from scipy.stats import bootstrap
from tabulate import tabulate
from torch import nn
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

import instaaug_transforms as ia
from instaaug_transforms import measure, viz
from instaaug_transforms.utils.stats import Interval, mean_interval

ARMS = {"resnet18": ("none", "translation", "scale", "full"), "vit": ("none", "full")}
CONDITIONS = {"untrained": None, "trained": "none", "augmented": "full"}
FINISHED: set[Path] = set()  # files of stages that this run has been through
MEASURES = ("relative_cosine", "d_cosine", "relative_l2", "d_l2", "agreement")


def stage(arguments: argparse.Namespace, name: str, make: Callable[[], dict]) -> dict:
    """What ``make`` gives, kept in a file; read from there the second time, and with --resume the first time too."""
    path = arguments.out / "stages" / f"{name}.json"
    if path.exists() and (arguments.resume or path in FINISHED):
        return json.loads(path.read_text(encoding="utf-8"))
    start = time.perf_counter()
    found = {**make(), "seconds": time.perf_counter() - start}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(found).encode())
    FINISHED.add(path)
    return found


def trained(arguments: argparse.Namespace, data: tuple, arch: str, arm: str, seed: int) -> tuple[nn.Module, list[int]]:
    """The model of one arm and its correctness on the test images; trained, or read back."""
    model = create(arch, arguments.classes, seed, arguments.smoke)
    weights = arguments.out / "stages" / f"{arch}-{arm}-{seed}.safetensors"

    def make() -> dict:
        train(model, data[0], arm, seed, arguments.epochs, arguments.amp, f"{arch}, {arm}, seed {seed}")
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_model(model.model, str(weights))
        return {"correct": correct(model, data[1])}

    found = stage(arguments, weights.stem, make)
    ia.timm.load_checkpoint(model.model, weights)
    return model, found["correct"]


def measured(arguments: argparse.Namespace, model: nn.Module, test: LabelledImages, name: str, seed: int) -> dict:
    """Per-image means over magnitudes, (T, N) for each measure, on the same images for every model."""

    def make() -> dict:
        report = ia.measure_invariance(
            model,
            (test.images, test.targets),
            arguments.measure_images,
            transformations=["rotate", "hue"] if arguments.smoke else None,
            fills=(0.0,),
            amp=arguments.amp,
            seed=0,
        )
        per_image = {m: [s.per_image(m).tolist() for s in report.sweeps] for m in (*MEASURES, "b_cosine", "b_l2")}
        return {"names": [s.transformation.name for s in report.sweeps], "values": per_image}

    return stage(arguments, f"invariance-{name}-{seed}", make)


def invariance_rows(tables: dict[tuple[str, str], dict]) -> list[dict]:
    """A row per architecture, condition and transformation ("all" is their mean), intervals over images."""
    rows = []
    for (arch, condition), table in tables.items():
        for k, name in enumerate([*table["names"], "all"]):
            row = {"arch": arch, "condition": condition, "transformation": name}
            for m, values in table["values"].items():
                per_image = np.array(values)
                found = mean_interval(per_image.mean(0) if name == "all" else per_image[k])
                row |= {m: found.estimate, f"{m}_low": found.low, f"{m}_high": found.high}
            rows.append(row)
    return rows


def gaps(tables: dict[tuple[str, str], dict], measure_name: str) -> list[dict]:
    """Mean over transformations of |difference of means|: between architectures, between conditions, and which is larger."""
    values = {key: np.array(table["values"][measure_name]) for key, table in tables.items()}  # (T, N)
    archs, conditions = list(ARMS), list(CONDITIONS)
    pairs = {f"architecture, {c}": ((archs[0], c), (archs[1], c)) for c in conditions}
    for first, second in (("untrained", "trained"), ("trained", "augmented")):
        pairs |= {f"{first} → {second}, {arch}": ((arch, first), (arch, second)) for arch in archs}
    differences = {name: values[a] - values[b] for name, (a, b) in pairs.items()}
    between = [name for name in pairs if name.startswith("architecture")]
    others = [name for name in pairs if name not in between]

    def gap(index: np.ndarray, names: list[str]) -> float:
        return float(np.mean([np.abs(differences[name][:, index].mean(1)).mean() for name in names]))

    trained_only = [name for name in between if "untrained" not in name]
    statistics = {name: ([name], []) for name in pairs}
    statistics["architecture (trained models) − conditions"] = (trained_only, others)
    rows, n = [], next(iter(values.values())).shape[1]
    for name, (plus, minus) in statistics.items():

        def statistic(index: np.ndarray, plus: list[str] = plus, minus: list[str] = minus) -> float:
            return gap(index, plus) - (gap(index, minus) if minus else 0.0)

        drawn = bootstrap(
            (np.arange(n),),
            statistic,
            vectorized=False,
            n_resamples=1000,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        row = {"measure": measure_name, "gap": name, "estimate": statistic(np.arange(n))}
        rows.append(row | {"low": float(drawn.low), "high": float(drawn.high)})
    return rows


def learned(arguments: argparse.Namespace) -> dict:
    """The shared classifier: crops as shipped, rotation and colour fitted here, each against what it bears on val/."""
    folders = {split: ImageFolder(str(arguments.data / split), resized()) for split in ("train", "val")}
    classifier = ia.timm.create_classifier(
        arguments.classifier_model, arguments.classifier, len(folders["train"].classes)
    )
    # Images that the classifier was not trained on: see tinyimagenet_splits.py.
    numbers = [int(Path(path).stem.split("_")[-1]) for path, _ in folders["train"].samples]
    unseen = [i for i, k in enumerate(numbers) if k % 5 == 4 and k >= 254]
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))[: arguments.fit_images]
    policy = load(Subset(folders["train"], [unseen[i] for i in order.tolist()]), "images to fit on")
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["rotate", "hsv"])
    bands = {"rotate": (-2.5, -1.2), "hsv": (-6.0, -3.0)}
    config = ia.FitConfig(entropy=bands, epochs=arguments.fit_epochs, batch_size=64, amp=arguments.amp, seed=0)
    ia.fit(aug, classifier, policy, config=config)
    aug.save(arguments.out / "rotate-hsv.safetensors", seed=0)
    val = measure.images.prepare(folders["val"], arguments.measure_images, seed=0)
    common = {"steps": 5 if arguments.smoke else 41, "amp": arguments.amp}
    ranges = measure.learned_against_measured(classifier, aug, val, **common)
    ranges.plot(arguments.out / "learned-against-measured.png")
    crops = ia.LearnedAugment.from_pretrained("crop_tinyimagenet")
    rows = ranges.rows() + measure.learned_against_measured(classifier, crops, val, **common).rows()
    return {"rows": rows, "n": len(val), "fitted_on": len(policy)}


def picture(results: dict, path: Path) -> None:
    """Accuracy by arm; mean invariance by condition; invariance by transformation."""
    figure = viz.new_figure(12, 4.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 0.9, 1.6])
    colours = {"resnet18": viz.ACCENT, "vit": "#2a6fb0"}
    arms, conditions = list(ARMS["resnet18"]), list(CONDITIONS)
    for k, (arch, colour) in enumerate(colours.items()):
        aside = 0.08 * (2 * k - 1)
        rows = [row for row in results["accuracy"] if row["arch"] == arch]
        x = np.array([arms.index(row["arm"]) for row in rows]) + aside
        y, low, high = (np.array([row[key] for row in rows]) for key in ("top1", "low", "high"))
        left.errorbar(x, y, [y - low, high - y], fmt="o", color=colour, markersize=5)
        rows = [row for row in results["invariance"] if row["arch"] == arch and row["transformation"] == "all"]
        y, low, high = (np.array([row[f"relative_cosine{end}"] for row in rows]) for end in ("", "_low", "_high"))
        middle.errorbar(np.arange(len(rows)) + aside, y, [y - low, high - y], fmt="o", color=colour, markersize=5)
        for marker, condition in zip("xso", conditions, strict=True):
            rows = [r for r in results["invariance"] if (r["arch"], r["condition"]) == (arch, condition)][:-1]
            values, places = [row["relative_cosine"] for row in rows], np.arange(len(rows)) + aside
            style = {"color": colour, "markerfacecolor": "none" if marker == "s" else colour, "markersize": 5}
            right.plot(values, places, marker, label=f"{arch}, {condition}", **style)
    left.set_xticks(range(len(arms)), arms, fontsize=8)
    left.set_title("top-1 %, 95 % over images", fontsize=9)
    middle.set_xticks(range(len(conditions)), conditions, fontsize=8)
    middle.set_title("relative invariance (cosine), all", fontsize=9)
    right.set_yticks(range(len(rows)), [row["transformation"].replace("_", " ") for row in rows], fontsize=8)
    right.set_title("relative invariance (cosine), each", fontsize=9)
    right.grid(axis="y", color="#eeeeee")
    right.invert_yaxis()
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    viz.save(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run every stage, print the tables, write results.json and results.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument(
        "--classifier", type=Path, help="weights of a classifier of all classes; skips part 3 if left out"
    )
    parser.add_argument("--classifier-model", default="resnet18", help="its timm name (%(default)s)")
    parser.add_argument("--classes", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--train-per-class", type=int, default=60, help="images (%(default)s)")
    parser.add_argument("--test-per-class", type=int, default=75, help="images besides val/ (%(default)s)")
    parser.add_argument("--epochs", type=int, default=25, help="(%(default)s)")
    parser.add_argument("--measure-images", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--fit-images", type=int, default=1000, help="to fit rotation and colour on (%(default)s)")
    parser.add_argument("--fit-epochs", type=int, default=6, help="(%(default)s)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of trainings; shares average over them (0)")
    parser.add_argument("--out", type=Path, default=Path("measure-out"), help="folder for results (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run finished, settings unchanged")
    parser.add_argument("--smoke", action="store_true", help="tiny models, a few images: to see that everything runs")
    parsed = parser.parse_args(arguments)
    if parsed.smoke:
        small = {"classes": 3, "train_per_class": 8, "test_per_class": 2, "epochs": 1, "measure_images": 8}
        vars(parsed).update(small | {"fit_images": 8, "fit_epochs": 1})
    for split in ("train", "val"):
        if not (parsed.data / split).is_dir():
            parser.error(f"--data: {parsed.data / split} does not exist")
    parsed.out.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) for key, value in vars(parsed).items() if key not in ("resume", "out", "data")}
    kept = parsed.out / "settings.json"
    if parsed.resume and kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        parser.error("--resume: the earlier run had other settings; give the same ones or another --out")
    replace_file(kept, json.dumps(settings).encode())
    results = run(parsed)
    results["settings"] = settings
    replace_file(parsed.out / "results.json", json.dumps(results, indent=1).encode())
    picture(results, parsed.out / "results.png")
    print(f"\n{parsed.out / 'results.json'} and results.png; {results['seconds']:.0f} s in all")


def run(arguments: argparse.Namespace) -> dict:
    """Every stage; prints the tables as they come."""
    start = time.perf_counter()
    data = read(arguments)
    results: dict = {"n_train": len(data[0]), "n_test": len(data[1]), "accuracy": [], "gain": []}
    scores: dict[tuple[str, str], np.ndarray] = {}
    tables: dict[tuple[str, str], dict] = {}
    for arch, arms in ARMS.items():
        for arm in arms:
            per_seed = [trained(arguments, data, arch, arm, seed)[1] for seed in arguments.seeds]
            scores[arch, arm] = np.array(per_seed, float)
            found = mean_interval(scores[arch, arm].mean(0))
            row = {"arch": arch, "arm": arm, "seeds": len(per_seed), "n": len(data[1])}
            results["accuracy"].append(row | {"top1": 100 * found[0], "low": 100 * found[1], "high": 100 * found[2]})
    lines = [
        [row["arch"], row["arm"], Interval(row["top1"], row["low"], row["high"]).text(".1f")]
        for row in results["accuracy"]
    ]
    print(f"\n{tabulate(lines, ['model', 'augmentation', 'top-1 % [95 %]'], tablefmt='github')}\n")
    for part in ("translation", "scale"):
        found = measure.gain_recovered(*(scores["resnet18", arm] for arm in ("none", part, "full")))
        results["gain"].append({"part": part, **{key: list(value) for key, value in vars(found).items()}})
        print(f"resnet18, {part} only: {found.summary()}")
    results["crop_statistics"] = measure.crop_statistics(SIDE).rows()
    for arch in ARMS:
        for condition, arm in CONDITIONS.items():
            seed = arguments.seeds[0]
            model = create(arch, arguments.classes, seed, arguments.smoke).eval()
            if arm is not None:
                model = trained(arguments, data, arch, arm, seed)[0]
            tables[arch, condition] = measured(arguments, model, data[1], f"{arch}-{condition}", seed)
    results["invariance"] = invariance_rows(tables)
    results["gaps"] = [row for name in MEASURES for row in gaps(tables, name)]
    shown = [row for row in results["invariance"] if row["transformation"] == "all"]
    lines = [
        [row["arch"], row["condition"]]
        + [Interval(row[m], row[f"{m}_low"], row[f"{m}_high"]).text(".3f") for m in (*MEASURES, "b_cosine")]
        for row in shown
    ]
    print(f"\n{tabulate(lines, ['model', 'condition', *MEASURES, 'b_cosine'], tablefmt='github')}\n")
    lines = [
        [row["measure"], row["gap"], Interval(row["estimate"], row["low"], row["high"]).text("+.3f")]
        for row in results["gaps"]
        if row["measure"] in ("relative_cosine", "d_cosine")
    ]
    print(
        tabulate(
            lines,
            ["measure", "gap between", "mean absolute difference [95 %]"],
            tablefmt="github",
            disable_numparse=True,
        )
    )
    if arguments.classifier:
        results["learned"] = stage(arguments, "learned", lambda: learned(arguments))
        lines = [
            [row["field"], row["figure"], Interval(row["mean"], row["low"], row["high"]).text("+.3f")]
            for row in results["learned"]["rows"]
        ]
        table = tabulate(lines, ["field", "figure", "mean [95 %]"], tablefmt="github", disable_numparse=True)
        print(f"\nlearned against measured, n = {results['learned']['n']} images of val/\n\n{table}")
    results["seconds"] = time.perf_counter() - start
    return results


if __name__ == "__main__":
    main()
