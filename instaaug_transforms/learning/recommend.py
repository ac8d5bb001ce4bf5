"""`recommend`: whether a transform that is fitted already pays on somebody's images, and in which setting."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..engine.alike import grouped_if_alike
from ..engine.data import load
from ..engine.nuisance import Step
from ..families import CandidateProduct
from ..tta.arms import with_extras
from ..utils.describe import model_sha256
from ..utils.errors import InstaAugError
from ..utils.outputs import check_module
from .answers import can_average, check_answers
from .config import FitConfig
from .harmless import compare
from .losses import PerViewLoss, cross_entropy
from .prepared import prepare
from .put_right import PutRight
from .report import HeldOutReport
from .report_by_views import report_by_views
from .scores import kept_as, scores_of
from .task import Task
from .watch import warn_about_labels


def recommend(
    aug: LearnedAugment,
    classifier: nn.Module,
    data: Any,
    config: FitConfig | None = None,
    *,
    loss: PerViewLoss | str = cross_entropy,
    nuisance: Step | Sequence[Step] | None = None,
    labels: bool | None = None,
    groups: Sequence[Any] | None = None,
    workdir: str | os.PathLike | None = None,
) -> HeldOutReport:
    """Compare one view, views that are the same for every image, and the views of ``aug`` as it is, on all of ``data``.

    Nothing is fitted: pretrained weights, say, meet a classifier and images of yours. ``aug`` remembers what won, so that
    `TTAModel.recommended` applies it.

    Args:
        aug: a fitted transform; its weights stay as they are.
        classifier: images in [0, 1] to outputs.
        data: images that neither it nor ``aug`` was trained on, as `fit` takes them; with fewer than some hundred, chance decides.
        config: of a fit: ``amp``, ``table_batch_size``, ``nuisance_probability``, ``nuisance_draws``, ``seed`` and ``progress`` count.
        loss, nuisance, labels: as in `fit`: without labels, or with a nuisance, the classifier's own answers on the images as they
            were are the target.
        groups: a name per image, the same for images that are much alike; each group counts as one image. By default
            as in `fit`.
        workdir: keeps what the classifier said of the views, to go on from.

    Raises:
        InstaAugError: unusable data, answers or labels, or outputs of which no averages can be judged.
    """
    config = FitConfig.of(config)
    aug = check_aug(aug)
    check_module(classifier)
    held = load(data, "data", channels=aug.in_channels)
    held = grouped_if_alike(held) if groups is None else held.grouped(groups)
    held = held.without_targets() if labels is False else held
    tabled = len(aug.anchor_families) == len(aug.families)
    task = Task.of(aug, classifier, loss, config, nuisance, labels, held, sampled=not tabled)
    with torch.no_grad(), task.at_work(workdir, held) as rows:
        if task.by_classes:
            check_answers(task, {"data": held})
        elif not can_average(task, held):
            raise InstaAugError(
                "classifier: its outputs are maps, or not one tensor of numbers, which no average of views serves"
            )
        if tabled:
            candidates = with_extras(aug, CandidateProduct(aug.anchor_families, config.max_columns).candidates())
            prepared = prepare(task, held, "val_table", candidates, rows, logits=kept_as(task.loss))
            put_right = PutRight(task, candidates, rows)
            scores = scores_of(prepared, task.loss)
            warn_about_labels(scores)
            report = compare(aug, prepared, scores, candidates, put_right=put_right)
        else:
            report = report_by_views(task, held)
    aug.recommended["model"] = model_sha256(classifier)
    report.notes.extend(task.what_was_not_asked(report, fitted=False))
    return report
