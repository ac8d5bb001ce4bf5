"""The report of a fit whose views no table holds, ranges among them: views are made, looked at and compared."""

from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..engine.data import Images
from ..engine.rows import Rows, chunks
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..tta.arms import families_for, policy_candidates, union, zoom_candidates
from ..tta.shared import FlatOutputs, SharedViews
from ..tta.views import choose_views, sees_images, unchanged
from ..utils.errors import InstaAugError
from ..utils.modes import evaluating, permutation
from ..utils.progress import bar
from .arms import N_VIEWS, in_halves, policy_of
from .prepared import Prepared, stored
from .recommendation import conclude
from .report import HeldOutArm, HeldOutReport
from .scores import Scores, kept_as, scores_of
from .task import Task

FRACTIONS = (1.0, 0.5)  # of every range
MOST_CANDIDATES = 100  # that every image is looked at through
MOST_IMAGES = 1000  # that are looked at
MOST_OUTPUTS = 2 * 10**8  # numbers that are kept; of fewer images where each has many
CHUNK = 64


class Views(NamedTuple):
    """K views of N images, and the arguments of a `TTAModel` that makes them; None where none does."""

    k: int
    params: AugmentParams
    setting: dict[str, Any] | None


@torch.no_grad()
def report_by_views(task: Task, val: Images) -> HeldOutReport:
    """Compare one view, the same views for every image, and learned views on held-out images; ``aug`` remembers what won.

    The same views for every image are centre zooms, mirror images and candidates, searched greedily, or those of φ's mean
    outputs: one range for all images. Learned views are `TTAModel`'s, over all or the middle half of every range.

    Args:
        task: with the fitted transform; its classifier is held in eval mode by the caller.
        val: held-out images; of more than `MOST_IMAGES`, some.

    Raises:
        InstaAugError: outputs that are not finite.
    """
    aug, chosen = task.aug, permutation(len(val), task.config.seed)[:MOST_IMAGES]
    val = val.subset(chosen)
    raw = _outputs_of_phi(aug, val)
    candidates = policy_candidates(aug)
    if candidates.batch_shape[0] > MOST_CANDIDATES:  # what is likely of them is among the views of φ's mean outputs
        candidates = union(families_for(aug), [zoom_candidates()])
    ours = _learned(AugmentDistribution(aug.families, raw))
    mean = {name: value.mean(0, keepdim=True).expand_as(value) for name, value in raw.items()}
    alike = [
        Views(k, params, {"n_views": k, "policy": policy_of(params.map(lambda field: field[:, 0]), list(range(k)))})
        for k, params, _ in _learned(AugmentDistribution(aug.families, mean))
    ]
    # Ours with another image's distribution is as strong without looking; where it is better, it is the one to beat.
    shuffled = [Views(k, params.map(lambda field: field.roll(1, 1)), None) for k, params, _ in ours]
    everywhere = candidates.for_each(len(val)).to(aug.device)
    sets = [everywhere, *(views.params for views in (*alike, *ours, *shuffled))]
    scores = _look(task, val, sets)
    first = sum(params.batch_shape[0] for params in sets[: 1 + len(alike)])
    scores = scores.calibrated(torch.full((scores.n,), first))  # our likeliest view
    starts = accumulate(params.batch_shape[0] for params in sets)
    look, arms = isinstance(aug.predictor, FeaturesPredictor), _fixed(scores, candidates)
    answered = sees_images(aug, task.classifier, val.batch(slice(0, 1))[0].shape[-2:])
    for name, made in (("best input-free", alike), ("ours", ours), ("best input-free (ours, shuffled)", shuffled)):
        for views in made:
            start = next(starts)
            cost = float(views.k)
            if name == "ours":
                cost += look - answered * float(unchanged(aug.families, views.params).sum(0).float().mean())
            columns = torch.arange(start, start + views.k).expand(scores.n, -1)
            setting = views.setting and scores.setting(**views.setting)
            arms.append(scores.arm(name, views.k, cost, scores.average(columns), setting))
    best, classes = _best_of_each(arms), scores.of_images
    if val.groups is None:  # in the order in which the images were given, as groups are
        place = chosen[: scores.n].argsort().numpy()
        best = [_in_order(arm, place) for arm in best]
        classes = None if classes is None else classes[place]
    report = conclude(best, len(best[0].nll), scores.labelled, classes, scores.doubt())
    aug.recommended = report.to_json()
    return report


