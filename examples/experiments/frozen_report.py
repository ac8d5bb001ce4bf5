"""Learned views of a frozen classifier against views chosen without looking, on val and cross-fitted *policy* pooled:

    python hub/recipes/tinyimagenet_splits.py --data DIR
    python examples/experiments/frozen_report.py --data DIR --checkpoint resnet18.safetensors --second convnext_atto \\
        --second-checkpoint atto/convnext_atto-0.safetensors --amp --out report

val is reported with transforms fitted on *policy*, each half of *policy* with transforms fitted on the other half. Every choice is made
on a tenth held out of the images fitted on: of --entropy (pairs of low and high, fractions of log A) the band whose four views have
the lowest NLL. With --second the transforms are carried over to a second classifier, and fitted again for it.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import harness
import numpy as np
import torch
from harness import LabelledImages, paired_interval
from torch import Tensor, nn

import instaaug_transforms as ia
from instaaug_transforms.tta import ArmResult, Evaluation, evaluate, views_nll
from instaaug_transforms.tta.aggregation import AGGREGATIONS
from instaaug_transforms.utils.modes import permutation
from instaaug_transforms.utils.stats import ratio_interval

Arms = dict[str, dict]  # ``arm: K`` to its results, JSON-ready


@dataclass(frozen=True)
class Source:
    """Images to fit on, for one classifier; their loss table serves every band, seed and half."""

    name: str
    classifier: nn.Module
    data: LabelledImages
    table: Tensor
    options: object

    def part(self, name: str, index: Tensor) -> "Source":
        return replace(self, name=name, data=self.data.subset(index), table=self.table[index])

    def split(self, seed: int) -> tuple["Source", "Source"]:
        """What to fit on, and the tenth to choose on."""
        order = permutation(len(self.data), seed)
        held = max(1, len(order) // 10)
        return self.part(self.name, order[held:]), self.part(self.name, order[:held])

    def fit(self, seed: int, band: tuple[float, float], predictor: str) -> ia.LearnedAugment:
        """Crops, by the table."""
        options, (rest, held) = self.options, self.split(seed)
        torch.manual_seed(seed)
        kinds = {"conv": ia.ConvPredictor, "features": partial(ia.FeaturesPredictor, self.classifier)}
        looks = kinds[predictor](image_size=options.image_size) if predictor in kinds else predictor
        aug = ia.LearnedAugment(["crop"], predictor=looks)
        how = {"epochs": options.epochs, "amp": options.amp, "seed": seed}
        rate = options.lr * (30 if predictor == "global" else 1)  # free numbers move slower than a network's outputs
        config = ia.FitConfig(entropy={"crop": band}, lr=rate, weight_decay=0.05, patience=5, **how)
        ia.fit(aug, self.classifier, rest.data, held.data, config, table=rest.table, val_table=held.table)
        return aug.eval()

    def best_band(self) -> tuple[float, float]:
        """The entropy band whose four likeliest views have the lowest NLL on the held-out tenth, first seed."""
        options, held = self.options, self.split(self.options.seeds[0])[1].data
        bands = list(zip(options.entropy[::2], options.entropy[1::2], strict=True))

        def nll(band: tuple[float, float]) -> float:
            aug = self.fit(options.seeds[0], band, options.predictor)
            return views_nll(self.classifier, aug, held, how=options.aggregate, amp=options.amp)

        if len(bands) == 1:
            return bands[0]
        found = harness.stage(options, f"bands-{self.name}", lambda: {"nll": [nll(band) for band in bands]})["nll"]
        print(f"{self.name}: entropy bands {bands}, held-out NLL at K = 4 {found}")
        return bands[int(np.argmin(found))]

    def compare(self, aug: ia.LearnedAugment, data: LabelledImages, seed: int, only: list[str] | None = None) -> Arms:
        """Every arm, or ours and ``only`` some, at every K on ``data``; in one order of the images, whatever the seed of the fit."""
        options, held = self.options, self.split(seed)[1].data
        how = {"how": options.aggregate, "amp": options.amp, "seed": options.seeds[0], "only": only}
        how["oracle"] = self.name == "policy" and only is None
        found = evaluate(self.classifier, aug, data, held, **how).arms
        lists = {key: {"correct": arm.correct.tolist(), "nll": arm.nll.tolist()} for key, arm in found.items()}
        return {f"{name}: {k}": vars(arm) | lists[name, k] for (name, k), arm in found.items()}

    def report(self, data: LabelledImages, seed: int) -> Arms:
        """`compare` with a transform fitted here; and one that is fitted without looking at the image."""

        def make() -> Arms:
            aug, blind = (self.fit(seed, self.best_band(), kind) for kind in (self.options.predictor, "global"))
            aug.save(self.options.out / f"augment-{self.name}-{seed}.safetensors", seed=seed)
            arms = self.compare(aug, data, seed)
            for arm in self.compare(blind, data, seed, []).values():
                if arm["name"] == "ours":
                    arms[f"ours, without input: {arm['n_views']}"] = arm | {"name": "ours, without input"}
            return arms

        return harness.stage(self.options, f"report-{self.name}-{seed}", make)


def pooled(runs: list[list[Arms]]) -> Evaluation:
    """Runs (seeds × parts) to per-image means over the seeds, the parts joined."""
    results, first = {}, runs[0][0]
    shared = [key for key in first if key != "seconds" and all(key in part for part in runs[0])]
    for key in sorted(shared, key=lambda key: first[key]["n_views"]):
        same = [[part[key] for part in parts] for parts in runs]
        means = {what: np.mean([[arm[what] for arm in arms] for arms in same]) for what in ("temperature", "ece")}
        for what in ("correct", "nll"):
            means[what] = np.mean([np.concatenate([arm[what] for arm in arms]) for arms in same], 0)
        name_and_k = first[key]["name"], first[key]["n_views"]
        results[name_and_k] = ArmResult(*name_and_k, **means)
    return Evaluation(results, len(means["nll"]), 0)


def transfer(carried: list[Arms], refitted: list[Arms]) -> list[dict]:
    """Gain over the second classifier's single view, in points: modules carried over, and refitted for it."""
    rows = []
    for k in (4, 10):
        gains = []
        for runs in (carried, refitted):
            right = [(arms[f"ours: {k}"]["correct"], arms["single view: 1"]["correct"]) for arms in runs]
            gains.append(100 * np.mean([np.subtract(ours, single, dtype=float) for ours, single in right], 0))
        over = {"over single, carried": paired_interval(gains[0]), "over single, refitted": paired_interval(gains[1])}
        rows.append({"K": k, **over, "share": ratio_interval(*gains)})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Build the tables, fit, report."""
    own = {"model": "resnet18", "checkpoint": Path, "second": str, "second_checkpoint": Path, "image_size": 64}
    own |= {"predictor": "conv", "aggregate": "mean_prob", "epochs": 15, "lr": 1e-3, "amp": False}
    own |= {"entropy": [0.45, 0.55, 0.6, 0.7, 0.75, 0.85], "policy_split": "policy"}
    choices = {"predictor": ("conv", "features"), "aggregate": AGGREGATIONS}
    data = "folder that holds the splits"
    options = harness.parse(arguments, __doc__, data, smoke={"epochs": 1}, choices=choices, **own)
    few = {"size": options.image_size, "most": 60 if options.smoke else None}
    policy, val = (harness.read(options.data / split, **few) for split in (options.policy_split, "val"))
    n_classes = sum(path.is_dir() for path in (options.data / "val").iterdir())

    def source(name: str, model: str, checkpoint: Path) -> Source:
        classifier = ia.timm.create_classifier(model, checkpoint, n_classes).eval()
        where = {"folder": options.out / "tables", "amp": options.amp, "desc": f"losses-{name}"}
        table = ia.build_loss_table(classifier, policy, ia.LearnedAugment(["crop"]), **where)
        return Source(name, classifier, policy, table, options)

    first = source("policy", options.model, options.checkpoint)
    halves = permutation(len(policy), 0).chunk(2)
    parts = [(first, val)]  # fitted on, reported on
    parts += [(first.part(f"half-{i}", halves[i]), policy.subset(halves[1 - i])) for i in (0, 1)]
    runs, results = [[part.report(data, seed) for part, data in parts] for seed in options.seeds], {}
    for title, these in (("val", [run[:1] for run in runs]), ("val and cross-fitted policy pooled", runs)):
        found = pooled(these)
        print(f"## {title}: n = {found.n}, seeds {options.seeds}\n\n{found.table()}\n")
        print(*found.against_input_free(), "", sep="\n")
        results[title] = found.rows()
    if options.second:
        second, carried = source("second", options.second, options.second_checkpoint), []
        for seed in options.seeds:
            reads = {"classifier": first.classifier} if options.predictor == "features" else {}
            aug = ia.LearnedAugment.from_pretrained(options.out / f"augment-policy-{seed}.safetensors", **reads)
            make = lambda aug=aug, seed=seed: second.compare(aug, val, seed, [])  # noqa: E731
            carried.append(harness.stage(options, f"carried-{seed}", make))
        results["transfer"] = transfer(carried, [second.report(val, seed) for seed in options.seeds])
        print(f"## transfer to {options.second} without refitting\n\n{harness.show(results['transfer'])}")
    harness.write(options, **results)


if __name__ == "__main__":
    main()
