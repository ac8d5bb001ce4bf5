"""Do no harm: how far the image may move φ, and which views to average, by held-out images."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..families import CandidateProduct
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..tta.arms import greedy
from ..utils.modes import evaluating, trained
from .arms import MOST_ROWS, N_VIEWS, choices, numbers_of_views, ours, rivals, table_of
from .harm import costs_others, paired
from .prepared import Prepared
from .put_right import PutRight
from .recommendation import conclude
from .report import HeldOutReport
from .scores import CHUNK, Scores, by_group

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
CAUTIONS = (0.0, 0.5, 1.0, 1.5, 2.0)  # nats
AS_IT_WAS = 3  # images that stay as a nuisance left them weigh no more than one that was fine and is not any more


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
    return _mean_loss(scores, log_p, order)


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
    """
    _shrink(aug, held, scores, order)
    _leave_alone(aug, held, scores)
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
    arms = rivals(scores, log_p, candidates, order, train) + ours(scores, log_p, look, order, put_right)
    report = conclude(arms, len(arms[0].nll), scores.labelled, scores.of_images, scores.doubt())
    aug.recommended = report.to_json()
    return report


def joint(aug: LearnedAugment, held: Prepared) -> Tensor:
    """φ's log-probability of every combination of candidates, ``(R, A)``, for the held-out copies."""
    return _log_p(aug, _raw(aug, held))


def _raw(aug: LearnedAugment, held: Prepared) -> dict[str, Tensor]:
    """What φ says of the held-out copies, ``(R, …)`` per family."""
    with evaluating(aug.predictor):
        parts = [aug.predictor.decode(*held.seen(rows)) for rows in torch.arange(len(held)).split(CHUNK)]
    return {name: torch.cat([raw[name] for raw in parts]) for name in parts[0]}


def _log_p(aug: LearnedAugment, raw: dict[str, Tensor]) -> Tensor:
    product = CandidateProduct(aug.anchor_families, max_columns=10**9)
    return product.log_p(AugmentDistribution(aug.families, raw).parts).cpu()


def _heads(aug: LearnedAugment, method: str) -> dict[str, nn.Module]:
    """φ's heads that the fit changes, if all of them have that method; a predictor of one's own may have none."""
    learned = set(trained(aug.predictor))
    heads = {
        name: head for name, head in getattr(aug.predictor, "heads", {}).items() if learned & set(head.parameters())
    }
    return heads if all(hasattr(head, method) for head in heads.values()) else {}


def _mean_loss(scores: Scores, log_p: Tensor, order: list[int]) -> float:
    """Loss of the best way at each K, a mean over K."""
    ways = [choices(log_p, k, order, scores) for k in numbers_of_views(log_p.shape[1])]
    return sum(min(scores.average_loss(way.views, way.weights) for way in some) for some in ways) / len(ways)


def _shrink(aug: LearnedAugment, held: Prepared, scores: Scores, order: list[int]) -> float:
    """Move φ's logits towards their mean over images as far as held-out averages gain by it."""
    if not (heads := _heads(aug, "shrink_")):
        return 1.0
    every = _raw(aug, held)
    mean = {name: held.mean(value) for name, value in every.items()}

    def score(strength: float) -> float:
        moved = {name: mean[name] + strength * (every[name] - mean[name]) for name in heads}
        return _mean_loss(scores, _log_p(aug, every | moved), order)

    strength = min(STRENGTHS, key=score)
    if strength != 1:
        for name, head in heads.items():
            head.shrink_(strength, mean[name])
    return strength


def _leave_alone(aug: LearnedAugment, held: Prepared, scores: Scores) -> float:
    """Make every family's first candidate, which leaves an image as it is, likelier: as far as the likeliest views of held-out copies are not
    certainly worse (two standard errors) than at the best setting, where a copy that nothing disturbed counts `AS_IT_WAS` times.

    Where φ is used fewer images may be disturbed than in the fit, and what an undue change costs one that was fine is too rare to be seen
    in a hundred of them. A φ that certainly costs such images stays as it is, to be refused: caution would hide that rather than cure it.
    """
    if held.undisturbed is None or not (heads := _heads(aug, "shift_")):
        return 0.0
    every = _raw(aug, held)
    first = {name: F.one_hot(torch.tensor(0), value.shape[1]).to(value) for name, value in every.items()}
    likeliest = _log_p(aug, every).argmax(1, keepdim=True)
    before, single = (scores.arm("", 1, 1, scores.average(views)) for views in (likeliest, 0 * likeliest))
    if costs_others(before, single):
        return 0.0
    counts = 1 + (AS_IT_WAS - 1) * held.undisturbed.float()

    def losses(caution: float) -> np.ndarray:
        """Per image, or group of images, those of the likeliest views."""
        moved = {name: every[name] + caution * first[name] for name in heads}
        views = _log_p(aug, every | moved).argmax(1, keepdim=True)
        copies = counts * scores.losses.gather(1, views)[:, 0]
        return by_group(held.per_image(copies).numpy(), held.images.groups)

    found = {caution: losses(caution) for caution in CAUTIONS}
    best = min(found.values(), key=np.mean)
    worse = {caution: paired(loss, best) for caution, loss in found.items()}
    caution = max(c for c, (loss, error) in worse.items() if c == 0 or loss <= 2 * error)  # of NaN none but 0
    if caution:
        for name, head in heads.items():
            head.shift_(caution * first[name])
    return caution
