"""Do no harm: how far the image may move φ, and which views to average, by held-out images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..augment import LearnedAugment
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..tta.arms import greedy
from .arms import MOST_ROWS, N_VIEWS, rivals, table_of
from .cross_fit import RawSaid, Said, raw_outputs
from .our_arms import ours
from .prepared import Prepared
from .put_right import PutRight
from .recommendation import conclude
from .report import HeldOutReport
from .scores import Scores
from .strength import leave_alone, log_p_of, mean_loss, said_of, shrink


@torch.no_grad()
def average_loss(aug: LearnedAugment, held: Prepared, order: list[int], scores: Scores | None) -> float:
    """Loss of averages of learned views on held-out images, a mean over K: what fits are chosen by.

    Args:
        aug: the fitted transform.
        held: held-out copies.
        order: what `policy_order` gave.
        scores: of ``held``; None where only losses of single views are known.
    """
    log_p = joint(aug, held)
    if scores is None:
        return -held.mean(torch.logsumexp(log_p - table_of(held), 1)).item()
    return mean_loss([Said(scores.calibrated(log_p.argmax(1)), log_p)], order)


def policy_order(train: Prepared, likelihoods: bool = True) -> list[int]:
    """The views that are best for all images alike.

    Args:
        train: with a table.
        likelihoods: whether exp(−loss) is a probability, of which averages are made: then each view is the one that adds
            most to the average of those before it. Else they come by their mean losses.
    """
    step = max(1, len(train) // MOST_ROWS)
    # Of an image all copies or none: of every fourth row of four turns all would be upright.
    rows = train.copies(torch.arange(len(train.images))[::step])
    losses, weights = table_of(train, rows), train.weight(rows)
    most = min(max(N_VIEWS), losses.shape[1])
    if likelihoods:
        return greedy(losses, most, again=False, weights=weights)
    return (weights[:, None] * losses).mean(0).argsort()[:most].tolist()


@torch.no_grad()
def do_no_harm(
    aug: LearnedAugment,
    held: Prepared,
    scores: Scores,
    candidates: AugmentParams,
    order: list[int],
    train: Prepared | None = None,
    put_right: PutRight | None = None,
    more: RawSaid | None = None,
) -> HeldOutReport:
    """Shrink φ as far as held-out images ask for, make it as cautious as they allow, and compare; ``aug`` is changed in place.

    Args:
        aug: the fitted transform.
        held: with the outputs of every candidate.
        scores: of ``held``.
        candidates: ``(V,)`` parameters, the transform's own first.
        order: what `policy_order` gave.
        train: what φ learned from, where its table holds losses of the labels.
        put_right: looks at fixed views of what φ has put right.
        more: the same images, cross-fitted, where they are few.
    """
    known = _calibrated(aug, [RawSaid(scores, raw_outputs(aug, held)), *([more] if more else [])])
    shrink(aug, known, order)
    leave_alone(aug, known)
    return compare(aug, held, scores, candidates, order, train, put_right, more)


@torch.no_grad()
def compare(
    aug: LearnedAugment,
    held: Prepared,
    scores: Scores,
    candidates: AugmentParams,
    order: Sequence[int] = (),
    train: Prepared | None = None,
    put_right: PutRight | None = None,
    more: RawSaid | None = None,
) -> HeldOutReport:
    """Arms on held-out images, and which of them to use, which ``aug`` remembers; the arguments are those of `do_no_harm`."""
    known = _calibrated(aug, [RawSaid(scores, raw_outputs(aug, held)), *([more] if more else [])])
    scores = known[0].scores
    said, order = said_of(aug, known), list(order)
    look = isinstance(aug.predictor, FeaturesPredictor)
    arms = rivals(scores, said[0].log_p, candidates, order, known[1].scores if more else train)
    arms += ours(said, look, order, put_right)
    report = conclude(arms, len(arms[0].nll), scores.labelled, _classes(known), scores.doubt())
    aug.recommended = report.to_json()
    return report


def _calibrated(aug: LearnedAugment, known: Sequence[RawSaid]) -> list[RawSaid]:
    """The same, views averaged at the temperature that φ's likeliest ones need on held-out images: of an image that is put right, not of one
    that a nuisance makes the classifier surely wrong about."""
    at = known[0].scores.calibrated(log_p_of(aug, known[0].raw).argmax(1)).view_temperature
    return [replace(each, scores=each.scores.at(at)) for each in known]


def joint(aug: LearnedAugment, held: Prepared) -> Tensor:
    """φ's log-probability of every combination of candidates, ``(R, A)``, for the held-out copies."""
    return log_p_of(aug, raw_outputs(aug, held))


def _classes(known: Sequence[RawSaid]) -> np.ndarray | None:
    """Of the held-out images, and of the others where theirs are known too."""
    first, *more = (each.scores.of_images for each in known)
    return first if first is None or not more or more[0] is None else np.concatenate([first, *more])
