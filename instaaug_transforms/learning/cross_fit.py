"""Cross-fitting: what φ says of images that it learned from, had it not."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..augment import LearnedAugment
from ..engine.data import Images
from ..engine.splits import folds
from ..utils.modes import evaluating
from ..utils.progress import bar
from .fitting import Fitting
from .prepared import Prepared
from .scores import CHUNK, Scores, scores_of
from .task import Task

FOLDS = 4


@dataclass(frozen=True, eq=False)
class RawSaid:
    """What φ says of copies of images, and how averages of their views are judged.

    Attributes:
        scores: of the copies.
        raw: φ's raw outputs per family, ``(R, …)``.
    """

    scores: Scores
    raw: dict[str, Tensor]

    def moved(self, raw: dict[str, Tensor]) -> "RawSaid":
        """Other outputs of some families."""
        return replace(self, raw=self.raw | raw)


@dataclass(frozen=True, eq=False)
class Said:
    """What φ says of copies of images, and how averages of their views are judged.

    Attributes:
        scores: of the copies.
        log_p: φ's log-probability of every candidate, ``(R, A)``.
    """

    scores: Scores
    log_p: Tensor


def cross_fit(task: Task, train: Prepared, val: Prepared, start: dict[str, Tensor], epochs: int) -> RawSaid:
    """Fit four times more, each time without a quarter of the images, and ask that φ about these.

    Where few images are held out, they say for certain only what is large. The others say more, but not of a φ that learned from them. All
    four fits begin as the one did that was chosen, and go on for as many epochs; the transform's own φ stays as it is.

    Args:
        task: of the fit that was chosen.
        train: with outputs; images, or groups of them, that `can_be_parted`.
        val: the held-out images.
        start: weights of φ before the fit.
        epochs: after which that fit's φ was kept.
    """
    predictor = task.aug.predictor
    fitted, raw = copy.deepcopy(predictor.state_dict()), dict[str, Tensor]()
    quiet = replace(task, config=replace(task.config, progress=False))
    try:
        with bar(total=FOLDS, desc="cross-fit", unit="fit", progress=task.config.progress) as shown:
            for fold, others in folds(train.images, FOLDS, task.config.seed):
                predictor.load_state_dict(start)
                Fitting(quiet, train.part(others), val, until=epochs).run()
                rows = train.copies(fold)
                for name, value in raw_outputs(task.aug, train, rows).items():
                    raw.setdefault(name, value.new_zeros(len(train), *value.shape[1:]))[rows] = value
                shown.update()
    finally:
        predictor.load_state_dict(fitted)
    return RawSaid(scores_of(train, task.loss), raw)


def can_be_parted(images: Images) -> bool:
    """Whether there is one image, or group, for each of the four fits to do without."""
    return len(images if images.groups is None else images.groups.unique()) >= FOLDS


@torch.no_grad()
def raw_outputs(aug: LearnedAugment, data: Prepared, rows: Tensor | None = None) -> dict[str, Tensor]:
    """What φ says of copies, all or some of them, ``(R, …)`` per family."""
    rows = torch.arange(len(data)) if rows is None else rows
    with evaluating(aug.predictor):
        parts = [aug.predictor.decode(*data.seen(some)) for some in rows.split(CHUNK)]
    return {name: torch.cat([raw[name] for raw in parts]) for name in parts[0]}
