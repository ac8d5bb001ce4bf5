"""`fit`: learn an augmentation through a frozen classifier."""

import copy
import math
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..errors import InstaAugError
from .config import FitConfig, FitResult
from .data import LabelledImages, load
from .entropy import EntropyController, summarise
from .frozen import frozen
from .losstable import PerViewLoss, build_loss_table, cross_entropy

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
) -> FitResult:
    """Learn ``aug`` through a classifier that stays as it is.

    Crops learn from a table of the loss of every image under every anchor, which makes the paper's objective exact:
    Σ_a p_a·L_a − λ·H(p) = λ·KL(p ‖ softmax(−L/λ)) + const. Uniform families learn pathwise, by the gradient through
    the resample and the classifier; together with them a crop's score-function gradient has the table as its control
    variate. λ keeps the mean entropy on ``train_data`` in its band. The epoch kept is the one with the lowest
    held-out objective (mean loss − Σ λ·entropy, at the latest λ), where a nat outside the band costs a nat of loss.

    Args:
        aug: fitted in place.
        classifier: images in [0, 1] to outputs; its modes, requires_grad and buffers are as before afterwards.
        train_data: ``(images, labels)`` tensors, a Dataset or a DataLoader; images the classifier has not memorised.
        val_data: likewise, for the choice of the epoch; a tenth of ``train_data`` is held out where None.
        config: see `FitConfig`.
        loss: ``(outputs, targets)`` to per-view losses ``(B,)``.
        table, val_table: loss tables that `build_loss_table` made of the same data, to save the time.

    Raises:
        InstaAugError: unusable data, bands or tables, or a loss that is not finite.
    """
    config = config or FitConfig()
    train = load(train_data, "train_data", progress=config.progress)
    if val_data is None:
        if table is not None or val_table is not None:
            raise InstaAugError("table: give val_data too, so that the rows of both tables are known")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))
        held = max(1, len(train) // 10)
        train, val = train.subset(order[held:]), train.subset(order[:held])
    else:
        val = load(val_data, "val_data", progress=config.progress)
    with _no_jitter(aug), frozen(classifier):
        return _Fit(aug, classifier, train, val, config, loss, table, val_table).run()


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

    def __init__(self, aug, classifier, train, val, config, loss, table, val_table) -> None:
        self.aug, self.classifier, self.config, self.loss = aug, classifier, config, loss
        self.train, self.val = train, val
        self.device = next(aug.predictor.parameters()).device
        self.crop = next((family for family in aug.families if family.name == "crop"), None)
        self.crop_only = len(aug.families) == 1 and self.crop is not None
        if config.objective == "aggregation" and not self.crop_only:
            names = ", ".join(family.name for family in aug.families)
            raise InstaAugError(f"objective: 'aggregation' needs the table of crop alone, got families {names}")
        self.controller = EntropyController(
            aug.families,
            config.entropy,
            initial=config.initial_weight,
            mode=config.entropy_mode,
            rate=config.weight_rate,
        )
        start = time.perf_counter()
        self.table = self._table(train, table, "table")
        # Where only crops are learned, the held-out loss is read off a table too.
        self.val_table = self._table(val, val_table, "val_table") if self.crop_only else None
        self.table_seconds = time.perf_counter() - start
        self.copies, self.val_copies = self._copies(train), self._copies(val)

    def _table(self, data: LabelledImages, given: Tensor | None, name: str) -> Tensor | None:
        if self.crop is None:
            return None
        if given is None:
            given = build_loss_table(
                self.classifier,
                data,
                self.crop,
                loss=self.loss,
                output_size=self.aug.output_size,
                batch_size=self.config.table_batch_size,
                amp=self.config.amp,
                device=self.device,
                progress=self.config.progress,
                desc="loss table" if name == "table" else "held-out loss table",
            )
        if given.shape != (len(data), self.crop.n_anchors):
            raise InstaAugError(
                f"{name}: expected shape {(len(data), self.crop.n_anchors)} (images, anchors), got {tuple(given.shape)}; "
                "build it again for these data and this crop family"
            )
        if not given.isfinite().all():
            raise InstaAugError(f"{name}: holds losses that are not finite; look at the classifier's outputs")
        return given.float().to(self.device)

    def _copies(self, data: LabelledImages) -> Tensor:
        """What φ looks at, uint8: small, and the same at every epoch."""
        with torch.no_grad():
            index = torch.arange(len(data)).split(self.config.table_batch_size)
            shrunk = [self.aug.predictor.shrink(data.batch(part, self.device)[0]) for part in index]
            return torch.cat([images.mul(255).round_().clamp_(0, 255).to(torch.uint8) for images in shrunk])

    def _distribution(self, copies: Tensor) -> AugmentDistribution:
        return AugmentDistribution(self.aug.families, self.aug.predictor(copies.float() / 255))

    def run(self) -> FitResult:
        config, predictor = self.config, self.aug.predictor
        start = time.perf_counter()
        training, frozen_before = predictor.training, {p: p.requires_grad for p in predictor.parameters()}
        predictor.train().requires_grad_(True)
        generator = torch.Generator(device=self.device).manual_seed(config.seed)
        optimizer = torch.optim.AdamW(predictor.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        steps = config.epochs * math.ceil(len(self.train) / config.batch_size)
        # A short climb, then a cosine: at full rate from the start, ranges run through their band before λ has followed.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        history: list[dict[str, Any]] = []
        kept: list[dict[str, Tensor]] = []  # φ after every epoch: which was best is known when λ has settled
        best_epoch, before = -1, copy.deepcopy(predictor.state_dict())
        disable = None if config.progress is None else not config.progress
        try:
            with tqdm(total=config.epochs, desc="fit", unit="epoch", disable=disable) as bar:
                for _ in range(config.epochs):
                    entry = self._epoch(optimizer, schedule, generator)
                    entry["seconds"] = time.perf_counter() - start
                    history.append(entry)
                    kept.append(copy.deepcopy(predictor.state_dict()))
                    best_epoch = min(range(len(history)), key=lambda e: self._rank(history[e]))
                    bar.set_postfix({"loss": f"{entry['val_loss']:.3f}", **_short("H", entry["entropy"])})
                    bar.update()
                    since = sum(later["in_band"] for later in history[best_epoch + 1 :])
                    if history[best_epoch]["in_band"] and since >= config.patience:
                        break
        finally:
            # Also after Ctrl-C: the best weights so far, and the modes as they were.
            predictor.load_state_dict(kept[best_epoch] if kept else before)
            predictor.train(training)
            for parameter, needed in frozen_before.items():
                parameter.requires_grad_(needed)
                parameter.grad = None
        stopped = len(history) < config.epochs
        return FitResult(history, best_epoch, stopped, self.table_seconds, time.perf_counter() - start)

    def _rank(self, entry: dict[str, Any]) -> float:
        """The held-out objective at the latest λ, plus a nat for every nat outside the entropy bands; lower is better."""
        bonus = sum(self.controller.settled_weight(name) * h for name, h in entry["val_entropy"].items())
        return entry["val_loss"] - bonus + (0.0 if entry["in_band"] else entry["outside"])

    def _epoch(self, optimizer, schedule, generator: torch.Generator) -> dict[str, Any]:
        order = torch.randperm(len(self.train), generator=generator, device=self.device)
        total, entropies, seen = 0.0, {}, 0
        for index in order.split(self.config.batch_size):
            copies, rows = self.copies[index], None if self.table is None else self.table[index]
            if self.crop_only and self.crop.flips:
                copies, rows = self._mirrored(copies, rows, generator)
            distribution = self._distribution(copies)
            value = self._objective(distribution, index, rows, generator)
            entropy = distribution.entropies()
            optimizer.zero_grad(set_to_none=True)
            (value - self.controller.penalty(entropy)).mean().backward()
            optimizer.step()
            schedule.step()
            self.controller.step(entropy)
            total, seen = total + value.detach().sum().item(), seen + len(index)
            for name, h in summarise(entropy).items():
                entropies[name] = entropies.get(name, 0.0) + h * len(index)
        self.controller.epoch_end()
        if not math.isfinite(total):
            raise InstaAugError(
                "loss: not finite on train_data; look at the classifier's outputs, or lower FitConfig.lr"
            )
        entropies = {name: h / seen for name, h in entropies.items()}
        outside = sum(abs(self.controller.violation(name, h)) for name, h in entropies.items())
        return {
            "loss": total / seen,
            **self._validate(),
            "entropy": entropies,
            "weight": {name: self.controller.weight(name) for name in entropies},
            "outside": outside,
            "in_band": outside < IN_BAND,
        }

    def _mirrored(self, copies: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Half of the images mirrored. With mirrored anchors their losses are in the table already, exactly."""
        chosen = torch.rand(len(copies), generator=generator, device=self.device) < 0.5
        mirrored = rows[:, self.crop.mirror_index().to(self.device)]
        return torch.where(chosen[:, None, None, None], copies.flip(-1), copies), torch.where(
            chosen[:, None], mirrored, rows
        )

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
        # Stratified views are distributed as samples are, one by one, and their mean is quieter.
        params = distribution.stratified(n, generator)
        losses = self._losses(params, self.train, index.cpu()).unflatten(0, (n, len(index)))
        value = losses.mean(0)
        for name, part in distribution.parts.items():
            if part.has_rsample:
                continue
            # The score function, with what the table already says of that anchor as control variate: its own
            # expectation is added back exactly. A family without a table has the batch's mean loss in its place.
            known = rows.gather(1, params.anchor.T).T if name == "crop" else losses.detach().mean()
            score = (losses.detach() - known) * part.log_prob(params.detach())
            value = value + _only_gradient(score.mean(0))
        return value if expected is None else value + _only_gradient(expected)

    def _losses(self, params, data: LabelledImages, index: Tensor) -> Tensor:
        """Losses ``(n·B,)`` of ``(n, B)`` parameters, view-major."""
        n = params.batch_shape[0]
        images, targets = data.batch(index, self.device)
        views = self.aug.apply(images.repeat(n, 1, 1, 1), params.flatten())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            outputs = self.classifier(views)
        return self.loss(outputs, targets.repeat(n, *[1] * (targets.ndim - 1)))

    @torch.no_grad()
    def _validate(self) -> dict[str, Any]:
        """The held-out expected loss and entropies; the same noise at every epoch."""
        n, loss = self.config.val_views, 0.0
        entropies: dict[str, float] = {}
        generator = torch.Generator(device=self.device).manual_seed(self.config.seed)
        for index in torch.arange(len(self.val)).split(self.config.table_batch_size):
            distribution = self._distribution(self.val_copies[index])
            if self.val_table is not None:
                row = self.val_table[index.to(self.device)]
                losses = (distribution.parts["crop"].anchors.probs * row).sum(-1)
                if self.config.objective == "aggregation":
                    losses = -torch.logsumexp(distribution.parts["crop"].anchors.logits - row, dim=-1)
            else:
                params = distribution.stratified(n, generator)
                losses = self._losses(params, self.val, index).unflatten(0, (n, len(index))).mean(0)
            loss += losses.sum().item() / len(self.val)
            for name, h in distribution.entropies().items():
                entropies[name] = entropies.get(name, 0.0) + h.sum().item() / len(self.val)
        return {"val_loss": loss, "val_entropy": entropies}


def _only_gradient(term: Tensor) -> Tensor:
    """Zero, with the gradient of ``term``: estimator terms must not change the loss that is reported."""
    return term - term.detach()


def _short(label: str, values: Mapping[str, float]) -> dict[str, str]:
    return {f"{label}_{name}": f"{value:.2f}" for name, value in values.items()}
