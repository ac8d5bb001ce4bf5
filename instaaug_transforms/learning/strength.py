"""How far the image may move φ, and how cautious φ is: by images that it did not learn from."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..families import CandidateProduct
from ..utils.modes import trained
from .arms import numbers_of_views
from .cross_fit import RawSaid, Said
from .harm import may_cost_others, paired
from .our_arms import Way, arm_of, loss_of, plain_view, ways_of
from .report import HeldOutArm
from .scores import by_group

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
CAUTIONS = (0.0, 0.5, 1.0, 1.5, 2.0)  # nats
# Where images that nothing disturbed may pay at less.
MORE_CAUTION = (2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0)
AS_IT_WAS = 3  # images that stay as a nuisance left them weigh no more than one that was fine and is not any more


def said_of(aug: LearnedAugment, known: Sequence[RawSaid]) -> list[Said]:
    """What raw outputs say of every combination of candidates."""
    return [Said(each.scores, log_p_of(aug, each.raw)) for each in known]


def log_p_of(aug: LearnedAugment, raw: dict[str, Tensor]) -> Tensor:
    """φ's log-probability of every combination of candidates, ``(R, A)``."""
    product = CandidateProduct(aug.anchor_families, max_columns=10**9)
    return product.log_p(AugmentDistribution(aug.families, raw).parts).cpu()


def mean_loss(known: Sequence[Said], order: list[int]) -> float:
    """Loss of the best way at each K, a mean over K."""
    ways = [ways_of(known, k, order) for k in numbers_of_views(known[0].log_p.shape[1])]
    return sum(min(loss_of(known, way) for way in some) for some in ways) / len(ways)


def shrink(aug: LearnedAugment, known: Sequence[RawSaid], order: list[int]) -> float:
    """Move φ's logits towards their mean over images as far as averages gain by it; ``known`` follows."""
    if not (heads := _heads(aug, "shrink_")):
        return 1.0
    means = [{name: each.scores.held.mean(value) for name, value in each.raw.items()} for each in known]

    def moved(strength: float) -> list[RawSaid]:
        return [
            each.moved({name: mean[name] + strength * (each.raw[name] - mean[name]) for name in heads})
            for each, mean in zip(known, means, strict=True)
        ]

    strength = min(STRENGTHS, key=lambda strength: mean_loss(said_of(aug, moved(strength)), order))
    if strength != 1:
        for name, head in heads.items():
            head.shrink_(strength, means[0][name])
        for each, after in zip(known, moved(strength), strict=True):
            each.raw.update(after.raw)
    return strength


def leave_alone(aug: LearnedAugment, known: Sequence[RawSaid]) -> float:
    """Make every family's first candidate, which leaves an image as it is, likelier: as far as the likeliest views of copies are not
    certainly worse (two standard errors) than at the best setting, where a copy that nothing disturbed counts `AS_IT_WAS` times.

    Where φ is used fewer images may be disturbed than in the fit, and what an undue change costs one that was fine is rare. While such images
    certainly pay, or too few are known to rule out that they pay much, φ becomes more cautious still, and then by one step more.
    """
    if known[0].scores.held.undisturbed is None or not (heads := _heads(aug, "shift_")):
        return 0.0
    first = {name: F.one_hot(torch.tensor(0), value.shape[1]).to(value) for name, value in known[0].raw.items()}

    def likeliest(caution: float) -> list[Way]:
        moved = [each.moved({name: each.raw[name] + caution * first[name] for name in heads}) for each in known]
        return [Way(said.log_p.argmax(1, keepdim=True), None, {}) for said in said_of(aug, moved)]

    def asked(caution: float) -> tuple[HeldOutArm, HeldOutArm]:
        return arm_of(known, likeliest(caution), "ours", 1, 1), plain_view(known)

    def losses(caution: float) -> np.ndarray:
        """Per image, or group of images, those of the likeliest views."""
        parts = []
        for each, way in zip(known, likeliest(caution), strict=True):
            held = each.scores.held
            counts = 1 + (AS_IT_WAS - 1) * held.undisturbed.float()
            copies = counts * each.scores.losses.gather(1, way.views)[:, 0]
            parts.append(by_group(held.per_image(copies).numpy(), held.images.groups))
        return np.concatenate(parts)

    found = {caution: losses(caution) for caution in CAUTIONS}
    best = min(found.values(), key=np.mean)
    worse = {caution: paired(loss, best) for caution, loss in found.items()}
    least = max(c for c, (loss, error) in worse.items() if c == 0 or loss <= 2 * error)  # of NaN none but 0
    steps = (c for c in (*CAUTIONS, *MORE_CAUTION) if c >= least)
    caution = next((c for c in steps if not may_cost_others(*asked(c))), 0.0)
    if caution > least:  # the first step that spares these images; others may need the next
        caution = next(steps, caution)
    if caution:
        for name, head in heads.items():
            head.shift_(caution * first[name])
            for each in known:
                each.raw[name] = each.raw[name] + caution * first[name]
    return caution


def _heads(aug: LearnedAugment, method: str) -> dict[str, nn.Module]:
    """φ's heads that the fit changes, if all of them have that method; a predictor of one's own may have none."""
    learned = set(trained(aug.predictor))
    heads = {
        name: head for name, head in getattr(aug.predictor, "heads", {}).items() if learned & set(head.parameters())
    }
    return heads if all(hasattr(head, method) for head in heads.values()) else {}
