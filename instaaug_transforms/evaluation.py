"""Accuracy of a frozen classifier with and without learned views, every arm at the same number of views."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import bootstrap
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from . import baselines, ops
from .augment import LearnedAugment
from .learning.data import LabelledImages, load
from .learning.frozen import frozen
from .params import AugmentParams
from .tta import aggregate

OURS = "ours"
SINGLE = "single view"


@dataclass(frozen=True)
class ArmResult:
    """One arm at one K: ``correct`` (N,) and ``nll`` (N,) per image, the temperature fitted on the choice data."""

    name: str
    n_views: int
    correct: np.ndarray
    nll: np.ndarray
    temperature: float


@dataclass(frozen=True)
class Evaluation:
    """Every arm at every K on the same images.

    Attributes:
        arms: results by ``(name, K)``.
        n: images.
        seed: of views and bootstrap.
    """

    arms: dict[tuple[str, int], ArmResult]
    n: int
    seed: int

    def interval(self, first: ArmResult, second: ArmResult, what: str = "correct") -> tuple[float, float, float]:
        """Mean difference first − second and its 95 % paired bootstrap interval over images."""
        difference = getattr(first, what).astype(float) - getattr(second, what).astype(float)
        if np.ptp(difference) == 0:  # the bootstrap of a constant is that constant
            return difference[0], difference[0], difference[0]
        drawn = bootstrap(
            (difference,),
            np.mean,
            n_resamples=2000,
            method="percentile",
            batch=200,
            rng=np.random.default_rng(self.seed),
        ).confidence_interval
        return float(difference.mean()), float(drawn.low), float(drawn.high)

    def best_input_free(self, n_views: int) -> ArmResult:
        """The strongest arm that does not look at the image, by accuracy here: the hardest one to compare with."""
        rivals = [arm for (name, k), arm in self.arms.items() if k <= n_views and not name.startswith(OURS)]
        return max(rivals, key=lambda arm: (arm.correct.mean(), -arm.nll.mean()))

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row per arm and K: accuracy in percent, differences in points, nll in nats."""
        rows = []
        for (name, k), arm in self.arms.items():
            gain = [100 * x for x in self.interval(arm, self.arms[SINGLE, 1])]
            row = {"arm": name, "K": k, "n": self.n, "top1": 100 * arm.correct.mean(), "nll": float(arm.nll.mean())}
            row |= {"temperature": arm.temperature, "gain": gain[0], "gain_low": gain[1], "gain_high": gain[2]}
            rows.append(row)
        return rows

    def table(self) -> str:
        """Markdown: top-1 and NLL per arm and K, gain over the single view with its interval."""
        lines = [
            [
                row["arm"],
                row["K"],
                f"{row['top1']:.2f}",
                "" if row["arm"] == SINGLE else f"{row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]",
                f"{row['nll']:.3f}",
            ]
            for row in self.rows()
        ]
        headers = ["views", "K", "top-1 %", "points over single view [95 %]", "NLL"]
        return tabulate(lines, headers, tablefmt="github", disable_numparse=True)

    def against_input_free(self) -> list[str]:
        """A line per K: ours against the best arm that does not look at the image."""
        lines = []
        for (name, k), arm in self.arms.items():
            if name != OURS:
                continue
            rival = self.best_input_free(k)
            mean, low, high = (100 * x for x in self.interval(arm, rival))
            nll = self.interval(arm, rival, "nll")
            lines.append(
                f"K = {k}: ours − best input-free ({rival.name}, K = {rival.n_views}) = {mean:+.2f} points "
                f"[{low:+.2f}, {high:+.2f}], NLL {nll[0]:+.3f} [{nll[1]:+.3f}, {nll[2]:+.3f}]"
            )
        return lines


