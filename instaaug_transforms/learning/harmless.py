"""Do no harm: how far the image may move φ, and which views to average, by held-out images."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
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
from .prepared import Prepared
from .recommendation import recommend
from .report import HeldOutArm, HeldOutReport

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
N_VIEWS = (1, 2, 4, 10)
# Nats that a place in the best input-free order counts; the last gives nearly all images that order.
TILTS = (0.1, 0.5, 2.0, 8.0, 30.0)
LEAST = 20.0  # nats below which a log-probability counts no further in a mean
MOST_ROWS = 20_000  # that a search for input-free views reads
FEWEST = 10  # held-out images below which nothing but one view is recommended
CHUNK = 256


class HeldOut:
    """Probabilities of every view of the held-out copies, and what is right.

    Args:
        held: what `prepare` made, with logits.
    """

    def __init__(self, held: Prepared) -> None:
        self.held, self.n = held, len(held)
        targets = held.images.targets
        self.labelled = targets is not None
        plain = held.rows["plain"].tensor().float()
        # Without labels: the classifier's own answers on the images as they were.
        answers = plain.softmax(-1)
        soft = answers if targets is None else targets if targets.ndim == 2 else None
        images = torch.arange(self.n) // held.draws
        self.right = (targets if soft is None else soft.argmax(-1))[images]
        self.classes, self.hard = answers.shape[-1], soft is None
        self.target = torch.nn.functional.one_hot(self.right, self.classes).float() if self.hard else soft[images]

    def log_p(self, rows: Tensor, views: Tensor) -> Tensor:
        """Log-probabilities ``(B, K, C)`` of views ``(B, K)`` of copies ``(B,)``."""
        logits = self.held.take("logits", rows).cpu()
        chosen = logits.gather(1, views[:, :, None].expand(-1, -1, self.classes))
        return chosen.float().log_softmax(-1)

    @cached_property
    def losses(self) -> Tensor:
        """``(R, V)``: −log of the probability of the target, soft targets by cross-entropy."""
        parts = []
        for rows in torch.arange(self.n).split(CHUNK):
            log_p = self.held.take("logits", rows).cpu().float().log_softmax(-1)
            parts.append(-(log_p * self.target[rows][:, None]).sum(-1))
        return torch.cat(parts)

    def most_confident(self, columns: int) -> Tensor:
        """``(R, 1)``: of the first ``columns`` views, the one with the highest probability of any class."""
        parts = []
        for rows in torch.arange(self.n).split(CHUNK):
            log_p = self.held.take("logits", rows).cpu()[:, :columns].float().log_softmax(-1)
            parts.append(log_p.amax(-1).argmax(1, keepdim=True))
        return torch.cat(parts)

    def average(self, views: Tensor, weights: Tensor | None = None) -> Tensor:
        """Log of the weighted mean probability ``(R, C)`` of views ``(R, K)``; log-weights ``(R, K)``, equal by default."""
        parts = []
        for rows in torch.arange(self.n).split(CHUNK):
            log_p = self.log_p(rows, views[rows])
            log_w = torch.zeros(log_p.shape[:2]) if weights is None else weights[rows]
            parts.append(torch.logsumexp(log_p + log_w.log_softmax(1)[..., None], 1))
        return torch.cat(parts)

    def average_nll(self, views: Tensor, weights: Tensor | None = None) -> float:
        """Mean cross-entropy, nats, of the target and what `average` gives."""
        if not self.hard:
            return -(self.average(views, weights) * self.target).sum(-1).mean().item()
        log_w = torch.zeros(views.shape) if weights is None else weights
        return -torch.logsumexp(log_w.log_softmax(1) - self.losses.gather(1, views), 1).mean().item()

    def arm(
        self, name: str, k: int, cost: float, averaged: Tensor, setting: dict[str, Any] | None = None
    ) -> HeldOutArm:
        """What an arm predicts, scored."""
        from ..tta.calibration import best_temperature

        temperature = best_temperature(averaged, self.target)
        nll = -((averaged / temperature).log_softmax(-1) * self.target).sum(-1)
        correct = averaged.argmax(-1) == self.right
        draws = self.held.draws
        if draws > 1:  # copies of one image are no independent witnesses
            nll, correct = (part.float().unflatten(0, (-1, draws)).mean(1) for part in (nll, correct))
        return HeldOutArm(name, k, cost, correct.numpy(), nll.numpy(), setting)


@torch.no_grad()
def average_loss(aug: LearnedAugment, held: Prepared, order: list[int]) -> float:
    """NLL of averages of learned views on held-out images, a mean over K: what fits are chosen by.

    Args:
        aug: the fitted transform.
        held: held-out copies.
        order: what `policy_order` gave.
    """
    log_p = joint(aug, held)
    if "logits" not in held.rows:
        return -torch.logsumexp(log_p - table_of(held)[:, : log_p.shape[1]], 1).mean().item()
    return _mean_nll(HeldOut(held), log_p, order)


def policy_order(train: Prepared) -> list[int]:
    """The views that are best for all images alike, each the one that adds most to the average of those before it."""
    rows = torch.arange(len(train))[:: max(1, len(train) // MOST_ROWS)]
    if train.weights is not None:  # copies that are likelier count more
        chances = train.weights.repeat(len(train.images))
        rows = chances.multinomial(len(rows), replacement=True, generator=torch.Generator().manual_seed(0))
    losses = table_of(train, rows)
    return greedy(losses, min(max(N_VIEWS), losses.shape[1]), again=False)


def table_of(data: Prepared, rows: Tensor | None = None) -> Tensor:
    """The loss table ``(R, A)``, or some of its rows."""
    rows = torch.arange(len(data)) if rows is None else rows
    return torch.cat([data.losses(part).cpu() for part in rows.split(CHUNK)])


def do_no_harm(
    aug: LearnedAugment, held: Prepared, candidates: AugmentParams, order: list[int], train: Prepared | None = None
) -> HeldOutReport:
    """Shrink φ as far as held-out images ask for, and compare; ``aug`` is changed in place.

    Args:
        aug: the fitted transform.
        held: with the logits of every candidate.
        candidates: ``(V,)`` parameters, the transform's own first.
        order: what `policy_order` gave.
        train: what φ learned from, where its table holds losses of the labels.
    """
    with torch.no_grad():
        scores = HeldOut(held)
        _shrink(aug, held, scores, order)
        log_p = joint(aug, held)
        arms, ours, notes = _arms(aug, scores, log_p, candidates, order, train), [], []
        look = isinstance(aug.predictor, FeaturesPredictor)
        for k in _ks(log_p.shape[1]):
            ours.append(_ours(scores, log_p, k, look, order))
        arms = sorted([*arms, *ours], key=lambda arm: (arm.n_views, arm.cost, arm.name))
        single = next(arm for arm in arms if arm.name == "one view")
        arms = [single, *[arm for arm in arms if arm is not single]]
        recommended, n = recommend(arms), len(held.images)
        if n < FEWEST:
            recommended = single
            notes.append(f"only {n} held-out images: too few to tell; give more, FitConfig(held_out=0.5) or val_data")
        elif recommended is single:
            notes.append(
                "looking does not pay here: one plain view is as good as any average; use the classifier as it is"
            )
        elif recommended.name != "ours":
            notes.append("looking does not pay here: the same views for every image are as good, and need no φ")
        against = "labels" if scores.labelled else "the classifier's own answers"
        report = HeldOutReport(arms, recommended, n, against, notes)
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


def _choices(log_p: Tensor, k: int, order: list[int]) -> list[_Way]:
    """Ways of choosing k views, with equal weights or φ's own.

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
    ways = [_Way(views, None, {"n_views": k, "aggregate": "mean_prob", **setting}) for views, setting in sets]
    if k > 1:
        ways += [
            _Way(views, log_p.gather(1, views), {"n_views": k, "aggregate": "probability", **setting})
            for views, setting in sets
        ]
    return ways


