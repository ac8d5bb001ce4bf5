"""The loop of `fit`: φ's steps, checkpoints, and the choice of the epoch that is kept."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..augment_distribution import AugmentDistribution
from ..families import CandidateProduct
from ..params import AugmentParams
from ..utils import distributed
from ..utils.errors import InstaAugError
from ..utils.modes import seed_generators, trained
from ..utils.progress import bar
from .checkpoint import load_state, save_state
from .config import FitResult
from .entropy import EntropyController, summarise
from .estimators import critic, exact, only_gradient, rloo
from .pathwise import view_losses
from .prepared import Prepared, belongs_to
from .task import Task
from .watch import warn_outside_band

Callback = Callable[[dict[str, float]], object]
IN_BAND = 0.02  # nats that the mean entropy of an epoch may lie outside


class Fitting:
    """One fit: all of its state is set up here, and `run` goes through its epochs.

    Args:
        task: its transform is fitted in place, its classifier held frozen by the caller.
        train, val: what `prepare` made.
        folder: for checkpoints; none are made if None.
        table_seconds: what preparing took, for the result.
        callbacks: called after every epoch, see `fit`.
        until: epochs to go, whose last is kept, and nothing is validated; all of them by default, or until none is better, whose best is kept.
    """

    def __init__(
        self,
        task: Task,
        train: Prepared,
        val: Prepared,
        folder: Path | None = None,
        table_seconds: float = 0.0,
        callbacks: Sequence[Callback] = (),
        until: int | None = None,
    ) -> None:
        aug, config = task.aug, task.config
        self.task, self.aug, self.config, self.callbacks = task, aug, config, callbacks
        self.train, self.val, self.folder, self.table_seconds = train, val, folder, table_seconds
        self.predictor, self.device = aug.predictor, aug.device
        self.product = CandidateProduct(aug.anchor_families, config.max_columns) if "losses" in train else None
        self.alone = self.product is not None and len(aug.families) == len(aug.anchor_families)
        self.mirror_index = self.product.mirror_index() if "mirrored" in train else None
        self.fixed_weight = not config.entropy.rate
        self.controller = EntropyController(aug.families, config.entropy)
        self.steps = math.ceil(len(train) / config.batch_size)
        self.generator = torch.Generator(device=self.device).manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(self.predictor.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        # A short climb, then a cosine: at full rate from the start, ranges run through their band before λ has followed.
        # (Of ten steps, OneCycleLR divides by zero.)
        total = max(config.epochs * self.steps, 11)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.lr, total_steps=total, pct_start=0.1, cycle_momentum=False
        )
        self.history: list[dict[str, Any]] = []
        self.kept: list[dict[str, Tensor]] = []  # φ after every epoch: which was best is known when λ has settled
        self.step, self.order, self.sums = 0, None, {}
        self.about = None if folder is None else belongs_to(task, train, val)
        self.saved_at, self.until = time.perf_counter(), until

    def run(self, resume: bool = False) -> FitResult:
        """Fit; the best weights so far stay in φ, also after an exception or Ctrl-C."""
        config, predictor = self.config, self.predictor
        start = time.perf_counter()
        training, needed_grad = predictor.training, {p: p.requires_grad for p in predictor.parameters()}
        before = copy.deepcopy(predictor.state_dict())
        predictor.train()
        for weight in trained(predictor):
            weight.requires_grad_(True)
        if resume and self.folder is not None:
            try:
                self._resume()
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
                predictor.load_state_dict(before)
                if isinstance(error, InstaAugError):
                    raise
                raise InstaAugError(
                    f"resume: {self.folder} holds no state of this fit ({error}); fit without resume"
                ) from error
        start -= self.history[-1]["seconds"] if self.history else 0.0
        shown = bar(
            total=config.epochs * self.steps,
            initial=self.step,
            desc="fit",
            unit="step",
            progress=config.progress,
        )
        try:
            with shown:
                while not self._finished(shown):
                    entry = self._epoch(shown)
                    entry["seconds"] = time.perf_counter() - start
                    self.history.append(entry)
                    self.kept.append(copy.deepcopy(predictor.state_dict()))
                    self._save()
                    for callback in self.callbacks if distributed.rank() == 0 else ():
                        callback(flat_logs(entry, len(self.history)))
        finally:
            predictor.load_state_dict(self.kept[self.best_epoch] if self.kept else before)
            predictor.train(training)
            for parameter, needed in needed_grad.items():
                parameter.requires_grad_(needed)
                parameter.grad = None
        best = self.best_epoch
        if not self.fixed_weight and self.until is None:
            warn_outside_band(self.history[best]["entropy"], self.controller)
        seconds = time.perf_counter() - start
        return FitResult(self.history, best, len(self.history) < config.epochs, self.table_seconds, seconds)

    @property
    def best_epoch(self) -> int:
        """The epoch with the best held-out objective at the latest λ; the last, if it was known before."""
        if self.until is not None:
            return len(self.history) - 1
        return min(range(len(self.history)), key=lambda epoch: self._rank(self.history[epoch]))

    def _rank(self, entry: dict[str, Any]) -> float:
        """The held-out objective at the latest λ, plus a nat for every nat outside the entropy bands; lower is better."""
        # Exactly rounded: a checkpoint's families are in another order, and no bit may depend on it.
        bonus = math.fsum(self.controller.settled_weight(name) * h for name, h in entry["val_entropy"].items())
        return entry["val_loss"] - bonus + (0.0 if entry["in_band"] else entry["outside"])

    def _finished(self, shown: tqdm) -> bool:
        if not self.history or self.until is not None:
            return len(self.history) == self.until
        best, entry = self.best_epoch, self.history[-1]
        shown.set_postfix({"loss": f"{entry['val_loss']:.3f}", **_short("H", entry["entropy"])}, refresh=False)
        since = sum(later["in_band"] for later in self.history[best + 1 :])
        stale = self.history[best]["in_band"] and since >= self.config.patience
        return stale or len(self.history) == self.config.epochs

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Everything the next step depends on."""
        self.saved_at = time.perf_counter()
        if self.folder is None or distributed.rank() > 0:
            return
        values = {"step": self.step, "history": self.history, "sums": self.sums}
        values |= {"controller": self.controller.state_dict(), "schedule": self.schedule.state_dict()}
        tensors = {"predictor": self.predictor.state_dict(), "optimizer": self.optimizer.state_dict()}
        tensors |= {"kept": self.kept, "order": self.order, "generator": self.generator.get_state()}
        save_state(self.folder, self.about, values, tensors)

    def _resume(self) -> None:
        state = load_state(self.folder, self.about)
        distributed.barrier()
        if state is None:
            return
        values, tensors = state
        self.step, self.history, self.sums = (values[name] for name in ("step", "history", "sums"))
        self.controller.load_state_dict(values["controller"])
        self.schedule.load_state_dict(values["schedule"])
        self.predictor.load_state_dict(tensors["predictor"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.kept, self.generator = tensors["kept"], self.generator.set_state(tensors["generator"])
        self.order = None if tensors["order"] is None else tensors["order"].to(self.device)

    # -- an epoch --------------------------------------------------------------------------------------------------------

    def _epoch(self, shown: tqdm) -> dict[str, Any]:
        """One pass over the training rows, or what is left of it."""
        config = self.config
        if self.order is None:
            self.order = torch.randperm(len(self.train), generator=self.generator, device=self.device)
            self.sums = {"loss": 0.0, "seen": 0, "entropy": {}}
        for index in self.order.split(config.batch_size)[self.step % self.steps :]:
            seed_generators((config.seed * 1_000_003 + self.step) % 2**63, self.device)
            self._step(index)
            self.step += 1
            shown.update()
            if self.step % self.steps and time.perf_counter() - self.saved_at > config.checkpoint_seconds:
                self._save()
        self.controller.epoch_end()
        sums, self.order = self.sums, None
        validation = self._validate() if self.until is None else {}
        for name, value in (("train_data", sums["loss"]), ("val_data", validation.get("val_loss", 0.0))):
            if not math.isfinite(value):
                raise InstaAugError(
                    f"loss: not finite on {name}; look at the classifier's outputs, or lower FitConfig.lr"
                )
        entropies = {name: h / sums["seen"] for name, h in sums["entropy"].items()}
        violations = (abs(self.controller.violation(name, h)) for name, h in entropies.items())
        outside = 0.0 if self.fixed_weight else math.fsum(violations)
        return {
            "loss": sums["loss"] / sums["seen"],
            **validation,
            "entropy": entropies,
            "weight": {name: self.controller.weight(name) for name in entropies},
            "outside": outside,
            "in_band": outside < IN_BAND,
        }

    def _step(self, index: Tensor) -> None:
        seen, rows = self.train.seen(index), self.train.losses(index)
        if self.mirror_index is not None:
            seen, rows = self._mirror_half(index, seen, rows)
        distribution = self._distribution(seen)
        value = self._objective(distribution, index, rows)
        entropy = distribution.entropies()
        weight = self.train.weight(index)
        self.optimizer.zero_grad(set_to_none=True)
        (weight * (value - self.controller.penalty(entropy))).mean().backward()
        self.optimizer.step()
        self.schedule.step()
        self.controller.step(entropy)
        self.sums["loss"] += (weight * value.detach()).sum().item()
        self.sums["seen"] += len(index)
        for name, h in summarise(entropy).items():
            self.sums["entropy"][name] = self.sums["entropy"].get(name, 0.0) + h * len(index)

    def _mirror_half(self, index: Tensor, seen: tuple[Tensor, ...], rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Half of the images mirrored: with mirrored candidates their losses are in the table already, exactly."""
        flipped = torch.rand(len(index), generator=self.generator, device=self.device) < 0.5
        mirrored = self.train.seen(index, mirrored=True)
        mixed = tuple(
            torch.where(flipped.reshape(-1, *[1] * (one.ndim - 1)), other, one)
            for one, other in zip(seen, mirrored, strict=True)
        )
        return mixed, torch.where(flipped[:, None], rows[:, self.mirror_index.to(rows.device)], rows)

    def _distribution(self, seen: tuple[Tensor, ...]) -> AugmentDistribution:
        return AugmentDistribution(self.aug.families, self.predictor.decode(*seen))

    def _objective(self, distribution: AugmentDistribution, index: Tensor, rows: Tensor | None) -> Tensor:
        """The loss term per image, ``(B,)``: its gradient is that of the expected loss."""
        log_p = None if self.product is None else self.product.log_p(distribution.parts)
        if self.alone:
            return exact(rows.T, log_p)
        n = self.config.views
        sampled = [part for part in distribution.parts.values() if not part.has_rsample]
        # Stratified views are distributed as samples are, one by one, and their mean is quieter. But a view's baseline
        # must not depend on it, so where the other views are the baseline they are independent.
        independent = bool(sampled) and self.product is None
        draw = distribution.rsample if independent else None
        params = draw((n,), self.generator) if draw else distribution.stratified(n, self.generator)
        losses = self._losses(params, self.train, index)
        value, detached = losses.mean(0), losses.detach()
        if self.product is not None:
            # What the table says of a combination of candidates is its critic: exact where nothing else acts.
            column = self.product.column(params)
            log_prob = log_p.gather(1, column.T).T
            return value + only_gradient(critic(detached, log_prob, column, log_p, rows))
        for part in sampled:
            value = value + only_gradient(rloo(detached, part.log_prob(params.detach())))
        return value

    def _losses(self, params: AugmentParams, data: Prepared, index: Tensor) -> Tensor:
        """Losses ``(n, B)`` of ``(n, B)`` parameters."""
        return view_losses(self.task, data.images, index.cpu(), params)

    @torch.no_grad()
    def _validate(self) -> dict[str, Any]:
        """The held-out expected loss and entropies; the same noise at every epoch."""
        loss, entropies = 0.0, dict[str, float]()
        generator = torch.Generator(device=self.device).manual_seed(self.config.seed)
        self.predictor.eval()
        for index in torch.arange(len(self.val), device=self.device).split(self.config.table_batch_size):
            distribution = self._distribution(self.val.seen(index))
            rows = self.val.losses(index)
            if rows is not None:
                losses = exact(rows.T, self.product.log_p(distribution.parts))
            else:
                params = distribution.stratified(self.config.val_views, generator)
                losses = self._losses(params, self.val, index).mean(0)
            weight = self.val.weight(index)
            loss += (weight * losses).sum().item() / len(self.val)
            for name, h in distribution.entropies().items():
                entropies[name] = entropies.get(name, 0.0) + (weight * h).sum().item() / len(self.val)
        self.predictor.train()
        return {"val_loss": loss, "val_entropy": entropies}


def flat_logs(entry: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """An entry of the history as numbers alone; of families as ``entropy/crop``."""
    logs = {"epoch": float(epoch)}
    for name, value in entry.items():
        name = {"weight": "lambda"}.get(name, name)
        parts = {f"{name}/{part}": v for part, v in value.items()} if isinstance(value, Mapping) else {name: value}
        logs |= {key: float(number) for key, number in parts.items()}
    return logs


def _short(label: str, values: Mapping[str, float]) -> dict[str, str]:
    return {f"{label}_{name}": f"{value:.2f}" for name, value in values.items()}
