"""Train a classifier and its augmentation together: the loop that `joint_training.py` and `gpu_tinyimagenet.py` share."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import _training
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.data import LabelledImages
from instaaug_transforms.tta import paired_interval
from instaaug_transforms.tta.classification import aggregate

# What each arm is; "random crop" is not learned, "none" is nothing at all.
ARMS = {
    "none": None,
    "random crop": None,
    "without input": {"families": "crop", "predictor": "global"},
    "ours": {"families": "crop"},
    "mean-field": {"families": "mean_field_crop"},
    "class-specific": {"families": "crop", "predictor": "class"},
    "augerino": {"families": ("rotate", "translate", "scale", "shear"), "predictor": "symmetric"},
    "fixed weight": {"families": "crop", "weight_rate": 0.0},
}
GLOBAL_RATE = 10.0  # free numbers move slower than a network's outputs at the same rate


@dataclass(frozen=True)
class Settings:
    """What every arm has in common."""

    epochs: int = 10
    plain_epochs: int = 1  # without augmentation, at the beginning
    batch_size: int = 100
    lr: float = 0.1
    weight_decay: float = 1e-4
    predictor_lr: float = 3e-4  # a φ that outruns λ settles on one crop before entropy can stop it
    band: tuple[float, float] | None = None  # nats, of the crop's entropy
    initial_weight: float = 0.1
    weight_rate: float = 0.03  # of log λ per step: short runs have few steps to find λ in
    lookahead: float = 50.0  # steps; 0 where entropy is noisy and epochs are short
    estimator: str = "rloo"
    table: str = "paper_64px"
    area: tuple[float, float] = (0.1, 1.0)  # of the random crop
    views: int = 10  # at test time
    amp: bool = False
    save_seconds: float = 300.0


class RandomCrop:
    """RandomResizedCrop through this package's own resample, so that arms differ in the choice of boxes alone."""

    def __init__(self, area: tuple[float, float]) -> None:
        self.area, self.aug = area, ia.LearnedAugment(["crop"])

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(len(images), generator=generator, device=generator.device)
            return (low + (high - low) * drawn).to(images.device)

        area, ratio = uniform(*self.area), torch.exp(uniform(-math.log(4 / 3), math.log(4 / 3)))
        w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        params = {"cx": w / 2 + (1 - w) * uniform(0, 1), "cy": h / 2 + (1 - h) * uniform(0, 1), "w": w, "h": h}
        return self.aug.apply(images, ia.AugmentParams(**params))


def make_aug(arm: str, settings: Settings, n_classes: int) -> tuple[ia.LearnedAugment | None, dict]:
    """The arm's transform and the arguments of its objective."""
    recipe = dict(ARMS[arm] or {})
    if not recipe:
        return None, {}
    names = recipe.pop("families")
    rate = recipe.pop("weight_rate", settings.weight_rate)
    family = Crop(settings.table) if names == "crop" else names
    families = list(family) if isinstance(family, tuple) else [family]
    if recipe.get("predictor") == "class":
        recipe["n_classes"] = n_classes
    aug = ia.LearnedAugment(families, **recipe)
    entropy = {}
    if settings.band and names == "crop":
        entropy["crop"] = tuple(nats / math.log(family.n_anchors) for nats in settings.band)
    return aug, {"entropy": entropy, "weight_rate": rate, "lookahead": settings.lookahead}


