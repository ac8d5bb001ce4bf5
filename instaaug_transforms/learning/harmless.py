"""Do no harm: how far the image may move φ, and which views to average, by held-out images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..families import CandidateProduct
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..tta.arms import greedy
from ..tta.views import families_after, unchanged
from .prepared import Prepared
from .put_right import PutRight
from .recommendation import conclude
from .report import HeldOutArm, HeldOutReport
from .scores import CHUNK, ClassScores, Scores

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
N_VIEWS = (1, 2, 4, 10)
# Nats that a place in the best input-free order counts; the last gives nearly all images that order.
TILTS = (0.1, 0.5, 2.0, 8.0, 30.0)
LEAST = 20.0  # nats below which a log-probability counts no further in a mean
MOST_ROWS = 20_000  # that a search for input-free views reads


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
        return -torch.logsumexp(log_p - table_of(held)[:, : log_p.shape[1]], 1).mean().item()
    return _mean_loss(scores, log_p, order)


def policy_order(train: Prepared, likelihoods: bool = True) -> list[int]:
    """The views that are best for all images alike.

    Args:
        train: with a table.
        likelihoods: whether exp(−loss) is a probability, of which averages are made: then each view is the one that adds
            most to the average of those before it. Else they come by their mean losses.
    """
    rows = torch.arange(len(train))[:: max(1, len(train) // MOST_ROWS)]
    if train.weights is not None:  # copies that are likelier count more
        chances = train.weights.repeat(len(train.images))
        rows = chances.multinomial(len(rows), replacement=True, generator=torch.Generator().manual_seed(0))
    losses = table_of(train, rows)
    most = min(max(N_VIEWS), losses.shape[1])
    return greedy(losses, most, again=False) if likelihoods else losses.mean(0).argsort()[:most].tolist()


def table_of(data: Prepared, rows: Tensor | None = None) -> Tensor:
    """The loss table ``(R, A)``, or some of its rows."""
    rows = torch.arange(len(data)) if rows is None else rows
    return torch.cat([data.losses(part).cpu() for part in rows.split(CHUNK)])


@torch.no_grad()
def do_no_harm(
    aug: LearnedAugment,
    held: Prepared,
    scores: Scores,
    candidates: AugmentParams,
    order: list[int],
    train: Prepared | None = None,
    put_right: PutRight | None = None,
) -> HeldOutReport:
    """Shrink φ as far as held-out images ask for, and compare; ``aug`` is changed in place.

    Args:
        aug: the fitted transform.
        held: with the outputs of every candidate.
        scores: of ``held``.
        candidates: ``(V,)`` parameters, the transform's own first.
        order: what `policy_order` gave.
        train: what φ learned from, where its table holds losses of the labels.
        put_right: looks at fixed views of what φ has put right.
    """
    _shrink(aug, held, scores, order)
    return compare(aug, held, scores, candidates, order, train, put_right)


@torch.no_grad()
def compare(
    aug: LearnedAugment,
    held: Prepared,
    scores: Scores,
    candidates: AugmentParams,
    order: Sequence[int] = (),
    train: Prepared | None = None,
    put_right: PutRight | None = None,
) -> HeldOutReport:
    """Arms on held-out images, and which of them to use, which ``aug`` remembers; the arguments are those of `do_no_harm`."""
    log_p, order = joint(aug, held), list(order)
    look = isinstance(aug.predictor, FeaturesPredictor)
    arms = _arms(scores, log_p, candidates, order, train)
    ours = [_ours(scores, log_p, k, look, order) for k in _ks(log_p.shape[1])]
    if put_right is not None and put_right.fixed is not None:
        ours += _put_right(put_right, held, log_p.argmax(1), look)
    arms += [min((arm for arm in ours if arm.n_views == k), key=_nll) for k in sorted({arm.n_views for arm in ours})]
    report = conclude(arms, len(held.images), scores.labelled)
    aug.recommended = report.to_json()
    return report


def joint(aug: LearnedAugment, held: Prepared) -> Tensor:
    """φ's log-probability of every combination of candidates, ``(R, A)``, for the held-out copies."""
    predictor, product = aug.predictor, CandidateProduct(aug.anchor_families, max_columns=10**9)
    training = predictor.training
    predictor.eval()
    parts = []
    for rows in torch.arange(len(held)).split(CHUNK):
        raw = predictor.decode(*held.seen(rows))
        parts.append(product.log_p(AugmentDistribution(aug.families, raw).parts).cpu())
    predictor.train(training)
    return torch.cat(parts)


def _ks(columns: int) -> list[int]:
    return [k for k in N_VIEWS if k <= columns] or [1]


@dataclass(frozen=True)
class _Way:
    """One way of choosing and weighting views: ``(R, K)`` columns, log-weights, and the arguments of `TTAModel`."""

    views: Tensor
    weights: Tensor | None
    setting: dict[str, Any]