def evaluate(
    classifier: nn.Module,
    aug: LearnedAugment,
    data: Any,
    choice_data: Any,
    n_views: Sequence[int] = (1, 2, 4, 10),
    *,
    select: str = "top",
    range_fraction: float = 1.0,
    how: str = "mean_prob",
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> Evaluation:
    """Compare learned views with input-free ones on ``data``.

    Arms: single view; the image and its mirror image; centre zooms; random views; greedy policy search over zooms and
    anchors; ours with every image given another image's distribution ("shuffled"); ours. All but ``random`` and
    ``shuffled`` choose what they choose on ``choice_data``, and there every arm gets one temperature per K.

    Args:
        classifier: images in [0, 1] to logits, held in eval mode.
        aug: a fitted transform.
        data: what is reported; ``(images, labels)``, Dataset or DataLoader.
        choice_data: what choices are made on; no image of ``data``.
        n_views: the numbers of views K.
        select, range_fraction: how our views are selected, see `TTAModel`; what `tune` found on ``choice_data``, say.
        how: the aggregation, the same for every arm.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        seed: of random views.
        progress: show bars; None where the output is a terminal.
    """
    data, choice = load(data, "data", progress=progress), load(choice_data, "choice_data", progress=progress)
    # Folders come sorted by class; a "shuffled" view must not come from an image of the same class more than by chance.
    data = data.subset(torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)))
    most = max(n_views)
    run = _Runner(classifier, baselines.families_for(aug), aug, batch_size, amp, seed, progress)
    with frozen(classifier), torch.no_grad():
        zooms, policies = baselines.zoom_candidates(), baselines.policy_candidates(aug)
        losses = run.candidate_losses(choice, policies)
        pick_zooms = baselines.greedy(losses[:, : zooms.batch_shape[0]], most)
        pick_policy = baselines.greedy(losses, most)
        both = baselines.views_of([(0.5, 0.5, 1.0, 0), (0.5, 0.5, 1.0, 1)])
        arms: dict[str, tuple[baselines.Arm, list[int]]] = {
            SINGLE: (baselines.fixed(both.index(slice(0, 1))), [1]),
            "horizontal flip": (baselines.fixed(both), [2]),
            "best centre zooms": (baselines.fixed(zooms.index(pick_zooms)), list(n_views)),
            "random views": (baselines.random_views(aug, most), [k for k in n_views if k > 1]),
            "greedy policy": (baselines.fixed(policies.index(pick_policy)), list(n_views)),
            f"{OURS}, shuffled": (
                baselines.learned(aug, most, select, range_fraction, shuffled=True),
                [k for k in n_views if k > 1],
            ),
            OURS: (baselines.learned(aug, most, select, range_fraction), [k for k in n_views if k > 1]),
        }
        results: dict[tuple[str, int], ArmResult] = {}
        for name, (arm, ks) in arms.items():
            results |= run.arm(name, arm, ks, data, choice, how)
        if 1 in n_views:  # one view alone is the likeliest, not the image itself
            results |= run.arm(OURS, baselines.learned(aug, 1, select, range_fraction), [1], data, choice, how)
    order = {name: i for i, name in enumerate(arms)}
    results = dict(sorted(results.items(), key=lambda item: (item[0][1], order[item[0][0]])))
    return Evaluation(results, len(data), seed)