class Run:
    """One arm and seed."""

    def __init__(self, arm: str, model: nn.Module, train: LabelledImages, settings: Settings, seed: int, file: Path):
        self.arm, self.settings, self.seed, self.train_data = arm, settings, seed, train
        self.device = train.images.device
        torch.manual_seed(seed)
        self.n_classes = int(train.targets.max()) + 1
        self.aug, arguments = make_aug(arm, settings, self.n_classes)
        self.random = RandomCrop(settings.area)
        self.random.aug.to(self.device)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        # The paper's classifiers want SGD, φ wants Adam.
        sgd = {"lr": settings.lr, "momentum": 0.9, "weight_decay": settings.weight_decay, "nesterov": True}
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(self.model.parameters(), **sgd)]
        modules, self.objective = {"model": self.model}, None
        if self.aug is not None:
            self.aug.to(self.device)
            self.objective = ia.InstaAugObjective(
                self.aug, estimator=settings.estimator, initial_weight=settings.initial_weight, **arguments
            )
            if arguments["weight_rate"] == 0.0:
                self.objective.controller.boost = 0.0
            modules["objective"] = self.objective
            rate = settings.predictor_lr * (1.0 if hasattr(self.aug.predictor, "image_size") else GLOBAL_RATE)
            self.optimizers.append(torch.optim.AdamW(self.objective.parameters(), lr=rate))
        self.generator = torch.Generator(device=self.device).manual_seed(seed)
        self.checkpoint = _training.Checkpoint(file, modules, self.optimizers, self.generator)
        self.saved, self.history = time.perf_counter(), []

    def loss(self, images: Tensor, labels: Tensor, plain: bool) -> Tensor:
        """What is differentiated for one batch."""
        amp = torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp)
        flip = torch.rand(len(images), generator=self.generator, device=self.device) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)  # every arm has it
        sample = None
        if not plain and self.aug is not None:
            by_class = {"labels": labels} if self.arm == "class-specific" else {}
            images, sample = self.aug.sample(images, generator=self.generator, **by_class)
        elif not plain and self.arm == "random crop":
            images = self.random(images, self.generator)
        with amp:
            logits = self.model(images.contiguous(memory_format=torch.channels_last))
        per_view = F.cross_entropy(logits.float(), labels, reduction="none")
        return per_view.mean() if sample is None else self.objective(per_view, sample)

    def train(self, resume: bool) -> None:
        """All epochs, or those that a checkpoint leaves."""
        settings, n = self.settings, len(self.train_data)
        steps = settings.epochs * (n // settings.batch_size)
        first, notes = self.checkpoint.load() if resume else (0, None)
        self.history = notes["history"] if notes else []
        per_epoch, order, start = n // settings.batch_size, None, time.perf_counter()
        spent = notes["seconds"] if notes else 0.0
        bar = tqdm(range(first, steps), initial=first, total=steps, desc=f"{self.arm}, seed {self.seed}", disable=None)
        for step in bar:
            epoch, place = divmod(step, per_epoch)
            if order is None or place == 0:  # the order is a function of seed and epoch: a resumed run finds it again
                shuffle = torch.Generator().manual_seed(1000 * self.seed + epoch)
                order = torch.randperm(n, generator=shuffle).to(self.device)
                total, counted, inside = torch.zeros((), device=self.device), 0, 0
            for optimizer in self.optimizers:
                _training.set_rates(optimizer, _training.warmup_cosine(step, steps, steps // 20))
                optimizer.zero_grad(set_to_none=True)
            index = order[place * settings.batch_size : (place + 1) * settings.batch_size]
            loss = self.loss(*self.train_data.batch(index, self.device), epoch < settings.plain_epochs)
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            total, counted, inside = total + loss.detach(), counted + 1, inside + self.in_band()
            if place == per_epoch - 1:
                seconds = spent + time.perf_counter() - start
                self.end_epoch(epoch, (total / counted).item(), inside / counted, seconds)
                shown = (f"{k} {v:.3g}" for k, v in self.history[-1].items() if not isinstance(v, bool))
                tqdm.write(f"{self.arm}, seed {self.seed}: {', '.join(shown)}")  # a log file has no bar
            if step == steps - 1 or time.perf_counter() - self.saved > settings.save_seconds:
                seconds = spent + time.perf_counter() - start
                self.checkpoint.save(step + 1, {"history": self.history, "seconds": seconds})
                self.saved = time.perf_counter()

    def in_band(self) -> bool:
        """Whether the running mean of every family's entropy lies in its band."""
        control = getattr(self.objective, "controller", None)
        return bool(control and control.average) and not any(
            control.violation(*each) for each in control.average.items()
        )

    def end_epoch(self, epoch: int, objective: float, inside: float, seconds: float) -> None:
        """Note what the epoch did; the control of the ``paper`` mode moves here."""
        entry = {"epoch": epoch, "objective": objective, "seconds": seconds}
        if self.objective is not None and epoch >= self.settings.plain_epochs:
            self.objective.epoch_end()
            for name, entropy in self.objective.entropies.items():
                low, high = self.objective.controller.bands[name]
                entry |= {f"entropy_{name}": entropy, f"weight_{name}": self.objective.weights[name]}
                entry[f"in_band_{name}"] = low <= entropy <= high
            entry["steps_in_band"] = inside
        self.history.append(entry)

    @torch.no_grad()
    def test(self, data: LabelledImages, views: int) -> np.ndarray:
        """Which images are right, ``(N,)``: ``views`` of the arm's own augmentation averaged; 0 for the image itself."""
        self.model.eval()
        generator = torch.Generator(device=self.device).manual_seed(self.seed)
        right = []
        for index in torch.arange(len(data), device=self.device).split(256):
            images, labels = data.batch(index, self.device)
            logits = []
            for _ in range(max(views, 1)):
                shown = images
                if views and self.aug is not None and self.arm != "class-specific":
                    shown = self.aug(images, generator=generator)
                elif views and self.arm in ("random crop", "class-specific"):  # the latter as the paper tests it
                    shown = self.random(images, generator)
                logits.append(self.model(shown.contiguous(memory_format=torch.channels_last)).float())
            right.append(aggregate(torch.stack(logits), "mean_prob").argmax(-1) == labels)
        self.model.train()
        return torch.cat(right).cpu().numpy()

    def result(self, test: LabelledImages) -> dict:
        """Everything that is reported of this run."""
        views = 0 if self.arm == "none" else self.settings.views
        single, averaged = self.test(test, 0), self.test(test, views)
        return {
            "arm": self.arm,
            "seed": self.seed,
            "settings": asdict(self.settings),
            "n": len(test),
            "single": 100 * single.mean(),
            "top1": 100 * averaged.mean(),
            "views": max(views, 1),
            "history": self.history,
            "seconds": self.history[-1]["seconds"] if self.history else 0.0,
            "correct": averaged.astype(int).tolist(),
        }


def compare(runs: list[dict], against: str = "random crop") -> list[dict]:
    """Per arm: mean top-1 over seeds, and the difference to one arm with its 95 % paired bootstrap interval over images."""
    rows = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        mine = {run["seed"]: run for run in runs if run["arm"] == arm}
        theirs = {run["seed"]: run for run in runs if run["arm"] == against}
        row = {"arm": arm, "seeds": list(mine), "top1": float(np.mean([run["top1"] for run in mine.values()]))}
        shared = [seed for seed in mine if seed in theirs]
        if shared and arm != against:
            # Images are drawn again, seeds are not: one difference per image, averaged over the seeds.
            each = [np.subtract(mine[seed]["correct"], theirs[seed]["correct"]) for seed in shared]
            difference = 100 * np.mean(each, axis=0)
            row |= {"difference": float(difference.mean()), "interval": list(paired_interval(difference)[1:])}
        rows.append(row)
    return rows


def line(row: dict, n: int, against: str = "random crop") -> str:
    """One of `compare`'s rows for people."""
    said = f"{row['arm']:>15}  top-1 {row['top1']:.2f}, n = {n}, seeds {' '.join(map(str, row['seeds']))}"
    if "difference" in row:
        said += "  {:+.2f} [{:+.2f}, {:+.2f}] over {}".format(row["difference"], *row["interval"], against)
    return said
