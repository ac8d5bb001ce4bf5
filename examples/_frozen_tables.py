"""The frozen report's tables: all arms, the lead over the best input-free one, headroom, and transfer."""

import numpy as np
import torch
from _frozen_arms import FREE, SINGLE, VIEWS, Outcome, Table
from scipy.stats import bootstrap
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from instaaug_transforms.tta import paired_interval
from instaaug_transforms.tta.aggregation import aggregate
from instaaug_transforms.tta.calibration import best_temperature


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


def headroom(table: Table, fitted_on: Table, choice: Table) -> tuple[str, dict[str, float]]:
    """What choosing or averaging the candidates could give at most: by the label, all of them, the best fixed weights."""
    n = table.logits.shape[1]
    right = [
        (logits.argmax(-1) == t[:, None]).any(1)
        for logits, t in zip(table.logits.split(500), table.data.targets.split(500), strict=True)
    ]
    rows = {"oracle": 100 * torch.cat(right).double().mean().item()}
    for name, weights in (("mean", torch.zeros(n)), ("weights", best_weights(fitted_on))):
        averaged = [weighted_mean(t, weights) for t in (table, choice)]
        logits = averaged[0] / best_temperature(averaged[1], choice.data.targets)
        rows[f"{name}_top1"] = 100 * (logits.argmax(1) == table.data.targets).double().mean().item()
        rows[f"{name}_nll"] = F.cross_entropy(logits, table.data.targets).item()
    text = (
        f"any of the {n} candidate views right (oracle, knows the label): {{oracle:.2f}} %; mean of all of them: "
        "{mean_top1:.2f} %, NLL {mean_nll:.3f}; the best weights for all images alike: {weights_top1:.2f} %, NLL "
        "{weights_nll:.3f}"
    )
    return text.format(**rows), rows


def weighted_mean(table: Table, log_weights: Tensor) -> Tensor:
    """Aggregated logits ``(N, K)`` of all candidates."""
    parts = [
        aggregate(logits.float().transpose(0, 1), "weighted", log_weights=log_weights[:, None])
        for logits in table.logits.split(500)
    ]
    return torch.cat(parts)


def best_weights(table: Table, epochs: int = 4) -> Tensor:
    """Log-weights of the candidates, the same for every image, by the NLL of their weighted mean probability."""
    weights, log_t = torch.zeros(table.logits.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([weights, log_t], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(table.data), generator=generator).split(250):
            logits = aggregate(table.logits[index].float().transpose(0, 1), "weighted", log_weights=weights[:, None])
            loss = F.cross_entropy(logits / log_t.exp(), table.data.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weights.detach()


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