def _mean_nll(scores: HeldOut, log_p: Tensor, order: list[int]) -> float:
    """NLL of the best way at each K, a mean over K."""
    ks = _ks(log_p.shape[1])
    return sum(min(scores.average_nll(way.views, way.weights) for way in _choices(log_p, k, order)) for k in ks) / len(
        ks
    )


def _ours(scores: HeldOut, log_p: Tensor, k: int, look: bool, order: list[int]) -> HeldOutArm:
    """Our best way of choosing and weighting k views.

    The best of equal weights and the best of φ's own meet after their temperatures: averages of many views are shy, those
    that φ weighs are bold, and what the one or the other needs is no reason to choose it.
    """
    ways = _choices(log_p, k, order)
    equal, weighted = [way for way in ways if way.weights is None], [way for way in ways if way.weights is not None]
    arms = []
    for some in filter(None, (equal, weighted)):
        best = min(some, key=lambda way: scores.average_nll(way.views, way.weights))
        # φ's look at the classifier's features is a forward of its own, unless it is that of the image itself.
        cost = k + (look and not best.setting["include_identity"])
        arms.append(scores.arm("ours", k, cost, scores.average(best.views, best.weights), best.setting))
    return min(arms, key=lambda arm: arm.nll.mean())


def _arms(
    aug: LearnedAugment,
    scores: HeldOut,
    log_p: Tensor,
    candidates: AugmentParams,
    known: list[int],
    train: Prepared | None,
) -> list[HeldOutArm]:
    """One view, what does not look at the image, and what looks at everything; ``known`` is the order of `policy_order`."""
    n, columns = scores.n, log_p.shape[1]
    more = {} if train is None else _on_train(train, _ks(columns))
    zero = torch.zeros(n, 1, dtype=torch.long)
    setting = {"n_views": 1, "policy": _policy(candidates, [0])}
    arms = [replace(scores.arm("one view", 1, 1, scores.average(zero), setting), more=more.get(0))]
    losses = scores.losses
    draws = scores.held.draws
    images = torch.randperm(n // draws, generator=torch.Generator().manual_seed(0))
    order = (images[:, None] * draws + torch.arange(draws)).flatten()  # all copies of an image in one half
    halves = order[: len(images) // 2 * draws], order[len(images) // 2 * draws :]
    most = max(_ks(columns))
    # Searched on one half and scored on the other: what was searched on the images it is scored on looks better than it is.
    policies = [greedy(losses[half if len(half) else order], most) for half in reversed(halves)]
    everywhere = greedy(losses, most)
    shuffled = log_p[order.roll(draws)][order.argsort()]
    for k in _ks(columns):
        views = torch.zeros(n, k, dtype=torch.long)
        for half, policy in zip(halves, policies, strict=True):
            views[half] = torch.tensor(policy[:k])
        setting = {"n_views": k, "policy": _policy(candidates, everywhere[:k])}
        searched = scores.arm("best input-free", k, k, scores.average(views), setting)
        if len(known) >= k:  # fewer views to choose from, and many times as many images to choose on
            views = torch.tensor(known[:k]).expand(n, -1)
            setting = {"n_views": k, "policy": _policy(candidates, known[:k])}
            other = scores.arm("best input-free", k, k, scores.average(views), setting)
            searched = min(searched, replace(other, more=more.get(k)), key=lambda arm: arm.nll.mean())
        # Ours with another image's distribution is as strong without looking; where it is better, it is the one to beat.
        rival = scores.arm("best input-free (ours, shuffled)", k, k, scores.average(shuffled.topk(k, 1).indices))
        better = max(searched, rival, key=lambda arm: (arm.correct.mean(), -arm.nll.mean())) is rival
        arms += [rival, searched] if better else [searched]
    if columns > 1:
        every = torch.arange(columns).expand(n, -1)
        setting = {"n_views": columns, "policy": _policy(candidates, list(range(columns)))} if columns <= 16 else None
        arms.append(scores.arm("mean of all candidates", columns, columns, scores.average(every), setting))
        confident = scores.average(scores.most_confident(columns))
        arms.append(scores.arm("most confident candidate", 1, columns, confident))
    return arms


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


def _policy(candidates: AugmentParams, columns: list[int]) -> dict[str, list[float]]:
    return {name: field[columns].tolist() for name, field in candidates.items()}


def _shrink(aug: LearnedAugment, held: Prepared, scores: HeldOut, order: list[int]) -> float:
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
        return _mean_nll(scores, product.log_p(AugmentDistribution(aug.families, moved).parts).cpu(), order)

    strength = min(STRENGTHS, key=score)
    if strength != 1:
        for name, head in heads.items():
            head.shrink_(strength, mean[name])
    return strength
