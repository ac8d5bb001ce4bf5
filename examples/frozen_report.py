"""Learned views of a frozen classifier against views chosen without looking, on val and cross-fitted *policy* pooled:

    python examples/tinyimagenet_splits.py --data DIR
    python examples/frozen_report.py --data DIR --checkpoint resnet18.safetensors --second convnext_atto \\
        --second-checkpoint atto.safetensors --amp --out report

Three seeds of the fit. val is reported with transforms fitted on *policy*; each half of *policy* with transforms
fitted on the other half. Every choice and temperature is made on a tenth held out of the images fitted on.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import baselines
from instaaug_transforms.aggregation import AGGREGATIONS, aggregate
from instaaug_transforms.evaluation import paired_interval
from instaaug_transforms.evaluation.calibration import best_temperature
from instaaug_transforms.evaluation.logit_table import build_logit_table
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.data import LabelledImages, hold_out, load
from instaaug_transforms.weights import replace_file

VIEWS = (1, 2, 4, 10)
SINGLE, FREE = "single view", ("horizontal flip", "best centre zooms", "random views", "greedy policy")
Outcome = dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]  # (arm, K) to correct and NLL per image


@dataclass
class Table:
    """A split with the classifier's logits ``(N, V, K)`` of every candidate view."""

    data: LabelledImages
    logits: Tensor

    def rows(self, index: Tensor) -> "Table":
        return Table(self.data.subset(index), self.logits[index])

    def losses(self, columns: Tensor | None = None) -> Tensor:
        """−log p(true class), ``(N, columns)``."""
        parts = []
        for index in torch.arange(len(self.data)).split(500):
            logits = self.logits[index] if columns is None else self.logits[index][:, columns]
            target = self.data.targets[index][:, None].expand(-1, logits.shape[1])
            parts.append(
                F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
            )
        return torch.cat(parts)

    def averaged(self, columns: Tensor, how: str) -> Tensor:
        """Aggregated logits ``(N, K)`` of the views ``(N, k)``."""
        parts = []
        for index in torch.arange(len(self.data)).split(500):
            chosen = columns[index][..., None].expand(-1, -1, self.logits.shape[-1])
            parts.append(aggregate(self.logits[index].gather(1, chosen).float().transpose(0, 1), how))
        return torch.cat(parts)


def candidates() -> tuple[ia.AugmentParams, Tensor]:
    """Zooms and anchors, plain and mirrored; and the column of each of the thirty anchors."""
    views, crop = baselines.policy_candidates(ia.LearnedAugment(["crop"])), Crop()
    boxes = torch.stack([views.cx, views.cy, views.w, views.flip], 1)
    anchors = crop.anchors[:, [0, 1, 2, 4]]
    return views, (boxes[None] - anchors[:, None]).abs().sum(-1).argmin(1)


def fixed(columns: list[int], n: int) -> Tensor:
    return torch.tensor(columns)[None].expand(n, -1)


def ordered(scores: Tensor, anchor_columns: Tensor) -> Tensor:
    """Columns by descending probability, the image itself first: ``(N, 10)``."""
    scores = scores.clone()
    scores[:, 0] = torch.inf
    return anchor_columns[scores.topk(max(VIEWS), 1).indices]


@torch.no_grad()
def probabilities(aug: ia.LearnedAugment, data: LabelledImages) -> Tensor:
    """p(anchor) ``(N, 30)``."""
    parts = torch.arange(len(data)).split(256)
    return torch.cat([aug.distribution(data.batch(part)[0]).parts["crop"].anchors.probs for part in parts])


def outcomes(report: Table, choice: Table, arms: dict[str, tuple[Tensor, Tensor]], how: str) -> Outcome:
    """Correct and NLL of every arm's first K columns; one temperature per arm and K, found on the choice images."""
    results: Outcome = {}
    for name, (columns, choice_columns) in arms.items():
        for k in VIEWS:
            if k > columns.shape[1] or (name in (SINGLE, "horizontal flip") and k < columns.shape[1]):
                continue
            t = best_temperature(choice.averaged(choice_columns[:, :k], how), choice.data.targets)
            logits = report.averaged(columns[:, :k], how) / t
            nll = F.cross_entropy(logits, report.data.targets, reduction="none")
            results[name, k] = ((logits.argmax(1) == report.data.targets).numpy(), nll.numpy())
    return results