def _choices(log_p: Tensor, k: int, order: list[int], scores: Scores) -> list[_Way]:
    """Ways of choosing k views, with equal weights or, where they are averaged as probabilities, φ's own.

    The likeliest; the image itself and the likeliest others; or, so that the set is chosen for what its average does, the
    likeliest after log-probabilities, relative to their mean over images, have been moved by ``−tilt · place`` in the best
    input-free ``order``: a φ that says the same of every image then gives exactly that policy.
    """
    sets: list[tuple[Tensor, dict[str, Any]]] = [(log_p.topk(k, 1).indices, {"include_identity": False})]
    if k > 1:
        others = log_p.index_fill(1, torch.zeros(1, dtype=torch.long), -math.inf).topk(k - 1, 1).indices
        with_identity = torch.cat([torch.zeros(len(log_p), 1, dtype=torch.long), others], 1)
        sets.append((with_identity, {"include_identity": True}))
    place = torch.full(log_p.shape[1:], float(len(order)))
    place[order] = torch.arange(len(order), dtype=torch.float32)
    for tilt in TILTS:
        offsets = -log_p.clamp(min=-LEAST).mean(0) - tilt * place
        setting = {"include_identity": False, "view_offsets": [round(o, 4) for o in offsets.tolist()]}
        sets.append(((log_p + offsets).topk(k, 1).indices, setting))
    ways = [_Way(views, None, {"n_views": k, "aggregate": scores.aggregate, **setting}) for views, setting in sets]
    if k > 1 and scores.weighs:
        ways += [
            _Way(views, log_p.gather(1, views), {"n_views": k, "aggregate": "probability", **setting})
            for views, setting in sets
        ]
    return ways


def _mean_loss(scores: Scores, log_p: Tensor, order: list[int]) -> float:
    """Loss of the best way at each K, a mean over K."""
    ways = [_choices(log_p, k, order, scores) for k in _ks(log_p.shape[1])]
    return sum(min(scores.average_loss(way.views, way.weights) for way in some) for some in ways) / len(ways)


def _ours(scores: Scores, log_p: Tensor, k: int, look: bool, order: list[int]) -> HeldOutArm:
    """Our best way of choosing and weighting k views.

    The best of equal weights and the best of φ's own meet after their temperatures: averages of many views are shy, those
    that φ weighs are bold, and what the one or the other needs is no reason to choose it.
    """
    ways = _choices(log_p, k, order, scores)
    equal, weighted = [way for way in ways if way.weights is None], [way for way in ways if way.weights is not None]
    arms = []
    for some in filter(None, (equal, weighted)):
        best = min(some, key=lambda way: scores.average_loss(way.views, way.weights))
        # φ's look at the classifier's features is a forward of its own, and may answer for views that are the image itself.
        cost = k + look - scores.held.answered * float((best.views == 0).sum(1).float().mean())
        arms.append(scores.arm("ours", k, cost, scores.average(best.views, best.weights), best.setting))
    return min(arms, key=_nll)


def _put_right(put_right: PutRight, held: Prepared, likeliest: Tensor, look: bool) -> list[HeldOutArm]:
    """Fixed views of copies that candidates ``likeliest``, ``(R,)``, have put right, searched as the best input-free ones are."""
    scores, fixed = put_right.look(held, likeliest), put_right.fixed
    policies, everywhere = scores.searched(_in_halves(scores), max(N_VIEWS))
    acting = [*put_right.aug.families, *families_after(put_right.aug)]
    itself = held.answered * unchanged(acting, put_right.views(likeliest)).float().mean(1)  # (F,)
    arms = []
    for k in N_VIEWS:
        setting = scores.setting(n_views=k, policy=policy_of(fixed, everywhere[:k]), put_right=True)
        cost = k + look - float(itself[everywhere[:k]].sum())
        arms.append(scores.arm("ours", k, cost, scores.average(policies[:, :k]), setting))
    return arms


