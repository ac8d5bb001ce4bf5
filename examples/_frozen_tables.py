"""The frozen report's tables: all arms, the lead over the best input-free one, headroom, and transfer."""

import numpy as np
import torch
from _frozen_arms import FREE, SINGLE, VIEWS, Outcome, Table
from scipy.stats import bootstrap
from tabulate import tabulate
from torch.nn import functional as F

from instaaug_transforms.evaluation import paired_interval
from instaaug_transforms.evaluation.calibration import best_temperature


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
