"""Accuracy of a frozen classifier with and without learned views, every arm at the same number of views."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..augment import LearnedAugment
from ..engine.data import load
from ..engine.nuisance import Nuisance, Step
from ..predictors import FeaturesPredictor
from ..utils.errors import InstaAugError
from ..utils.modes import frozen
from . import arms
from .aggregation import check_aggregation
from .classification import TTAModel
from .report import (
    AUTO,
    CONFIDENT,
    FLIP,
    GREEDY,
    ORACLE,
    OURS,
    RANDOM,
    RECOMMENDED,
    RIVALS,
    SHUFFLED,
    SINGLE,
    ZOOMS,
    ArmResult,
    Evaluation,
)
from .runner import Runner

MOST_CANDIDATES = 64  # that are all looked through for the most confident one


def evaluate(
    classifier: nn.Module,
    aug: LearnedAugment,
    data: Any,
    choice_data: Any,
    n_views: Sequence[int] = (1, 2, 4, 10),
    *,
    select: str = "top",
    range_fraction: float = 1.0,
    how: str = "mean_prob",
    include_identity: bool = True,
    oracle: bool = False,
    nuisance: Step | Sequence[Step] | None = None,
    nuisance_probability: float = 1.0,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    only: Sequence[str] | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Compare learned views with input-free ones on ``data``.

    Arms: single view; the image and its mirror image; centre zooms; random views; random views of AutoAugment's
    ImageNet policy (of images with 1 or 3 channels); greedy policy search over zooms and anchors; ours with every image given another image's
    distribution ("shuffled": the same anchors at the same entropy, without looking); ours. All but the random ones
    choose what they choose on ``choice_data``, and there every arm gets one temperature per K.

    Args:
        classifier: images in [0, 1] to logits, held in eval mode.
        aug: a fitted transform.
        data: what is reported; ``(images, labels)``, Dataset or DataLoader.
        choice_data: what choices are made on; no image of ``data``, best none that ``aug`` was fitted on.
        n_views: the numbers of views K.
        select, range_fraction: how our views are selected, see `TTAModel`; what `tune` found on ``choice_data``, say.
        include_identity: whether the image itself is one of our views.
        nuisance, nuisance_probability: what all images suffer before anybody looks at them, see `Nuisance`.
        how: the aggregation, the same for every arm; ``"weighted"`` learns a weight per scale of crop for every arm and
            K on ``choice_data``.
        oracle: also report the best of all candidate views of each image, found with its label.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        seed: of random views.
        only: of `report.RIVALS`, those to compare with, beside the single view and ours; all by default. The two that search
            take a forward of ``choice_data`` per candidate.
        progress: show bars; None where the output is a terminal.

    Raises:
        InstaAugError: an unknown aggregation or arm.
    """
    check_aggregation(how)
    rivals = set(RIVALS if only is None else only)
    if rivals - set(RIVALS):
        raise InstaAugError(
            f"only: expected some of {', '.join(RIVALS)}, got {', '.join(sorted(rivals - set(RIVALS)))}"
        )
    loading = {"progress": progress, "channels": aug.in_channels, "labelled": True}
    data, choice = load(data, "data", **loading), load(choice_data, "choice_data", **loading)
    # Folders come sorted by class; a "shuffled" view must not come from an image of the same class more than by chance.
    data = data.subset(torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)))
    most, several = max(n_views), [k for k in n_views if k > 1]
    disturb = None if nuisance is None else Nuisance(nuisance, nuisance_probability, seed)
    run = Runner(classifier, aug, batch_size, amp, seed, progress, disturb)
    look = float(isinstance(aug.predictor, FeaturesPredictor) and not include_identity)
    with frozen(classifier), torch.no_grad():
        zooms, policies = arms.zoom_candidates(), arms.policy_candidates(aug)
        pick_zooms = pick_policy = slice(0, most)  # of arms that are left out
        if {ZOOMS, GREEDY} & rivals:
            losses, _ = run.candidate_losses(choice, policies)
            pick_zooms = arms.greedy(losses[:, : zooms.batch_shape[0]], most)
            pick_policy = arms.greedy(losses, most)
        both = arms.boxes([(0.5, 0.5, 1.0, 0), (0.5, 0.5, 1.0, 1)])
        ours = (aug, most, select, range_fraction)
        ways: dict[str, tuple[arms.Arm, list[int]]] = {
            SINGLE: (arms.fixed(both.index(slice(0, 1))), [1]),
            FLIP: (arms.fixed(both), [2]),
            ZOOMS: (arms.fixed(zooms.index(pick_zooms)), list(n_views)),
            RANDOM: (arms.random_views(aug, most), several),
            AUTO: (arms.auto_augment(most), several if aug.in_channels in (1, 3) else []),
            GREEDY: (arms.fixed(policies.index(pick_policy)), list(n_views)),
            SHUFFLED: (arms.learned(*ours, True, include_identity), several),
            OURS: (arms.learned(*ours, False, include_identity), several),
        }
        ways = {name: way for name, way in ways.items() if name in (SINGLE, OURS) or name in rivals}
        results: dict[tuple[str, int], ArmResult] = {}
        for name, (arm, ks) in ways.items():
            results |= run.arm(name, arm, ks, data, choice, how, look if name == OURS else 0.0)
        if 1 in n_views:  # one view alone is the likeliest, not the image itself
            look = float(isinstance(aug.predictor, FeaturesPredictor))
            results |= run.arm(OURS, arms.learned(aug, 1, select, range_fraction), [1], data, choice, how, look)
        own = arms.own_candidates(aug)
        if nuisance is not None and len(own) == 1 and own[0].batch_shape[0] <= MOST_CANDIDATES:
            every = arms.MostConfident(classifier, aug, own[0])
            results |= run.model(CONFIDENT, 1, own[0].batch_shape[0], every, data, choice)
        if aug.recommended:
            model = TTAModel.recommended(classifier, aug, chunk_size=batch_size)
            k, looks = model.n_views, isinstance(aug.predictor, FeaturesPredictor) and model.policy is None
            cost = k + (looks and (k == 1 or not model.include_identity))
            results |= run.model(RECOMMENDED, k, cost, model, data, choice)
        if oracle:
            best = run.oracle(data, policies)
            results[ORACLE, best.n_views] = best
    order = {name: i for i, name in enumerate([*ways, CONFIDENT, RECOMMENDED, ORACLE])}
    results = dict(sorted(results.items(), key=lambda item: (item[0][1], order[item[0][0]])))
    return Evaluation(results, len(data), seed)


