"""Learned views of a frozen classifier against views chosen without looking, on val and cross-fitted *policy* pooled:

    python examples/tinyimagenet_splits.py --data DIR
    python examples/frozen_report.py --data DIR --checkpoint resnet18.safetensors --second convnext_atto \\
        --second-checkpoint atto.safetensors --amp --out report

Three seeds of the fit. val is reported with transforms fitted on *policy*; each half of *policy* with transforms
fitted on the other half. Every choice and temperature is made on a tenth held out of the images fitted on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _frozen_arms import SINGLE, Outcome, Table, candidates, fixed, input_free, ordered, outcomes, probabilities
from _frozen_tables import headroom, pooled, summary, transfer
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.learning.data import LabelledImages, hold_out, load
from instaaug_transforms.tta.aggregation import AGGREGATIONS
from instaaug_transforms.tta.calibration import best_temperature
from instaaug_transforms.tta.logit_table import build_logit_table
from instaaug_transforms.weights import replace_file


def fit(
    classifier: nn.Module, train: Table, held: Table, anchor_columns: Tensor, band: tuple, arguments, seed: int
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
        entropy={"crop": band},
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


def split(table: Table, seed: int) -> tuple[Table, Table]:
    """Nine tenths to fit on, a tenth to choose on."""
    kept, held = hold_out(LabelledImages(torch.arange(len(table.data)), table.data.targets), seed)
    return table.rows(kept.images), table.rows(held.images)


def choose_band(classifier: nn.Module, data: Table, anchor_columns: Tensor, arguments) -> tuple[float, float]:
    """The entropy band whose four likeliest views have the lowest NLL on the held-out tenth, first seed."""
    bands = list(zip(arguments.entropy[::2], arguments.entropy[1::2], strict=True))
    if len(bands) == 1:
        return bands[0]
    train, held = split(data, arguments.seeds[0])
    nll = []
    for band in bands:
        aug = fit(classifier, train, held, anchor_columns, band, arguments, arguments.seeds[0])
        columns = ordered(probabilities(aug, held.data), anchor_columns)[:, :4]
        nll.append(best_temperature_nll(held.averaged(columns, arguments.aggregate), held.data.targets))
    found = ", ".join(f"{low:g} … {high:g}: {value:.3f}" for (low, high), value in zip(bands, nll, strict=True))
    print(f"entropy bands (fractions of log A) and NLL at K = 4 on {len(held.data)} held-out images: {found}")
    return bands[int(np.argmin(nll))]


def best_temperature_nll(logits: Tensor, targets: Tensor) -> float:
    """After the temperature that suits these images best."""
    return F.cross_entropy(logits / best_temperature(logits, targets), targets).item()


def one(
    classifier: nn.Module, data: Table, report: Table, anchor_columns: Tensor, band: tuple, arguments, seed: int
) -> tuple[Outcome, ia.LearnedAugment]:
    """Fit on ``data``, report on ``report``: every arm."""
    rest, choice = split(data, seed)
    aug = fit(classifier, rest, choice, anchor_columns, band, arguments, seed)
    p, p_choice = probabilities(aug, report.data), probabilities(aug, choice.data)
    arms = input_free(report, choice, anchor_columns, seed)
    arms["ours"] = (ordered(p, anchor_columns), ordered(p_choice, anchor_columns))
    other = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    arms["ours, shuffled"] = (ordered(p[other], anchor_columns), ordered(p_choice.roll(1, 0), anchor_columns))
    average = p_choice.log().mean(0, keepdim=True)
    arms["ours, without input"] = tuple(ordered(average.expand(n, -1), anchor_columns) for n in (len(p), len(p_choice)))
    return outcomes(report, choice, arms, arguments.aggregate), aug


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
    parser.add_argument(
        "--entropy",
        type=float,
        nargs="+",
        default=[0.45, 0.55, 0.6, 0.7, 0.75, 0.85],
        help="low and high of bands to choose among, fractions of log A (0.45 0.55 0.6 0.7 0.75 0.85)",
    )
    parser.add_argument("--aggregate", choices=AGGREGATIONS[:-1], default="mean_prob", help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=15, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--out", type=Path, default=Path("frozen-report"), help="tables and results.json (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="60 images of each split, to see that everything runs")
    parsed = parser.parse_args(arguments)
    if len(parsed.entropy) % 2:
        parser.error(f"--entropy: expected pairs of low and high, got {len(parsed.entropy)} numbers")
    views, anchor_columns = candidates()
    policy_data, val_data = read(parsed, parsed.policy_split), read(parsed, "val")
    n_classes = sum(path.is_dir() for path in (parsed.data / "val").iterdir())
    classifier = ia.timm.create_classifier(parsed.model, parsed.checkpoint, n_classes).eval()

    def table(model, data, split, of, chosen=views):
        return Table(data, build_logit_table(model, data, chosen, folder=parsed.out / of, amp=parsed.amp, desc=split))

    policy, val = (table(classifier, d, s, "first") for d, s in ((policy_data, "policy"), (val_data, "val")))
    halves = torch.randperm(len(policy_data), generator=torch.Generator().manual_seed(0)).chunk(2)
    # (fitted on, reported on); the band is chosen once for each, on a tenth of what is fitted on
    parts = [(policy, val), *((policy.rows(halves[1 - i]), policy.rows(halves[i])) for i in (0, 1))]
    bands = [choose_band(classifier, data, anchor_columns, parsed) for data, _ in parts]
    runs, augs = [], []
    for seed in parsed.seeds:
        found = [
            one(classifier, *part, anchor_columns, band, parsed, seed) for part, band in zip(parts, bands, strict=True)
        ]
        runs.append([outcome for outcome, _ in found])
        augs.append(found[0][1])
    results = {"options": {key: str(value) for key, value in vars(parsed).items()}, "bands": bands}
    for title, parts in (("val", [run[:1] for run in runs]), ("val and cross-fitted policy pooled", runs)):
        result = pooled(parts)
        text, results[title] = summary(result)
        print(f"## {title}: n = {len(result[SINGLE, 1][0])}, seeds {parsed.seeds}\n\n{text}\n")
    text, results["headroom on val"] = headroom(val, *split(policy, parsed.seeds[0]))
    print(text + "\n")
    if parsed.second:
        model = ia.timm.create_classifier(parsed.second, parsed.second_checkpoint, n_classes).eval()
        anchors, own = views.index(anchor_columns), torch.arange(len(anchor_columns))
        policy2, val2 = (table(model, d, s, "second", anchors) for d, s in ((policy_data, "policy"), (val_data, "val")))
        band, refits, carried = choose_band(model, policy2, own, parsed), [], []
        for seed, aug in zip(parsed.seeds, augs, strict=True):
            rest, choice = split(policy2, seed)
            again = fit(model, rest, choice, own, band, parsed, seed)
            for module, into in ((again, refits), (aug, carried)):
                arms = {SINGLE: (fixed([0], len(val_data)), fixed([0], len(choice.data)))}
                arms["ours"] = tuple(ordered(probabilities(module, t.data), own) for t in (val2, choice))
                into.append(outcomes(val2, choice, arms, parsed.aggregate))
        single = 100 * np.mean([r[SINGLE, 1][0].mean() for r in refits])
        text, results["transfer"] = transfer(parsed.second, val2, refits, carried)
        print(f"## transfer without refitting; {parsed.second}'s single view {single:.2f} %\n\n{text}")
    replace_file(parsed.out / "results.json", json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()
