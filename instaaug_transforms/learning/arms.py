"""Arms of a held-out report: views that φ chooses, and what they are compared with."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..params import AugmentParams
from ..tta.aggregation import log_mean
from ..tta.arms import families_for, greedy
from ..tta.views import unchanged
from .harm import certainly
from .prepared import Prepared
from .put_right import PutRight
from .report import HeldOutArm
from .scores import CHUNK, ClassScores, Scores, by_group

N_VIEWS = (1, 2, 4, 10)
# Nats that a place in the best input-free order counts; the last gives nearly all images that order.
TILTS = (0.1, 0.5, 2.0, 8.0, 30.0)
LEAST = 20.0  # nats below which a log-probability counts no further in a mean
MOST_PUT_RIGHT = 2  # candidates of an image whose results fixed views are made of
SURE = 1.5  # temperature that a classifier may need, for its losses to be compared without one
MOST_ROWS = 20_000  # that a search for input-free views reads


def numbers_of_views(columns: int) -> list[int]:
    """Those K of `N_VIEWS` that so many candidates can give."""
    return [k for k in N_VIEWS if k <= columns] or [1]


@dataclass(frozen=True)
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
    ways = [Way(views, None, {"n_views": k, "aggregate": scores.aggregate, **setting}) for views, setting in sets]
    if k > 1 and scores.weighs:
        ways += [
            Way(views, log_p.gather(1, views), {"n_views": k, "aggregate": "probability", **setting})
            for views, setting in sets
        ]
    return ways


def ours(
    scores: Scores, log_p: Tensor, look: bool, order: list[int], put_right: PutRight | None = None
) -> list[HeldOutArm]:
    """At each K, views that φ chooses for every image, or fixed ones of what it has put right.

    Args:
        scores: of the held-out copies.
        log_p: φ's log-probability of every candidate, ``(R, A)``.
        look: whether φ's look at an image is a forward of the classifier.
        order: what `policy_order` gave.
        put_right: has the classifier look at images that φ has put right.
    """
    arms = {k: [likeliest_views(scores, log_p, k, look, order)] for k in numbers_of_views(log_p.shape[1])}
    if put_right is not None and put_right.fixed is not None:
        for k, arm in views_put_right(scores, log_p, look, put_right):
            arms.setdefault(k, []).append(arm)
    best = [min(some, key=_nll) for _, some in sorted(arms.items())]
    return [arm for i, arm in enumerate(best) if not any(_same(arm, other) for other in best[:i])]


def _same(arm: HeldOutArm, other: HeldOutArm) -> bool:
    return arm.setting == other.setting or np.array_equal(arm.nll, other.nll)


def likeliest_views(scores: Scores, log_p: Tensor, k: int, look: bool, order: list[int]) -> HeldOutArm:
    """Our best way of choosing and weighting k views.

    The best of equal weights and the best of φ's own meet after their temperatures: averages of many views are shy, those
    that φ weighs are bold, and what the one or the other needs is no reason to choose it.
    """
    ways = choices(log_p, k, order, scores)
    equal, weighted = [way for way in ways if way.weights is None], [way for way in ways if way.weights is not None]
    arms = []
    for some in filter(None, (equal, weighted)):
        best = min(some, key=lambda way: scores.average_loss(way.views, way.weights))
        if scores.held.undisturbed is not None:  # offsets undo φ's caution: no reason to take them for luck
            least = _nll_of(scores, best)
            best = next(way for way in some if not certainly(_nll_of(scores, way), least))
        # φ's look at the classifier's features is a forward of its own, and may answer for views that are the image itself.
        cost = k + look - scores.held.answered * float(scores.held.mean((best.views == 0).sum(1).float()))
        arms.append(scores.arm("ours", k, cost, scores.average(best.views, best.weights), best.setting))
    return min(arms, key=_nll)


def _nll_of(scores: Scores, way: Way) -> np.ndarray:
    return scores.arm("", 0, 0, scores.average(way.views, way.weights)).nll


def views_put_right(scores: Scores, log_p: Tensor, look: bool, put_right: PutRight) -> list[tuple[int, HeldOutArm]]:
    """Fixed views of what φ's likeliest one or two candidates make of copies, searched as the best input-free ones are: K, and the arm,
    which takes fewer where all were chosen equally often."""
    most = min(MOST_PUT_RIGHT, log_p.shape[1]) if scores.weighs else 1
    acting, arms = families_for(put_right.task.aug), []
    for m, (seen, likeliest) in enumerate(put_right.look(scores.held, log_p, most), 1):
        policies, everywhere = seen.searched(in_halves(scores), max(N_VIEWS) // m)
        itself = scores.held.mean(
            unchanged(acting, put_right.views(likeliest)).unflatten(0, (-1, m)).sum(1).float().T
        )  # (F,)
        for k in [k for k in N_VIEWS if k % m == 0]:
            chosen = Counter(everywhere[: k // m])
            often = math.gcd(*chosen.values())
            columns = [column for column, times in chosen.items() for _ in range(times // often)]
            n = len(columns) * m
            setting = scores.setting(n_views=n, policy=policy_of(put_right.fixed, columns), put_right=m)
            setting |= {"aggregate": "probability"} if m > 1 else {}
            cost = n + look - scores.held.answered * float(itself[columns].sum())
            arms.append((k, scores.arm("ours", n, cost, seen.average(policies[:, : k // m]), setting)))
    return arms


def in_halves(scores: Scores) -> Tensor:
    """The copies ``(R,)`` in an order whose halves share no image."""
    draws, generator = scores.held.draws, torch.Generator().manual_seed(0)
    images = torch.randperm(scores.n // draws, generator=generator)
    if scores.held.images.groups is not None:
        # Those of one side by side; they are numbered as they came, classes in turn maybe.
        place = _places(scores.held.images.groups)
        rank = torch.randperm(int(place.max()) + 1, generator=generator)
        images = images[rank[place[images]].argsort(stable=True)]
    return scores.held.copies(images)


def _places(groups: Tensor) -> Tensor:
    """Groups of images ``(N,)`` numbered from 0, none left out."""
    return groups.unique(return_inverse=True)[1]


def _nll(arm: HeldOutArm) -> float:
    return float(arm.nll.mean())


def rivals(
    scores: Scores,
    log_p: Tensor,
    candidates: AugmentParams,
    known: list[int],
    train: Prepared | None,
) -> list[HeldOutArm]:
    """One view, what does not look at the image, and what looks at everything; ``known`` is the order of `policy_order`."""
    n, columns = scores.n, log_p.shape[1]
    zero = torch.zeros(n, 1, dtype=torch.long)
    evidence: dict[int, dict[str, np.ndarray]] = {}
    if wide := train is not None and "logits" in train:
        known, evidence = fixed_on_train(ClassScores(train))
    # Of many images that φ learned from only losses are kept, which no temperature changes: they tell nothing of a classifier that is
    # too sure of itself, whose averages gain by being shy.
    elif train is not None and 1 / SURE < scores.temperature(scores.average(zero)) < SURE:
        evidence = {k: {"more": nll} for k, nll in nll_on_train(train, numbers_of_views(columns)).items()}
    setting = scores.setting(n_views=1, policy=policy_of(candidates, [0]))
    single = scores.arm("one view", 1, 1, scores.average(zero), setting)
    arms = [replace(single, **evidence.get(0, {}))]
    order = in_halves(scores)
    policies, everywhere = scores.searched(order, max(N_VIEWS))
    # The image before it, or where these are of one group, one half of them away.
    away = 1 if scores.held.images.groups is None else n // scores.held.draws // 2
    shuffled = log_p[order.roll(away * scores.held.draws)][order.argsort()]
    for k in N_VIEWS:
        setting = scores.setting(n_views=k, policy=policy_of(candidates, everywhere[:k]))
        searched = scores.arm("best input-free", k, k, scores.average(policies[:, :k]), setting)
        if len(known) >= k:  # fewer views to choose from, and many times as many images to choose on
            views = torch.tensor(known[:k]).expand(n, -1)
            setting = scores.setting(n_views=k, policy=policy_of(candidates, known[:k]))
            other = scores.arm("best input-free", k, k, scores.average(views), setting)
            other = replace(other, **evidence.get(k, {}))
            other_is_worse = certainly(other.nll, searched.nll) if wide else _nll(other) >= _nll(searched)
            searched = searched if other_is_worse else other
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


def fixed_on_train(scores: Scores) -> tuple[list[int], dict[int, dict[str, np.ndarray]]]:
    """Fixed views searched on all images that φ learned from; and of one view (key 0) and of so many fixed ones, searched on the other half
    of these images, what each image says, as fields of an arm."""
    policies, everywhere = scores.searched(in_halves(scores), max(N_VIEWS))
    views = {0: torch.zeros(scores.n, 1, dtype=torch.long)} | {k: policies[:, :k] for k in N_VIEWS}
    arms = {k: scores.arm("", k, k, scores.average(some)) for k, some in views.items()}
    return everywhere, {k: {"more": arm.nll, "more_correct": arm.correct} for k, arm in arms.items()}


def nll_on_train(train: Prepared, ks: list[int]) -> dict[int, np.ndarray]:
    """NLL per image that φ learned from, a mean over its copies: of one view (key 0), and of the best ``k`` fixed views, searched
    on the other half of the images."""
    n, draws = len(train.images), train.draws
    images = torch.arange(n)[:: max(1, len(train) // MOST_ROWS)]
    rows = train.copies(images)
    losses, weights = table_of(train, rows), train.weight(rows)
    groups = train.images.groups
    place = torch.arange(len(images)) if groups is None else _places(groups[images])
    halves = place.repeat_interleave(draws) % 2
    most = min(max(ks), losses.shape[1])
    policies = (
        [greedy(losses[halves != half], most, again=False, weights=weights[halves != half]) for half in (0, 1)]
        if bool(halves.any())
        else [[0], [0]]
    )

    def nll(k: int) -> np.ndarray:
        parts = torch.empty(len(losses))
        for half, policy in enumerate(policies):
            mine = losses[halves == half][:, policy[:k] if k else [0]]
            parts[halves == half] = -log_mean(-mine, 1)
        found = (parts * weights).unflatten(0, (-1, draws)).mean(1).numpy()
        return by_group(found, None if groups is None else groups[images])

    return {k: nll(k) for k in (0, *ks) if k <= most}


def policy_of(candidates: AugmentParams, columns: list[int]) -> dict[str, list[float]]:
    """Some of ``(V,)`` views as `TTAModel` takes a policy."""
    return {name: field[columns].tolist() for name, field in candidates.items()}


def table_of(data: Prepared, rows: Tensor | None = None) -> Tensor:
    """The loss table ``(R, A)``, or some of its rows."""
    rows = torch.arange(len(data)) if rows is None else rows
    return torch.cat([data.losses(part).cpu() for part in rows.split(CHUNK)])
