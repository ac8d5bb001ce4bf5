"""Scores of views, and of averages of them, on held-out images: by the labels of a classifier, or by a loss of one's own."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tta.aggregation import log_mean
from ..tta.arms import greedy
from ..utils.stats import is_guessing
from .losses import PerViewLoss, cross_entropy, own_answers
from .prepared import Prepared
from .report import HeldOutArm

CHUNK = 256
# Temperatures of a view. Where all of some images are right none is too low for them; far above, differences between classes are lost in rounding.
LOWEST, HIGHEST = 0.25, 100.0
SMALL = 0.01  # of what the model's own outputs would lose if they were the same for all images: no matter


class Scores:
    """Outputs of every view of the held-out copies, and how averages of them are judged.

    Args:
        held: what `prepare` made, with outputs.

    Attributes:
        aggregate: of `TTAModel`, where views weigh the same.
        weighs: whether views may weigh what φ's probability of them is.
        labelled: whether the targets are the user's.
        losses: ``(R, V)`` of each view alone.
        view_temperature: of `TTAModel`, where views are averaged as probabilities.
        tolerated, nll_tells: see `HeldOutArm`.
    """

    aggregate = "mean_prob"
    weighs = True
    tolerated, nll_tells = 0.0, True
    view_temperature = 1.0
    losses: Tensor

    def __init__(self, held: Prepared) -> None:
        self.held, self.n = held, len(held)
        self.labelled = held.images.targets is not None

    def calibrated(self, views: Tensor) -> "Scores":
        """The same at the temperature that views ``(R,)``, one of each copy, need; as it is where the model's own answers are the target, or
        nothing is a probability."""
        return self

    def at(self, view_temperature: float) -> "Scores":
        """The same at another temperature; as it is where nothing is a probability."""
        return self

    def every(self, what: Callable[[Tensor], Tensor]) -> Tensor:
        """``what`` of some copies ``(B,)``, for all of them ``(R, …)``, part by part."""
        return torch.cat([what(rows) for rows in torch.arange(self.n).split(CHUNK)])

    def outputs(self, rows: Tensor) -> Tensor:
        """``(B, V, …)`` of copies ``(B,)``, on the CPU."""
        return self.held.take("logits", rows).cpu().float()

    def setting(self, **arguments: Any) -> dict[str, Any]:
        """Arguments of a `TTAModel` whose views weigh the same, unless they say otherwise, as JSON values."""
        usual = {} if self.aggregate == "mean_prob" else {"aggregate": self.aggregate}
        if arguments["n_views"] > 1 and self.view_temperature != 1:
            usual["temperature"] = self.view_temperature
        return usual | arguments

    def average(self, views: Tensor, weights: Tensor | None = None) -> Tensor:
        """What averages of views ``(R, K)`` answer, ``(R, …)``; log-weights ``(R, K)``, equal by default."""
        raise NotImplementedError

    def average_loss(self, views: Tensor, weights: Tensor | None = None) -> float:
        """Mean loss of what `average` gives."""
        raise NotImplementedError

    def search(self, rows: Tensor, k: int, columns: int | None = None) -> list[int]:
        """``k`` of the first ``columns``, each the one that lowers the loss of the average most, given those before it."""
        raise NotImplementedError

    def searched(self, order: Tensor, most: int, columns: int | None = None) -> tuple[Tensor, list[int]]:
        """Fixed views ``(R, most)``, for each half of the images those searched on the other half; and those searched on all.

        What was searched on the images it is scored on looks better than it is.

        Args:
            order: of the copies ``(R,)``, all of an image, and of a group, together; its first and its second half are the halves, up to the
                end of a group.
            most: views to choose.
            columns: of the views, the first that may be chosen.
        """
        middle = len(order) // self.held.draws // 2 * self.held.draws
        if (groups := self.held.images.groups) is not None:
            of = groups[order // self.held.draws]
            starts = (of[1:] != of[:-1]).nonzero()[:, 0] + 1
            middle = int(starts[(starts - middle).abs().argmin()]) if len(starts) else middle
        halves = order[:middle], order[middle:]
        views = torch.zeros(self.n, most, dtype=torch.long)
        for half, other in (halves, halves[::-1]):
            views[half] = torch.tensor(self.search(other if len(other) else order, most, columns))
        return views, self.search(torch.arange(self.n), most, columns)

    def arm(
        self, name: str, k: int, cost: float, averaged: Tensor, setting: dict[str, Any] | None = None
    ) -> HeldOutArm:
        """What an arm answers, scored."""
        correct, losses = self.score(averaged)
        # Copies of one image are no independent witnesses.
        undisturbed = {}
        if self.held.undisturbed is not None:
            left = self.held.undisturbed.unflatten(0, (-1, self.held.draws))
            as_deployed = self.as_deployed(averaged, losses).unflatten(0, (-1, self.held.draws))
            undisturbed["undisturbed_nll"] = ((as_deployed * left).sum(1) / left.sum(1)).numpy()
        if correct is not None:
            if self.held.undisturbed is not None:
                for which, values in (("undisturbed", correct.float()), ("believed", self.believed(averaged))):
                    if values is not None:
                        as_it_was = values.unflatten(0, (-1, self.held.draws)) * left
                        undisturbed[which] = (as_it_was.sum(1) / left.sum(1)).numpy()
            correct = (self.held.per_image(correct.float()) if self.held.draws > 1 else correct).numpy()
        figures = {"correct": correct, "nll": self.held.per_image(losses).numpy(), **undisturbed}
        groups = self.held.images.groups
        figures = {name: values if values is None else by_group(values, groups) for name, values in figures.items()}
        figures |= {"tolerated": self.tolerated, "nll_tells": self.nll_tells}
        return HeldOutArm(name, k, cost, setting=setting, **figures)

    def score(self, averaged: Tensor) -> tuple[Tensor | None, Tensor]:
        """Which answers ``(R, …)`` are right, where that can be said, and their losses, ``(R,)`` each."""
        raise NotImplementedError

    def as_deployed(self, averaged: Tensor, losses: Tensor) -> Tensor:
        """Losses ``(R,)`` of the answers as a `TTAModel` gives them; ``losses`` are what `score` gave."""
        return losses

    def believed(self, averaged: Tensor) -> Tensor | None:
        """How probable the model finds each answer ``(R,)``, of the image as it was, where its own answers are the target."""
        return None

    @property
    def of_images(self) -> np.ndarray | None:
        """``(N,)`` the class of every image, or of every group of images; None where the targets are no classes, or groups have several."""
        return None

    def doubt(self) -> tuple[str, float | None] | None:
        """Why labels may be those of something else: answers on the images as they are do worse than guessing. And the NLL of guessing,
        where they are right no more often either."""
        return None


class ClassScores(Scores):
    """Probabilities of classes, averaged; judged by the cross-entropy after one temperature, and by which are right.

    `calibrated`, they are averaged at the temperature that one view needs: a classifier that is three times too sure has the same averages
    as one that is right about how sure it is.

    Args:
        held: what `prepare` made, with outputs.
        view_temperature: by which logits of views are divided before they are averaged.
    """

    def __init__(self, held: Prepared, view_temperature: float = 1.0) -> None:
        super().__init__(held)
        targets = held.images.targets
        plain = held.rows["plain"].tensor().float()
        # Without labels: the classifier's own answers on the images as they were.
        answers = plain.softmax(-1)
        soft = answers if targets is None else targets if targets.ndim == 2 else None
        images = torch.arange(self.n) // held.draws
        self.right = (targets if soft is None else soft.argmax(-1))[images]
        self.classes, self.hard = answers.shape[-1], soft is None
        self.target = F.one_hot(self.right, self.classes).float() if self.hard else soft[images]
        self.view_temperature = view_temperature

    def calibrated(self, views: Tensor) -> "ClassScores":
        found = self.view_temperature * self.temperature(self.average(views[:, None])) if self.labelled else 1.0
        return self.at(float(f"{min(max(found, LOWEST), HIGHEST):.3g}"))

    def at(self, view_temperature: float) -> "ClassScores":
        return ClassScores(self.held, view_temperature)

    def log_p(self, rows: Tensor, views: Tensor) -> Tensor:
        """Log-probabilities ``(B, K, C)`` of views ``(B, K)`` of copies ``(B,)``."""
        logits = self.held.take("logits", rows).cpu()
        chosen = logits.gather(1, views[:, :, None].expand(-1, -1, self.classes))
        return (chosen.float() / self.view_temperature).log_softmax(-1)

    def outputs(self, rows: Tensor) -> Tensor:
        return super().outputs(rows) / self.view_temperature

    @cached_property
    def losses(self) -> Tensor:
        """``(R, V)``: −log of the probability of the target, soft targets by cross-entropy."""
        target = self.target[:, None]
        return self.every(lambda rows: -(self.outputs(rows).log_softmax(-1) * target[rows]).sum(-1))

    def most_confident(self, columns: int) -> Tensor:
        """``(R, 1)``: of the first ``columns`` views, the one with the highest probability of any class."""
        return self.every(lambda rows: self.outputs(rows)[:, :columns].log_softmax(-1).amax(-1).argmax(1, keepdim=True))

    def average(self, views: Tensor, weights: Tensor | None = None) -> Tensor:
        """Log of the weighted mean probability, ``(R, C)``, at the temperature of one view."""
        weights = None if weights is None else weights[..., None]
        return self.every(
            lambda rows: log_mean(self.log_p(rows, views[rows]), 1, None if weights is None else weights[rows])
        )

    def average_loss(self, views: Tensor, weights: Tensor | None = None) -> float:
        if not self.hard:
            return -self.held.mean((self.average(views, weights) * self.target).sum(-1)).item()
        return -self.held.mean(log_mean(-self.losses.gather(1, views), 1, weights)).item()

    def search(self, rows: Tensor, k: int, columns: int | None = None) -> list[int]:
        return greedy(self.losses[rows, :columns], k, weights=self.held.weight(rows))

    def temperature(self, averaged: Tensor) -> float:
        """What answers ``(R, C)`` are to be divided by, so that their cross-entropy is lowest."""
        from ..tta.calibration import best_temperature  # SciPy, which takes a while to import

        return best_temperature(averaged, self.target, self.held.weights)

    @property
    def of_images(self) -> np.ndarray | None:
        right, groups = self.right[:: self.held.draws].numpy(), self.held.images.groups
        if groups is None:
            return right
        _, first, place = np.unique(groups.numpy(), return_index=True, return_inverse=True)
        return right[first] if (right[first][place] == right).all() else None

    @cached_property
    def nll_tells(self) -> bool:
        return self.doubt() is None

    def doubt(self) -> tuple[str, float | None] | None:
        plain, right = self.held.rows["plain"].tensor().float(), self.right[:: self.held.draws]
        n, guess = len(plain), math.log(self.classes)
        loss, share = cross_entropy(plain, right).mean().item(), (plain.argmax(1) == right).float().mean().item()
        if not self.labelled or loss <= guess:
            return None
        worse = (
            f"labels: the held-out loss, {loss:.2f} nats, is above ln {self.classes} = {guess:.2f}, that of guessing"
        )
        if is_guessing(share, self.classes, n):
            return (
                f"{worse}: the labels do not match the classifier's classes, or it knows next to nothing of these images as they are. Check "
                "the labels' order, or the class map",
                guess,
            )
        return (
            f"{worse}, though {100 * share:.0f} % are right: the classifier is sure of wrong answers. These images are unlike "
            "those it was trained on, or some labels do not match its classes: check the class map"
        ), None

    def as_deployed(self, averaged: Tensor, losses: Tensor) -> Tensor:
        return self.cross_entropy(self.view_temperature * averaged)

    def believed(self, averaged: Tensor) -> Tensor | None:
        return None if self.labelled else self.target.gather(-1, averaged.argmax(-1, keepdim=True))[:, 0]

    def cross_entropy(self, averaged: Tensor) -> Tensor:
        """``(R,)`` of answers ``(R, C)``."""
        return -(averaged.log_softmax(-1) * self.target).sum(-1)

    def score(self, averaged: Tensor) -> tuple[Tensor | None, Tensor]:
        nll = self.cross_entropy(averaged / self.temperature(averaged))
        return averaged.argmax(-1) == self.right, nll


class OutputScores(Scores):
    """Outputs of any shape, averaged as they are; judged by the loss of the average.

    Args:
        held: as above.
        loss: outputs and targets to per-view losses.
    """

    aggregate = "mean_logit"
    weighs = False

    def __init__(self, held: Prepared, loss: PerViewLoss) -> None:
        super().__init__(held)
        targets = held.images.targets
        if targets is None:
            plain = held.rows["plain"].tensor().float()
            targets = own_answers(loss)(plain)
            same = loss(plain.mean(0, keepdim=True).expand_as(plain), targets) - loss(plain, targets)
            self.tolerated = SMALL * same.mean().item()
        self.loss, self.target = loss, targets.cpu()[torch.arange(self.n) // held.draws]

    def judge(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Losses ``(B,)`` of outputs ``(B, …)`` for copies ``(B,)``."""
        device = self.held.device  # where the loss may have weights of its own
        return self.loss(outputs.to(device), self.target[rows].to(device)).detach().float().cpu()

    @cached_property
    def losses(self) -> Tensor:
        return self.every(
            lambda rows: torch.stack([self.judge(outputs, rows) for outputs in self.outputs(rows).unbind(1)], 1)
        )

    def average(self, views: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.every(lambda rows: self.outputs(rows)[torch.arange(len(rows))[:, None], views[rows]].mean(1))

    def average_loss(self, views: Tensor, weights: Tensor | None = None) -> float:
        return self.held.mean(self.score(self.average(views))[1]).item()

    def search(self, rows: Tensor, k: int, columns: int | None = None) -> list[int]:
        parts = rows.split(CHUNK)
        sums: list[Tensor | float] = [0.0] * len(parts)
        chosen: list[int] = []
        for n in range(1, k + 1):
            score: Tensor | float = 0.0
            for part, total in zip(parts, sums, strict=True):
                every = self.outputs(part)[:, :columns].unbind(1)
                weights = self.held.weight(part)
                score = score + torch.stack([(weights * self.judge((total + one) / n, part)).sum() for one in every])
            chosen.append(int(score.argmin()))
            sums = [total + self.outputs(part)[:, chosen[-1]] for part, total in zip(parts, sums, strict=True)]
        return chosen

    def score(self, averaged: Tensor) -> tuple[Tensor | None, Tensor]:
        return None, self.every(lambda rows: self.judge(averaged[rows], rows))


def by_group(values: np.ndarray, groups: Tensor | None) -> np.ndarray:
    """Means ``(G,)`` of values ``(N,)`` of images, those that are known, of each group; as they are without groups."""
    if groups is None:
        return values
    place = groups.unique(return_inverse=True)[1].numpy()
    known = np.isfinite(values.astype(float))
    count = np.bincount(place, known)
    return np.divide(
        np.bincount(place, np.where(known, values, 0.0)), count, out=np.full(len(count), np.nan), where=count > 0
    )


def kept_as(loss: PerViewLoss) -> torch.dtype:
    """What outputs are kept as to be scored: logits in half precision, numbers of other kinds as they are."""
    return torch.float16 if loss is cross_entropy else torch.float32


def scores_of(held: Prepared, loss: PerViewLoss) -> Scores:
    """How averages are judged where ``loss`` was fitted to."""
    return ClassScores(held) if loss is cross_entropy else OutputScores(held, loss)
