"""Classifiers under simulated lights, each with its augmentation: none, one range for all images, or learned ranges."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import _lights
import _training
import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms.learning.data import LabelledImages
from instaaug_transforms.tta.classification import aggregate

BATCH = 64


def under_lights(images: Tensor, lights: list[_lights.Light], generator: torch.Generator) -> Tensor:
    """Each image under one of the lights, at random."""
    which = torch.randint(len(lights), (len(images),), generator=generator)
    out = images.clone()
    for k, light in enumerate(lights):
        if (which == k).any():
            out[which == k] = _lights.shine(images[which == k], light)
    return out


class GlobalHSV:
    """Hue within ±h turns, saturation and value within 1 ± f, the same for every image."""

    def __init__(self, hue: float, factor: float) -> None:
        self.hue, self.factor, self.aug = hue, factor, ia.LearnedAugment(["hsv"])

    def __repr__(self) -> str:
        return f"hue ±{self.hue}, saturation and value 1 ± {self.factor}"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        u = 2 * torch.rand(3, len(images), generator=generator) - 1
        params = {"hue": self.hue * u[0], "saturation": 1 + self.factor * u[1], "value": 1 + self.factor * u[2]}
        return self.aug.apply(images, ia.AugmentParams(**params))


@dataclass(frozen=True)
class Learned:
    """What to learn: a family, by which predictor, the first λ, the entropy band per range."""

    family: str
    predictor: str
    weight: float
    band: tuple[float, float]


@dataclass
class Trained:
    """A classifier, what augments its images ``(images, generator)``, and the objective where that was learned."""

    model: nn.Module
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    objective: ia.InstaAugObjective | None = None


def train(arm: Learned | GlobalHSV | None, data: LabelledImages, lights, epochs: int, seed: int, label: str) -> Trained:
    """One classifier with its arm."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = ia.timm.wrap(timm.create_model("test_resnet", num_classes=int(data.targets.max()) + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    made = Trained(model, arm)
    if isinstance(arm, Learned):
        aug = ia.LearnedAugment([arm.family], predictor=arm.predictor, image_size=min(64, data.images.shape[-1]))
        ranges = len(aug.families[0].fields)
        entropy = {arm.family: (ranges * arm.band[0], ranges * arm.band[1])}
        # λ has few steps to settle in.
        objective = ia.InstaAugObjective(aug, entropy, initial_weight=arm.weight, weight_rate=0.01)
        made = Trained(model, lambda images, generator: aug(images, generator=generator), objective)
        rate = 3e-2 if arm.predictor == "global" else 1e-3  # free numbers move slower than a network's outputs
        optimizer.add_param_group({"params": list(objective.parameters()), "lr": rate, "weight_decay": 0.0})
    per_epoch = len(data) // BATCH
    steps = epochs * per_epoch
    order = torch.cat([torch.randperm(len(data), generator=generator)[: per_epoch * BATCH] for _ in range(epochs)])
    for step, index in enumerate(tqdm(order.split(BATCH), desc=label, disable=None, leave=False)):
        _training.set_rates(optimizer, _training.warmup_cosine(step, steps, steps // 10))
        images, labels = data.batch(index)
        images, sample = under_lights(images, lights, generator), None
        if step >= per_epoch:  # the first epoch is plain: a model that knows nothing forgives everything
            if made.objective is not None:
                images, sample = aug.sample(images, generator=generator)
            elif made.augment is not None:
                images = made.augment(images, generator)
        per_view = F.cross_entropy(model(images), labels, reduction="none")
        optimizer.zero_grad()
        (per_view.mean() if sample is None else objective(per_view, sample)).backward()
        optimizer.step()
    model.eval()
    return made


@torch.no_grad()
def predict(made: Trained, data: LabelledImages, lights: list[_lights.Light], views: int, seed: int) -> Tensor:
    """Log-probabilities ``(lights, N, classes)``, of the mean over views; of the image itself for ``views=0``."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for light in lights:
        parts = []
        for index in torch.arange(len(data)).split(256):
            images = _lights.shine(data.batch(index)[0], light)
            shown = [images]
            if views and made.augment is not None:
                shown = [made.augment(images, generator) for _ in range(views)]
            parts.append(aggregate(torch.stack([made.model(view) for view in shown]), "mean_prob"))
        rows.append(torch.cat(parts))
    return torch.stack(rows).log_softmax(-1)


def held_out_nll(made: Trained, data: LabelledImages, lights: list[_lights.Light], views: int, seed: int) -> np.ndarray:
    """Of each image, ``(N,)``, the mean over lights."""
    log_probs = predict(made, data, lights, views, seed)
    nll = F.nll_loss(log_probs.flatten(0, 1), data.targets.repeat(len(lights)), reduction="none")
    return nll.unflatten(0, (len(lights), -1)).mean(0).numpy()


def widest_within_one_error(scores: list[np.ndarray]) -> int:
    """Of candidates from narrow to wide, by their losses ``(N,)``."""
    best = min(scores, key=np.mean)
    allowed = best.mean() + best.std(ddof=1) / math.sqrt(len(best))
    return max(k for k, score in enumerate(scores) if score.mean() <= allowed)


def choose(candidates: list[Learned | GlobalHSV | None], rest: LabelledImages, held: LabelledImages, **run) -> tuple:
    """Train each candidate on ``rest``; which `Trained` to keep by ``held``, and JSON-ready reasons.

    Args:
        candidates: from narrow to wide.
        rest, held: train images apart.
        **run: ``lights``, ``epochs``, ``seed``, ``views`` and ``label``.
    """
    views, label, keys = run["views"], run["label"], ("lights", "epochs", "seed")
    settings = {key: run[key] for key in keys}
    trained = [train(arm, rest, label=f"{label}, {k}", **settings) for k, arm in enumerate(candidates)]
    scores = [held_out_nll(made, held, run["lights"], views, run["seed"]) for made in trained]
    best = widest_within_one_error(scores)
    return trained[best], {"chosen": str(candidates[best]), "held-out NLL": [float(score.mean()) for score in scores]}
