"""`recommend`: whether a transform that is fitted already pays on somebody's images, and in which setting."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..augment import LearnedAugment
from ..engine.data import StreamedImages, load
from ..engine.nuisance import Nuisance, Step
from ..engine.rows import rows_in
from ..families import CandidateProduct
from ..tta.arms import with_extras
from ..tta.views import normalizing
from ..utils.describe import model_sha256
from ..utils.errors import InstaAugError
from ..utils.modes import frozen
from ..utils.outputs import check_module
from .answers import can_average, check_answers
from .config import FitConfig
from .fit import RIGHT_BY_DEFINITION, fits_to_own_answers, without_jitter
from .harmless import compare
from .losses import PerViewLoss, cross_entropy, find_loss, own_answers
from .prepared import prepare
from .put_right import PutRight
from .report import HeldOutReport
from .report_by_views import report_by_views
from .scores import kept_as, scores_of
from .watch import warn_about_look, warn_about_normalization


def recommend(
    aug: LearnedAugment,
    classifier: nn.Module,
    data: Any,
    config: FitConfig | None = None,
    *,
    loss: PerViewLoss | str = cross_entropy,
    nuisance: Step | Sequence[Step] | None = None,
    labels: bool | None = None,
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
        workdir: keeps what the classifier said of the views, to go on from.

    Raises:
        InstaAugError: unusable data, answers or labels, or outputs of which no averages can be judged.
    """
    config, loss = config or FitConfig(), find_loss(loss)
    check_module(classifier)
    given, classifier = classifier, normalizing(aug, classifier)
    held = load(data, "data", progress=config.progress, channels=aug.in_channels)
    held = held.without_targets() if labels is False else held
    own = own_answers(loss) if fits_to_own_answers(labels, nuisance, held) else None
    tabled = len(aug.anchor_families) == len(aug.families)
    if not tabled and (nuisance is not None or own is not None):
        what = "nuisance: disturbed images" if nuisance is not None else "data: images without labels"
        raise InstaAugError(f"{what} are looked at through a table; use families of candidates (crop, turn, light, …)")
    undo = None if nuisance is None else Nuisance(nuisance, config.nuisance_probability, config.seed)
    warn_about_normalization(classifier)
    warn_about_look(aug, held)
    folder = None if workdir is None else Path(workdir)
    streamed = isinstance(held, StreamedImages)
    with torch.no_grad(), without_jitter(aug), frozen(classifier), rows_in(folder, streamed and tabled) as rows:
        if loss is cross_entropy:
            check_answers(aug, classifier, {"data": held})
        elif not can_average(aug, classifier, loss, held, own is not None):
            raise InstaAugError(
                "classifier: its outputs are maps, or not one tensor of numbers, which no average of views serves"
            )
        if tabled:
            candidates = with_extras(aug, CandidateProduct(aug.anchor_families, config.max_columns).candidates())
            shared = (aug, classifier, loss, config)
            prepared = prepare(held, None, "val_table", *shared, candidates, undo, own, rows, logits=kept_as(loss))
            put_right = PutRight(*shared, undo, candidates, rows)
            report = compare(aug, prepared, scores_of(prepared, loss), candidates, put_right=put_right)
        else:
            report = report_by_views(aug, classifier, held, loss, config)
    aug.recommended["model"] = model_sha256(given)
    if own is not None and undo is None:
        report.notes.append(RIGHT_BY_DEFINITION)
    return report
