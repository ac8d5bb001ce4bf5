"""What the frozen report compares: candidate views with their logits, the arms, and what each of them gives."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import instaaug_transforms as ia
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.data import LabelledImages
from instaaug_transforms.tta import arms as baselines
from instaaug_transforms.tta.aggregation import aggregate
from instaaug_transforms.tta.calibration import best_temperature

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
