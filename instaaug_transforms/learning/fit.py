"""`fit`: learn an augmentation through a frozen classifier."""

import copy
import math
import os
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..utils import distributed as ranks
from ..utils.errors import InstaAugError
from ..utils.modes import frozen
from .checkpoint import load_state, save_state
from .config import FitConfig, FitResult
from .data import hold_out, load
from .entropy import EntropyController, summarise
from .estimators import leave_one_out, only_gradient
from .loss_table import PerViewLoss, cross_entropy
from .pathwise import view_losses
from .prepared import Prepared, describe, prepare
from .watch import say_outside

IN_BAND = 0.02  # nats that the mean entropy of an epoch may lie outside


def fit(
    aug: LearnedAugment,
    classifier: nn.Module,
    train_data: Any,
    val_data: Any = None,
    config: FitConfig | None = None,
    *,
    loss: PerViewLoss = cross_entropy,
    table: Tensor | None = None,
    val_table: Tensor | None = None,
    workdir: str | os.PathLike | None = None,
    resume: bool = False,
) -> FitResult:
    """Learn ``aug`` through a classifier that stays as it is.

    Crops learn from a table of the loss of every image under every anchor, which makes the paper's objective exact:
    Σ_a p_a·L_a − λ·H(p) = λ·KL(p ‖ softmax(−L/λ)) + const. Uniform families learn pathwise, by the gradient through
    the resample and the classifier; together with them a crop's score-function gradient has the table as its control
    variate. λ keeps the mean entropy on ``train_data`` in its band. The epoch kept is the one with the lowest
    held-out objective (mean loss − Σ λ·entropy, at the latest λ), where a nat outside the band costs a nat of loss.

    Where `torch.distributed` is initialised, its processes share the classifier's work: the table's rows and the chunks
    of every step. φ itself, small, is trained by each of them alike, so all end with the weights of a single process.

    Args:
        aug: fitted in place.
        classifier: images in [0, 1] to outputs; its modes, requires_grad and buffers are as before afterwards.
        train_data: ``(images, labels)`` tensors, a Dataset or a DataLoader; images the classifier has not memorised.
        val_data: likewise, for the choice of the epoch; a tenth of ``train_data`` is held out where None.
        config: see `FitConfig`.
        loss: ``(outputs, targets)`` to per-view losses ``(B,)``.
        table, val_table: loss tables that `build_loss_table` made of the same data, to save the time.
        workdir: folder for tables, memory-mapped, and for checkpoints, every ``config.checkpoint_seconds``. What is
            there already of the tables is used. Nothing is kept where None.
        resume: go on from the checkpoint in ``workdir``, to the same weights, bit for bit, as without the interruption;
            from the start where there is none yet.

    Raises:
        InstaAugError: unusable data, bands or tables, a loss that is not finite, or a ``workdir`` of another fit.
    """
    config = config or FitConfig()
    if resume and workdir is None:
        raise InstaAugError("resume: give the workdir that holds the checkpoint")
    train = load(train_data, "train_data", progress=config.progress)
    if val_data is None:
        if table is not None or val_table is not None:
            raise InstaAugError("table: give val_data too, so that the rows of both tables are known")
        train, val = hold_out(train, config.seed)
    else:
        val = load(val_data, "val_data", progress=config.progress)
    folder = None if workdir is None else Path(workdir)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    # What φ draws for its dropout comes from the global generator: seeded here, and put back.
    device = next(aug.predictor.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with _no_jitter(aug), frozen(classifier), torch.random.fork_rng(devices):
        return _Fit(aug, classifier, train, val, config, loss, table, val_table, folder).run(resume)


@contextmanager
def _no_jitter(aug: LearnedAugment):
    """A table holds the anchors themselves: jitter stays off while it is used."""
    jittering = [family for family in aug.families if getattr(family, "jitter", False)]
    for family in jittering:
        family.jitter = False
    try:
        yield
    finally:
        for family in jittering:
            family.jitter = True


class _Fit:
    """One run of `fit`: the state its steps share."""

    def __init__(self, aug, classifier, train, val, config, loss, table=None, val_table=None, folder=None) -> None:
        self.aug, self.classifier, self.config, self.loss, self.folder = aug, classifier, config, loss, folder
        self.device = next(aug.predictor.parameters()).device
        crop = next((family for family in aug.families if family.name == "crop"), None)
        if config.objective == "aggregation" and (crop is None or len(aug.families) > 1):
            names = ", ".join(family.name for family in aug.families)
            raise InstaAugError(f"objective: 'aggregation' needs the table of crop alone, got families {names}")
        # Without a table a crop is learned from samples, as a family that is not differentiable.
        self.crop = None if config.objective == "sampled" else crop
        self.crop_only = self.crop is not None and len(aug.families) == 1
        self.controller = EntropyController(
            aug.families,
            config.entropy,
            initial=config.initial_weight,
            mode=config.entropy_mode,
            rate=config.weight_rate,
        )
        start = time.perf_counter()
        shared = (aug, classifier, loss, config, self.crop, folder)
        self.train = prepare(train, table, "table", *shared)
        # Where only crops are learned, the held-out loss is read off a table too.
        self.val = prepare(val, val_table, "val_table", *shared, with_table=self.crop_only)
        self.table_seconds = time.perf_counter() - start

    def run(self, resume: bool = False) -> FitResult:
        config, predictor = self.config, self.aug.predictor
        start = time.perf_counter()
        training, frozen_before = predictor.training, {p: p.requires_grad for p in predictor.parameters()}
        predictor.train().requires_grad_(True)
        self.generator = torch.Generator(device=self.device).manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(predictor.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.steps = math.ceil(len(self.train) / config.batch_size)
        # A short climb, then a cosine: at full rate from the start, ranges run through their band before λ has followed.
        # (Of ten steps, OneCycleLR divides by zero.)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            config.lr,
            total_steps=max(config.epochs * self.steps, 11),
            pct_start=0.1,
            cycle_momentum=False,
        )
        self.history: list[dict[str, Any]] = []
        self.kept: list[dict[str, Tensor]] = []  # φ after every epoch: which was best is known when λ has settled
        self.step, self.order, self.sums = 0, None, {}
        best_epoch, before = -1, copy.deepcopy(predictor.state_dict())
        self.about = None
        if self.folder is not None:
            self.about = describe(self.aug, self.classifier, self.train, self.val, config)
            if resume:
                self._resume()
        start -= self.history[-1]["seconds"] if self.history else 0.0
        self.saved_at = time.perf_counter()
        try:
            with tqdm(
                total=config.epochs * self.steps,
                initial=self.step,
                desc="fit",
                unit="step",
                disable=None if config.progress is None else not config.progress,
            ) as bar:
                while True:
                    if self.history:
                        best_epoch = min(range(len(self.history)), key=lambda e: self._rank(self.history[e]))
                        entry = self.history[-1]
                        bar.set_postfix({"loss": f"{entry['val_loss']:.3f}", **_short("H", entry["entropy"])})
                        since = sum(later["in_band"] for later in self.history[best_epoch + 1 :])
                        if self.history[best_epoch]["in_band"] and since >= config.patience:
                            break
                    if len(self.history) == config.epochs:
                        break
                    entry = self._epoch(bar)
                    entry["seconds"] = time.perf_counter() - start
                    self.history.append(entry)
                    self.kept.append(copy.deepcopy(predictor.state_dict()))
                    self._save()
        finally:
            # Also after Ctrl-C: the best weights so far, and the modes as they were.
            predictor.load_state_dict(self.kept[best_epoch] if self.kept else before)
            predictor.train(training)
            for parameter, needed in frozen_before.items():
                parameter.requires_grad_(needed)
                parameter.grad = None
        stopped = len(self.history) < config.epochs
        say_outside(self.history[best_epoch]["entropy"], self.controller)
        return FitResult(self.history, best_epoch, stopped, self.table_seconds, time.perf_counter() - start)

    def _rank(self, entry: dict[str, Any]) -> float:
        """The held-out objective at the latest λ, plus a nat for every nat outside the entropy bands; lower is better."""
        bonus = sum(self.controller.settled_weight(name) * h for name, h in entry["val_entropy"].items())
        return entry["val_loss"] - bonus + (0.0 if entry["in_band"] else entry["outside"])

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Everything the next step depends on."""
        self.saved_at = time.perf_counter()
        if self.folder is None or ranks.rank() > 0:
            return
        values = {"step": self.step, "history": self.history, "sums": self.sums}
        values |= {"controller": self.controller.state_dict(), "schedule": self.schedule.state_dict()}
        tensors = {"predictor": self.aug.predictor.state_dict(), "optimizer": self.optimizer.state_dict()}
        tensors |= {"kept": self.kept, "order": self.order, "generator": self.generator.get_state()}
        save_state(self.folder, self.about, values, tensors)

    def _resume(self) -> None:
        found = load_state(self.folder, self.about)
        ranks.barrier()
        if found is None:
            return
        values, tensors = found
        self.step, self.history, self.sums = (values[name] for name in ("step", "history", "sums"))
        self.controller.load_state_dict(values["controller"])
        self.schedule.load_state_dict(values["schedule"])
        self.aug.predictor.load_state_dict(tensors["predictor"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.kept, self.generator = tensors["kept"], self.generator.set_state(tensors["generator"])
        self.order = None if tensors["order"] is None else tensors["order"].to(self.device)

    # -- an epoch --------------------------------------------------------------------------------------------------------

    def _epoch(self, bar: tqdm) -> dict[str, Any]:
        """One pass over the training images, or what is left of it."""
        config = self.config
        if self.order is None:
            self.order = torch.randperm(len(self.train), generator=self.generator, device=self.device)
            self.sums = {"loss": 0.0, "seen": 0, "entropy": {}}
        for index in self.order.split(config.batch_size)[self.step % self.steps :]:
            torch.manual_seed(config.seed * 1_000_003 + self.step)
            self._step(index)
            self.step += 1
            bar.update()
            if self.step % self.steps and _due(self.saved_at, config.checkpoint_seconds):
                self._save()
        self.controller.epoch_end()
        sums, self.order = self.sums, None
        if not math.isfinite(sums["loss"]):
            raise InstaAugError(
                "loss: not finite on train_data; look at the classifier's outputs, or lower FitConfig.lr"
            )
        entropies = {name: h / sums["seen"] for name, h in sums["entropy"].items()}
        outside = sum(abs(self.controller.violation(name, h)) for name, h in entropies.items())
        return {
            "loss": sums["loss"] / sums["seen"],
            **self._validate(),
            "entropy": entropies,
            "weight": {name: self.controller.weight(name) for name in entropies},
            "outside": outside,
            "in_band": outside < IN_BAND,
        }

    def _step(self, index: Tensor) -> None:
        looked, rows = self.train.rows(index)
        if self.train.mirrored is not None:
            looked, rows = self.train.mirror_half(index, self.generator, self.crop.mirror_index())
        distribution = self._distribution(looked)
        value = self._objective(distribution, index, rows, self.generator)
        entropy = distribution.entropies()
        self.optimizer.zero_grad(set_to_none=True)
        (value - self.controller.penalty(entropy)).mean().backward()
        self.optimizer.step()
        self.schedule.step()
        self.controller.step(entropy)
        self.sums["loss"] += value.detach().sum().item()
        self.sums["seen"] += len(index)
        for name, h in summarise(entropy).items():
            self.sums["entropy"][name] = self.sums["entropy"].get(name, 0.0) + h * len(index)

    def _distribution(self, looked: tuple[Tensor, ...]) -> AugmentDistribution:
        return AugmentDistribution(self.aug.families, self.aug.predictor.read(*looked))

    def _objective(
        self, distribution: AugmentDistribution, index: Tensor, rows: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """The loss term per image, ``(B,)``: its gradient is that of the expected loss."""
        expected = None
        if self.crop is not None:
            log_p = distribution.parts["crop"].anchors.logits
            if self.config.objective == "aggregation":
                return -torch.logsumexp(log_p - rows, dim=-1)
            expected = (log_p.exp() * rows).sum(-1)
            if self.crop_only:
                return expected
        n = self.config.views
        unknown = [name for name, part in distribution.parts.items() if not part.has_rsample and rows is None]
        # Stratified views are distributed as samples are, one by one, and their mean is quieter. But a view's baseline
        # must not depend on it, so where the other views are the baseline they are independent.
        params = distribution.rsample((n,), generator) if unknown else distribution.stratified(n, generator)
        losses = self._losses(params, self.train, index)
        value = losses.mean(0)
        for name, part in distribution.parts.items():
            if part.has_rsample:
                continue
            # The score function, with what the table already says of that anchor as control variate: its own
            # expectation is added back exactly. Without a table, the mean of the other losses is in its place.
            detached = losses.detach()
            known = (
                rows.gather(1, params.anchor.T).T if name == "crop" and rows is not None else leave_one_out(detached)
            )
            value = value + only_gradient(((detached - known) * part.log_prob(params.detach())).mean(0))
        return value if expected is None else value + only_gradient(expected)

    def _losses(self, params, data: Prepared, index: Tensor) -> Tensor:
        """Losses ``(n, B)`` of ``(n, B)`` parameters."""
        config = self.config
        return view_losses(
            self.aug,
            self.classifier,
            self.loss,
            data.data,
            index.cpu(),
            params,
            chunk=config.table_batch_size,
            amp=config.amp,
        )

    @torch.no_grad()
    def _validate(self) -> dict[str, Any]:
        """The held-out expected loss and entropies; the same noise at every epoch."""
        n, loss, predictor = self.config.val_views, 0.0, self.aug.predictor
        entropies: dict[str, float] = {}
        generator = torch.Generator(device=self.device).manual_seed(self.config.seed)
        predictor.eval()
        for index in torch.arange(len(self.val), device=self.device).split(self.config.table_batch_size):
            looked, rows = self.val.rows(index)
            distribution = self._distribution(looked)
            if rows is not None:
                log_p = distribution.parts["crop"].anchors.logits
                losses = (log_p.exp() * rows).sum(-1)
                if self.config.objective == "aggregation":
                    losses = -torch.logsumexp(log_p - rows, dim=-1)
            else:
                losses = self._losses(distribution.stratified(n, generator), self.val, index).mean(0)
            loss += losses.sum().item() / len(self.val)
            for name, h in distribution.entropies().items():
                entropies[name] = entropies.get(name, 0.0) + h.sum().item() / len(self.val)
        predictor.train()
        return {"val_loss": loss, "val_entropy": entropies}


def _due(last: float, seconds: float) -> bool:
    return time.perf_counter() - last > seconds


def _short(label: str, values: Mapping[str, float]) -> dict[str, str]:
    return {f"{label}_{name}": f"{value:.2f}" for name, value in values.items()}