def _in_halves(scores: Scores) -> Tensor:
    """The copies ``(R,)`` in an order whose halves share no image."""
    draws = scores.held.draws
    images = torch.randperm(scores.n // draws, generator=torch.Generator().manual_seed(0))
    return (images[:, None] * draws + torch.arange(draws)).flatten()


def _nll(arm: HeldOutArm) -> float:
    return float(arm.nll.mean())


def _arms(
    scores: Scores,
    log_p: Tensor,
    candidates: AugmentParams,
    known: list[int],
    train: Prepared | None,
) -> list[HeldOutArm]:
    """One view, what does not look at the image, and what looks at everything; ``known`` is the order of `policy_order`."""
    n, columns = scores.n, log_p.shape[1]
    more = {} if train is None else _on_train(train, _ks(columns))
    zero = torch.zeros(n, 1, dtype=torch.long)
    setting = scores.setting(n_views=1, policy=policy_of(candidates, [0]))
    arms = [replace(scores.arm("one view", 1, 1, scores.average(zero), setting), more=more.get(0))]
    order = _in_halves(scores)
    policies, everywhere = scores.searched(order, max(N_VIEWS))
    shuffled = log_p[order.roll(scores.held.draws)][order.argsort()]
    for k in N_VIEWS:
        setting = scores.setting(n_views=k, policy=policy_of(candidates, everywhere[:k]))
        searched = scores.arm("best input-free", k, k, scores.average(policies[:, :k]), setting)
        if len(known) >= k:  # fewer views to choose from, and many times as many images to choose on
            views = torch.tensor(known[:k]).expand(n, -1)
            setting = scores.setting(n_views=k, policy=policy_of(candidates, known[:k]))
            other = scores.arm("best input-free", k, k, scores.average(views), setting)
            searched = min(searched, replace(other, more=more.get(k)), key=_nll)
        if k > columns:
            arms.append(searched)
            continue
        # Ours with another image's distribution is as strong without looking; where it is better, it is the one to beat.
        rival = scores.arm("best input-free (ours, shuffled)", k, k, scores.average(shuffled.topk(k, 1).indices))
        better = max(searched, rival, key=_merit) is rival
        arms += [rival, searched] if better else [searched]
    if columns > 1:
        every = torch.arange(columns).expand(n, -1)
        policy = policy_of(candidates, list(range(columns)))
        setting = scores.setting(n_views=columns, policy=policy) if columns <= 16 else None
        arms.append(scores.arm("mean of all candidates", columns, columns, scores.average(every), setting))
        if isinstance(scores, ClassScores):
            confident = scores.average(scores.most_confident(columns))
            arms.append(scores.arm("most confident candidate", 1, columns, confident))
    return arms


def _merit(arm: HeldOutArm) -> tuple[float, float]:
    return 0.0 if arm.correct is None else float(arm.correct.mean()), -_nll(arm)


def _on_train(train: Prepared, ks: list[int]) -> dict[int, np.ndarray]:
    """NLL per image that φ learned from, a mean over its copies: of one view (key 0), and of the best ``k`` fixed views, searched
    on the other half of the images."""
    n, draws = len(train.images), train.draws
    images = torch.arange(n)[:: max(1, len(train) // MOST_ROWS)]
    rows = (images[:, None] * draws + torch.arange(draws)).flatten()
    losses = table_of(train, rows)
    weights = torch.ones(draws) if train.weights is None else train.weights
    halves = torch.arange(len(images)).repeat_interleave(draws) % 2
    most = min(max(ks), losses.shape[1])
    policies = [greedy(losses[halves != half], most, again=False) for half in (0, 1)] if len(images) > 1 else [[0], [0]]

    def nll(k: int) -> np.ndarray:
        parts = torch.empty(len(losses))
        for half, policy in enumerate(policies):
            mine = losses[halves == half][:, policy[:k] if k else [0]]
            parts[halves == half] = math.log(mine.shape[1]) - torch.logsumexp(-mine, 1)
        return (parts.unflatten(0, (-1, draws)) * weights).mean(1).numpy()

    return {k: nll(k) for k in (0, *ks) if k <= most}


def policy_of(candidates: AugmentParams, columns: list[int]) -> dict[str, list[float]]:
    """Some of ``(V,)`` views as `TTAModel` takes a policy."""
    return {name: field[columns].tolist() for name, field in candidates.items()}


def _shrink(aug: LearnedAugment, held: Prepared, scores: Scores, order: list[int]) -> float:
    """Move φ's logits towards their mean over images as far as held-out averages gain by it."""
    heads = getattr(aug.predictor, "heads", None)
    if heads is None or not all(hasattr(head, "shrink_") for head in heads.values()):
        return 1.0
    raw: dict[str, list[Tensor]] = {}
    aug.predictor.eval()
    for rows in torch.arange(len(held)).split(CHUNK):
        for name, value in aug.predictor.decode(*held.seen(rows)).items():
            raw.setdefault(name, []).append(value)
    every = {name: torch.cat(values) for name, values in raw.items()}
    mean = {name: value.mean(0) for name, value in every.items()}
    product = CandidateProduct(aug.anchor_families, max_columns=10**9)

    def score(strength: float) -> float:
        moved = {name: mean[name] + strength * (value - mean[name]) for name, value in every.items()}
        return _mean_loss(scores, product.log_p(AugmentDistribution(aug.families, moved).parts).cpu(), order)

    strength = min(STRENGTHS, key=score)
    if strength != 1:
        for name, head in heads.items():
            head.shrink_(strength, mean[name])
    return strength
