"""Forwards of many views through a frozen classifier, in batches, with a bar."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import functional
from ..augment import LearnedAugment
from ..engine.data import Images
from ..engine.nuisance import Nuisance
from ..params import AugmentParams
from . import arms
from .aggregation import SCALE_EDGES, aggregate, scale_bins
from .calibration import best_temperature, calibration_error
from .report import ORACLE, ArmResult
from .weights_per_scale import fit_scale_weights


class Runner:
    """What the arms of one comparison share.

    Args:
        classifier: images in [0, 1] to logits, held in eval mode by the caller.
        aug: whose families, output size and fill act on the views.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        seed: of random views; every arm starts from it.
        progress: show bars; by default where the output is a terminal.
        nuisance: what images suffer before anybody looks at them.
    """

    def __init__(
        self,
        classifier: nn.Module,
        aug: LearnedAugment,
        batch_size: int,
        amp: bool,
        seed: int,
        progress: bool | None,
        nuisance: Nuisance | None = None,
    ) -> None:
        self.classifier, self.aug, self.families = classifier, aug, arms.families_for(aug)
        self.batch_size, self.amp, self.seed = batch_size, amp, seed
        self.disable = None if progress is None else not progress
        self.device, self.nuisance = aug.device, nuisance

    def candidate_losses(self, data: Images, views: AugmentParams) -> tuple[Tensor, Tensor]:
        """``(N, V)`` −log p(true class) of every image under every candidate, and whether it is right."""
        n = views.batch_shape[0]
        losses, right = torch.empty(len(data), n), torch.empty(len(data), n, dtype=torch.bool)
        total, row = losses.numel(), 0
        with tqdm(total=total, desc="candidate views", unit="view", unit_scale=True, disable=self.disable) as bar:
            for images, targets in self._batches(data):
                params = arms.fixed(views)(images, None)
                rows = slice(row, row := row + len(images))
                for v in range(n):
                    logits = self._logits(images, params.index(v))
                    losses[rows, v] = nn.functional.cross_entropy(logits, targets, reduction="none").cpu()
                    right[rows, v] = (logits.argmax(-1) == targets).cpu()
                    bar.update(len(images))
        return losses, right

    def oracle(self, data: Images, views: AugmentParams) -> ArmResult:
        """The best candidate of each image, found with its label: what no choice of one view can pass."""
        losses, right = self.candidate_losses(data, views)
        return ArmResult(ORACLE, len(views.cx), right.any(1).numpy(), losses.amin(1).numpy(), 1.0, float("nan"))

    def arm(
        self,
        name: str,
        arm: arms.Arm,
        ks: Sequence[int],
        data: Images,
        choice: Images,
        how: str,
        look: float = 0.0,
    ) -> dict[tuple[str, int], ArmResult]:
        """One arm at several K, which share their views. Weights and temperature are fitted on ``choice``.

        Args:
            look: forwards of the classifier that φ's own look takes.
        """
        if not ks:
            return {}
        weights: dict[int, Tensor] = {}
        if how == "weighted":
            logits, bins = (torch.cat(parts, 1) for parts in zip(*self._views(name, arm, max(ks), choice), strict=True))
            weights = {k: fit_scale_weights(logits[:k], bins[:k], choice.targets) for k in ks}
        tuning = self.averages(name, arm, ks, choice, how, weights)
        reported = self.averages(name, arm, ks, data, how, weights)
        return {(name, k): self._scored(name, k, k + look, tuning[k], reported[k], data, choice) for k in ks}

    def model(
        self, name: str, k: int, cost: float, model: nn.Module, data: Images, choice: Images
    ) -> dict[tuple[str, int], ArmResult]:
        """A finished model, images to logits, as an arm."""
        tuning, reported = (
            torch.cat([self._forward(images, model).cpu() for images, _ in self._batches(part)])
            for part in (choice, data)
        )
        return {(name, k): self._scored(name, k, cost, tuning, reported, data, choice)}

    def _scored(
        self, name: str, k: int, cost: float, tuning: Tensor, reported: Tensor, data: Images, choice: Images
    ) -> ArmResult:
        temperature = best_temperature(tuning, choice.targets)
        scaled = reported / temperature
        nll = nn.functional.cross_entropy(scaled, data.targets, reduction="none").numpy()
        correct = (scaled.argmax(-1) == data.targets).numpy()
        return ArmResult(name, k, correct, nll, temperature, calibration_error(scaled, data.targets), cost)

    def averages(
        self,
        name: str,
        arm: arms.Arm,
        ks: Sequence[int],
        data: Images,
        how: str,
        weights: dict[int, Tensor] | None = None,
    ) -> dict[int, Tensor]:
        """Aggregated logits ``(N, classes)`` of the first k views, for every k."""
        parts: dict[int, list[Tensor]] = {k: [] for k in ks}
        for logits, bins in self._views(name, arm, max(ks), data):
            for k in ks:
                log_weights = weights[k][bins[:k]] if weights else None
                parts[k].append(aggregate(logits[:k], how, log_weights=log_weights))
        return {k: torch.cat(part) for k, part in parts.items()}

    def _views(self, name: str, arm: arms.Arm, n: int, data: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """Per batch: logits ``(n, B, classes)`` of the arm's views, and the bins of their scales ``(n, B)``."""
        generator = torch.Generator().manual_seed(self.seed)
        with tqdm(
            total=len(data) * n, desc=name, unit="view", unit_scale=True, disable=self.disable, leave=False
        ) as bar:
            for images, _ in self._batches(data):
                views = arm(images, generator)
                ready = isinstance(views, Tensor)
                logits = []
                for v in range(n):
                    logits.append(self._forward(views[v]) if ready else self._logits(images, views.index(v)))
                    bar.update(len(images))
                whole = torch.full((n, len(images)), len(SCALE_EDGES))
                yield torch.stack(logits).cpu(), whole if ready else scale_bins(views)[:n].cpu()

    def _batches(self, data: Images) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.arange(len(data)).split(self.batch_size)
        for index, (images, targets) in zip(rows, data.batches(rows, self.device), strict=True):
            yield images if self.nuisance is None else self.nuisance(images, index), targets

    def _logits(self, images: Tensor, params: AugmentParams) -> Tensor:
        return self._forward(
            functional.apply(images, params, self.families, self.aug.output_size, self.aug.fill, self.aug.interpolation)
        )

    def _forward(self, views: Tensor, model: nn.Module | None = None) -> Tensor:
        # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
        views = views.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            return (model or self.classifier)(views).float()
