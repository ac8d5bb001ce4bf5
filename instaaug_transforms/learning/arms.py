"""Arms of a held-out report that our views are compared with: one view, views chosen without looking, and what looks at everything."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..params import AugmentParams
from ..tta.aggregation import log_mean
from ..tta.arms import greedy
from .harm import certainly
from .prepared import Prepared
from .report import HeldOutArm
from .scores import CHUNK, ClassScores, Scores, by_group

N_VIEWS = (1, 2, 4, 10)
SURE = 1.5  # temperature that a classifier may need, for its losses to be compared without one
MOST_ROWS = 20_000  # that a search for input-free views reads


def numbers_of_views(columns: int) -> list[int]:
    """Those K of `N_VIEWS` that so many candidates can give."""
    return [k for k in N_VIEWS if k <= columns] or [1]


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
    train: Prepared | Scores | None,
) -> list[HeldOutArm]:
    """One view, what does not look at the image, and what looks at everything; ``known`` is the order of `policy_order`."""
    n, columns = scores.n, log_p.shape[1]
    zero = torch.zeros(n, 1, dtype=torch.long)
    evidence: dict[int, HeldOutArm] = {}
    elsewhere = [known]  # orders of fixed views that were not searched on held-out images; the first may have evidence
    wide = False  # whether all candidates of what φ learned from are known; beside a nuisance the transform's own are
    if isinstance(train, Scores):
        found, evidence = fixed_on_train(train)
        wide = train.losses.shape[1] == scores.losses.shape[1]
        elsewhere = [found] if wide else [found, known]
    # Of many images that φ learned from only losses are kept, which no temperature changes: they tell nothing of a classifier that is
    # too sure of itself, whose averages gain by being shy.
    elif train is not None and 1 / SURE < scores.calibrated(zero[:, 0]).view_temperature < SURE:
        losses = nll_on_train(train, numbers_of_views(columns))
        evidence = {k: HeldOutArm("", k, k, None, nll) for k, nll in losses.items()}
    setting = scores.setting(n_views=1, policy=policy_of(candidates, [0]))
    single = replace(scores.arm("one view", 1, 1, scores.average(zero), setting), more=evidence.get(0))
    arms = [single]
    order = in_halves(scores)
    policies, everywhere = scores.searched(order, max(N_VIEWS))
    # The image before it, or where these are of one group, one half of them away.
    away = 1 if scores.held.images.groups is None else n // scores.held.draws // 2
    shuffled = log_p[order.roll(away * scores.held.draws)][order.argsort()]
    for k in N_VIEWS:
        setting = scores.setting(n_views=k, policy=policy_of(candidates, everywhere[:k]))
        searched = scores.arm("best input-free", k, k, scores.average(policies[:, :k]), setting)
        # Fewer views to choose from, and many times as many images to choose on.
        for i, known in enumerate(known for known in elsewhere if len(known) >= k):
            views = torch.tensor(known[:k]).expand(n, -1)
            setting = scores.setting(n_views=k, policy=policy_of(candidates, known[:k]))
            other = scores.arm("best input-free", k, k, scores.average(views), setting)
            other = replace(other, more=evidence.get(k) if i == 0 else None)
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


def fixed_on_train(scores: Scores) -> tuple[list[int], dict[int, HeldOutArm]]:
    """Fixed views searched on all images that φ learned from; and one view (key 0) and so many fixed ones, searched on the other half of
    these images, scored on each."""
    policies, everywhere = scores.searched(in_halves(scores), max(N_VIEWS))
    views = {0: torch.zeros(scores.n, 1, dtype=torch.long)} | {k: policies[:, :k] for k in N_VIEWS}
    return everywhere, {k: scores.arm("", k, k, scores.average(some)) for k, some in views.items()}


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