def _in_order(arm: HeldOutArm, place: np.ndarray) -> HeldOutArm:
    return replace(arm, nll=arm.nll[place], correct=None if arm.correct is None else arm.correct[place])


def _learned(distribution: AugmentDistribution) -> list[Views]:
    """At each K, over all or the middle of every range, with and without the image itself."""
    made = []
    for k in N_VIEWS:
        for fraction in FRACTIONS:
            for plain in (False, True)[: min(k, 2)]:
                params = choose_views(distribution.narrowed(fraction), k, "top", plain)
                setting = {"n_views": k, "include_identity": plain, "range_fraction": fraction}
                made.append(Views(k, params, setting))
    return made


def _outputs_of_phi(aug: LearnedAugment, val: Images) -> dict[str, Tensor]:
    """``(N, R)`` per family."""
    with evaluating(aug.predictor):
        parts = [aug.predictor(images) for images, _ in val.batches(chunks(len(val), CHUNK), aug.device)]
    return {name: torch.cat([raw[name] for raw in parts]) for name in parts[0]}


def _look(task: Task, val: Images, sets: list[AugmentParams]) -> Scores:
    """Outputs of all sets of views ``(n, N)``, one after another, for as many images as there is room for."""
    aug, config, flat = task.aug, task.config, FlatOutputs(task.classifier)
    shared = SharedViews(flat, aug, config.table_batch_size, config.amp)
    parts, kept, n = chunks(len(val), CHUNK), list[Tensor](), 0
    with bar(desc="report", total=len(val), unit="image", progress=config.progress) as shown:
        for part, (images, _) in zip(parts, val.batches(parts, aug.device), strict=True):
            asked = [params.map(lambda field, part=part: field[:, part]) for params in sets]
            outputs = torch.cat(shared.logits(images, asked)).transpose(0, 1)  # (B, V, numbers)
            kept.append(stored(outputs, kept_as(task.loss)))
            if not bool(kept[-1].isfinite().all()):
                raise InstaAugError(
                    "classifier: what it says of some views of held-out images is not finite, and no report can be made of that; look at its "
                    "outputs. What a transform has learned, it keeps"
                )
            n += len(images)
            shown.update(len(images))
            if (n + CHUNK) * outputs[0].numel() > MOST_OUTPUTS:
                break
    every = torch.cat(kept)
    every = every.reshape(n, 1, every.shape[1], *flat.shape)
    rows = {"logits": Rows.of(every), "plain": Rows.of(every[:, 0, 0])}
    held = Prepared(val.subset(slice(0, n)), 1, rows, aug.device)
    return scores_of(held, task.loss)


def _fixed(scores: Scores, candidates: AugmentParams) -> list[HeldOutArm]:
    """One view, and views that are the same for every image: searched on one half of the images, scored on the other."""
    n, most = scores.n, max(N_VIEWS)
    zero = torch.zeros(n, 1, dtype=torch.long)
    setting = scores.setting(n_views=1, policy=policy_of(candidates, [0]))
    arms = [scores.arm("one view", 1, 1, scores.average(zero), setting)]
    policies, everywhere = scores.searched(in_halves(scores), most, candidates.batch_shape[0])
    for k in N_VIEWS:
        setting = scores.setting(n_views=k, policy=policy_of(candidates, everywhere[:k]))
        arms.append(scores.arm("best input-free", k, k, scores.average(policies[:, :k]), setting))
    return arms


def _best_of_each(arms: list[HeldOutArm]) -> list[HeldOutArm]:
    """Of all arms of one name and K the one with the lowest loss; shuffled ones only where nothing that does not look is better."""
    best: dict[tuple[str, int], HeldOutArm] = {}
    for arm in arms:
        key = arm.name, arm.n_views
        best[key] = min(best.get(key, arm), arm, key=lambda one: float(one.nll.mean()))
    free = {k: arm for (name, k), arm in best.items() if name == "best input-free"}
    shuffled = "best input-free (ours, shuffled)"
    return [
        arm for (name, k), arm in best.items() if name != shuffled or float(arm.nll.mean()) < float(free[k].nll.mean())
    ]