def input_free(report: Table, choice: Table, anchor_columns: Tensor, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Arms that do not look at the image."""
    losses = choice.losses()
    n_zooms = baselines.zoom_candidates().batch_shape[0]
    g = torch.Generator().manual_seed(seed)
    mirrored = torch.arange(losses.shape[1] - len(anchor_columns) + 1, losses.shape[1])
    both = torch.cat([anchor_columns, torch.tensor([n_zooms // 2]), mirrored])
    columns = {
        SINGLE: [0],
        "horizontal flip": [0, n_zooms // 2],
        "best centre zooms": baselines.greedy(losses[:, :n_zooms], max(VIEWS)),
        "greedy policy": baselines.greedy(losses, max(VIEWS)),
    }
    arms = {name: (fixed(c, len(report.data)), fixed(c, len(choice.data))) for name, c in columns.items()}

    def drawn(n: int) -> Tensor:
        out = both[torch.randint(len(both), (n, max(VIEWS)), generator=g)]
        out[:, 0] = 0
        return out

    return {**arms, "random views": (drawn(len(report.data)), drawn(len(choice.data)))}


def fit(
    classifier: nn.Module, train: Table, held: Table, anchor_columns: Tensor, arguments, seed: int
) -> ia.LearnedAugment:
    """Crops by the classifier's table."""
    torch.manual_seed(seed)
    features = arguments.predictor == "features"
    aug = ia.LearnedAugment(
        ["crop"],
        image_size=arguments.image_size,
        predictor=arguments.predictor,
        classifier=classifier if features else None,
    )
    config = ia.FitConfig(
        entropy={"crop": tuple(arguments.entropy)},
        objective=arguments.objective,
        epochs=1 if arguments.smoke else arguments.epochs,
        lr=arguments.lr,
        weight_decay=0.05,
        patience=5,
        amp=arguments.amp,
        seed=seed,
    )
    tables = {"table": train.losses(anchor_columns), "val_table": held.losses(anchor_columns)}
    ia.fit(aug, classifier, train.data, held.data, config, **tables)
    return aug.eval()


def one(
    classifier: nn.Module, train: Table, report: Table, anchor_columns: Tensor, arguments, seed: int
) -> tuple[Outcome, ia.LearnedAugment]:
    """Fit on ``train`` and report: every arm."""
    kept, held = hold_out(LabelledImages(torch.arange(len(train.data)), train.data.targets), seed)
    choice, rest = train.rows(held.images), train.rows(kept.images)
    aug = fit(classifier, rest, choice, anchor_columns, arguments, seed)
    p, p_choice = probabilities(aug, report.data), probabilities(aug, choice.data)
    arms = input_free(report, choice, anchor_columns, seed)
    arms["ours"] = (ordered(p, anchor_columns), ordered(p_choice, anchor_columns))
    other = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    arms["ours, shuffled"] = (ordered(p[other], anchor_columns), ordered(p_choice.roll(1, 0), anchor_columns))
    average = p_choice.log().mean(0, keepdim=True)
    arms["ours, without input"] = tuple(ordered(average.expand(n, -1), anchor_columns) for n in (len(p), len(p_choice)))
    return outcomes(report, choice, arms, arguments.aggregate), aug


def pooled(runs: list[list[Outcome]]) -> Outcome:
    """Runs (seeds × parts) to per-image means over the seeds, the parts joined."""
    keys = runs[0][0].keys()
    return {
        key: tuple(
            np.concatenate([np.mean([parts[i][key][j] for parts in runs], 0) for i in range(len(runs[0]))])
            for j in (0, 1)
        )
        for key in keys
    }


def summary(result: Outcome, seed: int = 0) -> tuple[str, list[dict]]:
    """A table of all arms, and ours against the single view and the best input-free arm."""
    n, rows = len(result[SINGLE, 1][0]), []
    for (name, k), (correct, nll) in sorted(result.items(), key=lambda item: item[0][1]):
        gain = [100 * x for x in paired_interval(correct - result[SINGLE, 1][0].astype(float), seed)]
        rows.append({"arm": name, "K": k, "n": n, "top1": 100 * correct.mean(), "nll": float(nll.mean()), "gain": gain})
    lines = [
        [
            r["arm"],
            r["K"],
            f"{r['top1']:.2f}",
            f"{r['gain'][0]:+.2f} [{r['gain'][1]:+.2f}, {r['gain'][2]:+.2f}]",
            f"{r['nll']:.3f}",
        ]
        for r in rows
    ]
    text = tabulate(
        lines, ["views", "K", "top-1 %", "points over single view [95 %]", "NLL"], "github", disable_numparse=True
    )
    for k in VIEWS[1:]:
        rivals = [key for key in result if key[0] in FREE and key[1] <= k]
        best = max(rivals, key=lambda key: result[key][0].mean())
        lowest = min(rivals, key=lambda key: result[key][1].mean())
        ours = result["ours", k]
        lead = [100 * x for x in paired_interval(ours[0] - result[best][0].astype(float), seed)]
        nll = paired_interval(ours[1] - result[lowest][1], seed)
        rows.append({"K": k, "rival": best, "lead": lead, "nll_rival": lowest, "nll_lead": nll})
        text += (
            f"\n\nK = {k}: ours − {best[0]} (K = {best[1]}) = {lead[0]:+.2f} points [{lead[1]:+.2f}, {lead[2]:+.2f}]; NLL, "
            f"ours − {lowest[0]} (K = {lowest[1]}) = {nll[0]:+.3f} [{nll[1]:+.3f}, {nll[2]:+.3f}]"
        )
    return text, rows


def headroom(table: Table, choice: Table) -> str:
    """What any choice among the candidates could reach at most, and all of them together."""
    losses = table.losses()
    right = torch.cat(
        [
            (logits.argmax(-1) == t[:, None]).any(1)
            for logits, t in zip(table.logits.split(500), table.data.targets.split(500), strict=True)
        ]
    )
    everything = [torch.arange(losses.shape[1])[None].expand(len(t.data), -1) for t in (table, choice)]
    t = best_temperature(choice.averaged(everything[1], "mean_prob"), choice.data.targets)
    logits = table.averaged(everything[0], "mean_prob") / t
    top1 = 100 * (logits.argmax(1) == table.data.targets).double().mean()
    return (
        f"any of the {losses.shape[1]} candidate views right (oracle, knows the label): {100 * right.double().mean():.2f} %; "
        f"mean of all of them: {top1:.2f} %, NLL {F.cross_entropy(logits, table.data.targets):.3f}"
    )


def transfer(name: str, second: Table, refits: list[Outcome], carried: list[Outcome]) -> tuple[str, list[dict]]:
    """Gain over the second classifier's single view: modules carried over, and refitted for it."""
    lines, rows = [], []
    for k in (4, 10):
        gains = []
        for runs in (carried, refits):
            single = np.mean([r[SINGLE, 1][0] for r in runs], 0)
            gains.append(np.mean([r["ours", k][0] for r in runs], 0) - single)
        drawn = bootstrap(
            gains,
            lambda a, b: a.mean() / b.mean(),
            paired=True,
            vectorized=False,
            n_resamples=2000,
            method="percentile",
            rng=np.random.default_rng(0),
        )
        low, high = drawn.confidence_interval
        means = [paired_interval(100 * g) for g in gains]
        rows.append(
            {"K": k, "carried": means[0], "refitted": means[1], "share": [gains[0].mean() / gains[1].mean(), low, high]}
        )
        text = [f"{m:+.2f} [{lo:+.2f}, {hi:+.2f}]" for m, lo, hi in means]
        lines.append(
            f"{name}, K = {k}: carried over {text[0]}, refitted {text[1]} points over its single view; share {gains[0].mean() / gains[1].mean():.2f} [{low:.2f}, {high:.2f}]"
        )
    return "\n".join(lines), rows


def read(arguments, split: str) -> LabelledImages:
    size = arguments.image_size
    data = load(
        ImageFolder(str(arguments.data / split), v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()])),
        split,
        workers=2,
    )
    if arguments.smoke:
        data = data.subset(torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:60])
    return data


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, build the tables, fit, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the splits policy/ and val/")
    parser.add_argument("--policy-split", default="policy", help="folder to fit on (%(default)s)")
    parser.add_argument("--model", default="resnet18", help="a timm model (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, required=True, help="its weights, .safetensors")
    parser.add_argument("--second", help="a second timm model, for the transfer")
    parser.add_argument("--second-checkpoint", type=Path, help="its weights")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--predictor", choices=("conv", "features"), default="conv", help="φ (%(default)s)")
    parser.add_argument("--objective", choices=("paper", "aggregation"), default="paper", help="(%(default)s)")
    parser.add_argument("--entropy", type=float, nargs=2, default=(0.6, 0.7), help="band, fractions of log A (0.6 0.7)")
    parser.add_argument("--aggregate", choices=AGGREGATIONS[:-1], default="mean_prob", help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=15, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--out", type=Path, default=Path("frozen-report"), help="tables and results.json (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="60 images of each split, to see that everything runs")
    parsed = parser.parse_args(arguments)
    views, anchor_columns = candidates()
    policy_data, val_data = read(parsed, parsed.policy_split), read(parsed, "val")
    n_classes = sum(path.is_dir() for path in (parsed.data / "val").iterdir())
    classifier = ia.timm.create_classifier(parsed.model, parsed.checkpoint, n_classes).eval()

    def table(model, data, split, of, chosen=views):
        return Table(data, build_logit_table(model, data, chosen, folder=parsed.out / of, amp=parsed.amp, desc=split))

    policy, val = (table(classifier, d, s, "first") for d, s in ((policy_data, "policy"), (val_data, "val")))
    halves = torch.randperm(len(policy_data), generator=torch.Generator().manual_seed(0)).chunk(2)
    runs, augs = [], []
    for seed in parsed.seeds:
        on_val, aug = one(classifier, policy, val, anchor_columns, parsed, seed)
        crossed = [
            one(classifier, policy.rows(halves[1 - i]), policy.rows(halves[i]), anchor_columns, parsed, seed)[0]
            for i in (0, 1)
        ]
        runs.append([on_val, *crossed])
        augs.append(aug)
    results = {"options": {key: str(value) for key, value in vars(parsed).items()}}
    for title, parts in (("val", [run[:1] for run in runs]), ("val and cross-fitted policy pooled", runs)):
        result = pooled(parts)
        text, results[title] = summary(result)
        print(f"## {title}: n = {len(result[SINGLE, 1][0])}, seeds {parsed.seeds}\n\n{text}\n")
    held = hold_out(LabelledImages(torch.arange(len(policy_data)), policy_data.targets), parsed.seeds[0])[1].images
    print(headroom(val, policy.rows(held)) + "\n")
    if parsed.second:
        model = ia.timm.create_classifier(parsed.second, parsed.second_checkpoint, n_classes).eval()
        anchors, own = views.index(anchor_columns), torch.arange(len(anchor_columns))
        policy2, val2 = (table(model, d, s, "second", anchors) for d, s in ((policy_data, "policy"), (val_data, "val")))
        refits, carried = [], []
        for seed, aug in zip(parsed.seeds, augs, strict=True):
            kept, held = (
                part.images
                for part in hold_out(LabelledImages(torch.arange(len(policy_data)), policy_data.targets), seed)
            )
            choice = policy2.rows(held)
            again = fit(model, policy2.rows(kept), choice, own, parsed, seed)
            for module, into in ((again, refits), (aug, carried)):
                arms = {SINGLE: (fixed([0], len(val_data)), fixed([0], len(held)))}
                arms["ours"] = tuple(ordered(probabilities(module, t.data), own) for t in (val2, choice))
                into.append(outcomes(val2, choice, arms, parsed.aggregate))
        single = 100 * np.mean([r[SINGLE, 1][0].mean() for r in refits])
        text, results["transfer"] = transfer(parsed.second, val2, refits, carried)
        print(f"## transfer without refitting; {parsed.second}'s single view {single:.2f} %\n\n{text}")
    replace_file(parsed.out / "results.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()