def tune(
    classifier: nn.Module,
    aug: LearnedAugment,
    choice_data: Any,
    n_views: int = 4,
    *,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Arguments of `TTAModel` — ``select`` and ``range_fraction`` — with the lowest NLL of ``n_views`` views.

    Args:
        choice_data: held-out images that are not reported on; the rest is as in `evaluate`.
    """
    data = load(choice_data, "choice_data", progress=progress)
    run = _Runner(classifier, baselines.families_for(aug), aug, batch_size, amp, seed, progress)
    continuous = any(
        part.has_rsample for part in aug.distribution(data.batch(slice(0, 1), run.device)[0]).parts.values()
    )
    settings = [
        {"select": select, "range_fraction": fraction}
        for select in ("top", "stratified")
        for fraction in ((1.0, 0.5, 0.25) if continuous else (1.0,))
    ]
    losses = []
    with frozen(classifier), torch.no_grad():
        for setting in settings:
            arm = baselines.learned(aug, n_views, **setting)
            averages, targets = run.averages(f"tune {setting}", arm, [n_views], data, "mean_prob")
            losses.append(nn.functional.cross_entropy(averages[n_views], targets).item())
    return settings[losses.index(min(losses))]


class _Runner:
    """Forwards of many views, in batches, with a bar."""

    def __init__(self, classifier, families, aug, batch_size, amp, seed, progress) -> None:
        self.classifier, self.families, self.aug = classifier, families, aug
        self.batch_size, self.amp, self.seed = batch_size, amp, seed
        self.disable = None if progress is None else not progress
        self.device = next(aug.predictor.parameters()).device

    def _logits(self, images: Tensor, params: AugmentParams) -> Tensor:
        views = ops.apply(images, params, self.families, self.aug.output_size, self.aug.fill)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            return self.classifier(views).float()

    def _batches(self, data: LabelledImages):
        for start in range(0, len(data), self.batch_size):
            index = slice(start, start + self.batch_size)
            images, targets = data.batch(index, self.device)
            yield images.contiguous(memory_format=torch.channels_last), targets

    def candidate_losses(self, data: LabelledImages, views: AugmentParams) -> Tensor:
        """``(N, V)`` −log p(true class) of every image under every candidate."""
        n = views.batch_shape[0]
        losses = torch.empty(len(data), n)
        with tqdm(
            total=losses.numel(), desc="candidate views", unit="view", unit_scale=True, disable=self.disable
        ) as bar:
            for b, (images, targets) in enumerate(self._batches(data)):
                params = baselines.fixed(views)(images, None)
                for v in range(n):
                    logits = self._logits(images, params.index(v))
                    rows = slice(b * self.batch_size, b * self.batch_size + len(images))
                    losses[rows, v] = nn.functional.cross_entropy(logits, targets, reduction="none").cpu()
                    bar.update(len(images))
        return losses

    def arm(self, name, arm, ks, data, choice, how) -> dict[tuple[str, int], ArmResult]:
        """One arm at several K, which share their views."""
        if not ks:
            return {}
        tuning, tuning_targets = self.averages(name, arm, ks, choice, how)
        reported, targets = self.averages(name, arm, ks, data, how)
        results = {}
        for k in ks:
            temperature = _temperature(tuning[k], tuning_targets)
            nll = nn.functional.cross_entropy(reported[k] / temperature, targets, reduction="none")
            correct = reported[k].argmax(-1) == targets
            results[name, k] = ArmResult(name, k, correct.numpy(), nll.numpy(), temperature)
        return results

    def averages(self, name, arm, ks, data, how) -> tuple[dict[int, Tensor], Tensor]:
        """Aggregated logits of the first k views for every k, and the targets."""
        generator = torch.Generator().manual_seed(self.seed)
        parts: dict[int, list[Tensor]] = {k: [] for k in ks}
        total = len(data) * max(ks)
        with tqdm(total=total, desc=name, unit="view", unit_scale=True, disable=self.disable, leave=False) as bar:
            for images, _ in self._batches(data):
                params = arm(images, generator)
                logits = []
                for v in range(max(ks)):
                    logits.append(self._logits(images, params.index(v)))
                    bar.update(len(images))
                for k in ks:
                    parts[k].append(aggregate(torch.stack(logits[:k]), how).cpu())
        return {k: torch.cat(part) for k, part in parts.items()}, data.targets


def _temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature with the lowest NLL."""
    found = minimize_scalar(
        lambda log_t: nn.functional.cross_entropy(logits / math.exp(log_t), targets).item(),
        bounds=(-2, 2),
        method="bounded",
    )
    return math.exp(found.x)
