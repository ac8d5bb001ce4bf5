"""Views that φ chooses for every image: arms of a report, on held-out images and, where these are few, on cross-fitted ones too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arms import numbers_of_views
from .cross_fit import Said
from .harm import certainly, costs_others
from .put_right import PutRight
from .put_right_arms import views_put_right
from .report import HeldOutArm
from .scores import Scores

# Nats that a place in the best input-free order counts; the last gives nearly all images that order.
TILTS = (0.1, 0.5, 2.0, 8.0, 30.0)
LEAST = 20.0  # nats below which a log-probability counts no further in a mean
SAME = 1e-4  # nats of every image; less is how averages are rounded


@dataclass(frozen=True, eq=False)
class Way:
    """One way of choosing and weighting views: ``(R, K)`` columns, log-weights, and the arguments of `TTAModel`."""

    views: Tensor
    weights: Tensor | None
    setting: dict[str, Any]


def choices(log_p: Tensor, k: int, order: list[int], scores: Scores) -> list[Way]:
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
    place = torch.full(log_p.shape[1:], len(order), dtype=log_p.dtype)
    place[order] = torch.arange(len(order), dtype=log_p.dtype)
    usual = scores.held.mean(log_p.clamp(min=-LEAST))
    for tilt in TILTS:
        offsets = -usual - tilt * place
        setting = {"include_identity": False, "view_offsets": [round(o, 4) for o in offsets.tolist()]}
        sets.append(((log_p + offsets).topk(k, 1).indices, setting))
    ways = [
        Way(views, None, scores.setting(n_views=k, aggregate=scores.aggregate, **setting)) for views, setting in sets
    ]
    if k > 1 and scores.weighs:
        ways += [
            Way(views, log_p.gather(1, views), scores.setting(n_views=k, aggregate="probability", **setting))
            for views, setting in sets
        ]
    return ways


def arm_of(known: Sequence[Any], ways: Sequence[Way], name: str, k: int, cost: float) -> HeldOutArm:
    """The same way of choosing views on held-out images, which come first, and maybe on more; each of ``known`` has their ``scores``."""
    arms = [
        said.scores.arm(name, k, cost, said.scores.average(way.views, way.weights), way.setting)
        for said, way in zip(known, ways, strict=True)
    ]
    return replace(arms[0], more=arms[1] if len(arms) > 1 else None)


def plain_view(known: Sequence[Any]) -> HeldOutArm:
    """One view of every image, as it is."""
    ways = [Way(torch.zeros(said.scores.n, 1, dtype=torch.long), None, {}) for said in known]
    return arm_of(known, ways, "one view", 1, 1)


def ours(known: Sequence[Said], look: bool, order: list[int], put_right: PutRight | None = None) -> list[HeldOutArm]:
    """At each K, views that φ chooses for every image, or fixed ones of what it has put right.

    Args:
        known: of the held-out copies, and maybe of cross-fitted ones.
        look: whether φ's look at an image is a forward of the classifier.
        order: what `policy_order` gave.
        put_right: has the classifier look at images that φ has put right.
    """
    arms = {k: [likeliest_views(known, k, look, order)] for k in numbers_of_views(known[0].log_p.shape[1])}
    if put_right is not None and put_right.fixed is not None:
        for k, arm in views_put_right(known, look, put_right):
            arms.setdefault(k, []).append(arm)
    single = plain_view(known)
    best = [min(some, key=lambda arm: (costs_others(arm, single), arm.nll.mean())) for _, some in sorted(arms.items())]
    return [arm for i, arm in enumerate(best) if not any(_same(arm, other) for other in best[:i])]


def _same(arm: HeldOutArm, other: HeldOutArm) -> bool:
    return arm.setting == other.setting or np.allclose(arm.nll, other.nll, atol=SAME)


def ways_of(known: Sequence[Said], k: int, order: list[int]) -> list[tuple[Way, ...]]:
    """`choices` for all of ``known``, the same ways side by side."""
    return list(zip(*(choices(said.log_p, k, order, said.scores) for said in known), strict=True))


def likeliest_views(known: Sequence[Said], k: int, look: bool, order: list[int]) -> HeldOutArm:
    """Our best way of choosing and weighting k views.

    The best of equal weights and the best of φ's own meet after their temperatures: averages of many views are shy, those
    that φ weighs are bold, and what the one or the other needs is no reason to choose it. Beside a nuisance, ways that images certainly pay
    for which it left alone come last.
    """
    held, single, arms = known[0].scores.held, plain_view(known), []

    @cache
    def arm(ways: tuple[Way, ...]) -> HeldOutArm:
        # φ's look at the classifier's features is a forward of its own, and may answer for views that are the image itself.
        spared = held.answered * float(held.mean((ways[0].views == 0).sum(1).float()))
        return arm_of(known, ways, "ours", k, k + look - spared)

    def harmless(ways: tuple[Way, ...]) -> bool:
        return not costs_others(arm(ways), single)

    every = ways_of(known, k, order)
    for weighted in (False, True):
        some = [ways for ways in every if (ways[0].weights is not None) == weighted]
        by_loss = sorted(some, key=lambda ways: loss_of(known, ways))
        if held.undisturbed is not None and by_loss:
            able = harmless if any(map(harmless, by_loss)) else bool  # that is, all of them
            least = arm(next(filter(able, by_loss))).with_more().nll
            # Offsets undo φ's caution: no reason to take them for luck.
            by_loss = [next(ways for ways in filter(able, some) if not certainly(arm(ways).with_more().nll, least))]
        arms += [arm(ways) for ways in by_loss[:1]]
    return min(arms, key=lambda arm: arm.with_more().nll.mean())


def loss_of(known: Sequence[Said], ways: Sequence[Way]) -> float:
    """Of averages of views, a mean over all images."""
    pairs = [(said.scores, way) for said, way in zip(known, ways, strict=True)]
    total = sum(len(scores.held.images) * scores.average_loss(way.views, way.weights) for scores, way in pairs)
    return total / sum(len(scores.held.images) for scores, _ in pairs)