def tune(
    classifier: nn.Module,
    aug: LearnedAugment,
    choice_data: Any,
    n_views: int = 4,
    *,
    how: str = "mean_prob",
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Arguments of `TTAModel` — ``select`` and ``range_fraction`` — with the lowest NLL of ``n_views`` views.

    Args:
        choice_data: held-out images that are not reported on; the rest is as in `evaluate`.
    """
    data = load(choice_data, "choice_data", progress=progress, channels=aug.in_channels, labelled=True)
    run = Runner(classifier, aug, batch_size, amp, seed, progress)
    continuous = any(family.has_rsample for family in aug.families)
    settings = [
        {"select": select, "range_fraction": fraction}
        for select in ("top", "stratified")
        for fraction in ((1.0, 0.5, 0.25) if continuous else (1.0,))
    ]
    losses = []
    with frozen(classifier), torch.no_grad():
        for setting in settings:
            arm = arms.learned(aug, n_views, **setting)
            averages = run.averages(f"tune {setting}", arm, [n_views], data, how)
            losses.append(nn.functional.cross_entropy(averages[n_views], data.targets).item())
    return settings[losses.index(min(losses))]


def views_nll(
    classifier: nn.Module,
    aug: LearnedAugment,
    choice_data: Any,
    n_views: int = 4,
    *,
    select: str = "top",
    how: str = "mean_prob",
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> float:
    """NLL of the average of ``n_views`` learned views on ``choice_data``, after its best temperature: to choose among fits.

    Args:
        choice_data: held-out images that are not reported on; the rest is as in `evaluate`.
    """
    data = load(choice_data, "choice_data", progress=progress, channels=aug.in_channels, labelled=True)
    run = Runner(classifier, aug, batch_size, amp, seed, progress)
    with frozen(classifier), torch.no_grad():
        arm = arms.learned(aug, n_views, select, 1.0)
        return float(run.arm(OURS, arm, [n_views], data, data, how)[OURS, n_views].nll.mean())
