"""Accuracy of a frozen classifier with and without learned views, every arm at the same number of views."""

import copy
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..engine.alike import count_alike
from ..engine.data import Images, StreamedImages, load
from ..engine.nuisance import Nuisance, Step
from ..engine.rows import rows_in
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..utils.describe import code_sha256, model_sha256
from ..utils.errors import InstaAugError, check_whole
from ..utils.hashing import fingerprint
from ..utils.modes import frozen, permutation
from ..utils.outputs import as_labels
from ..utils.stats import is_guessing
from . import arms
from .aggregation import COMPARABLE, check_aggregation
from .calibration import best_temperature
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
    Evaluation,
)
from .runner import Runner, Way
from .views import check_choice, load_setting, normalizing

logger = logging.getLogger(__name__)

FEWEST = 20  # images that tell guesses from answers
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
    workdir: str | os.PathLike | None = None,
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
        how: the aggregation, the same for every arm, at the temperature of the recommended setting if there is one; ``"weighted"`` learns a weight per scale of crop for every arm and
            K on ``choice_data``.
        oracle: also report the best of all candidate views of each image, found with its label.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        seed: of random views.
        only: of `report.RIVALS`, those to compare with, beside the single view and ours; all by default. The two that search
            take a forward of ``choice_data`` per candidate.
        workdir: folder that keeps what is computed; a call that was interrupted goes on from it, to the same numbers.
        progress: show bars; None where the output is a terminal.

    A view of an image that several arms need goes through the classifier once.

    Raises:
        InstaAugError: an unknown aggregation or arm, or a ``workdir`` of another comparison.
    """
    check_aggregation(how, "how", COMPARABLE)
    check_whole("seed", seed, 0)
    if not isinstance(n_views, Sequence) or isinstance(n_views, str) or not n_views:
        raise InstaAugError(f"n_views: expected several numbers of views, [1, 2, 4] say, got {n_views!r}")
    for k in n_views:
        check_choice(select, range_fraction, n_views=k, batch_size=batch_size)
    rivals = set(RIVALS if only is None else [only] if isinstance(only, str) else only)
    if rivals - set(RIVALS):
        raise InstaAugError(
            f"only: expected some of {', '.join(RIVALS)}, got {', '.join(sorted(rivals - set(RIVALS)))}"
        )
    aug = check_aug(aug)
    loading = {"channels": aug.in_channels, "labelled": True}
    data, choice = load(data, "data", **loading), load(choice_data, "choice_data", **loading)
    _warn_about_alike(data, choice)
    # Folders come sorted by class; a "shuffled" view must not come from an image of the same class more than by chance.
    mixed = permutation(len(data), seed)
    data, back = data.subset(mixed), mixed.argsort().numpy()
    given, classifier = classifier, normalizing(aug, classifier)
    most, several = max(n_views), [k for k in n_views if k > 1]
    disturb = None if nuisance is None else Nuisance(nuisance, nuisance_probability, seed)
    settings = {"select": select, "range_fraction": range_fraction, "include_identity": include_identity, "how": how}
    about = {} if workdir is None else _about(classifier, aug, disturb, batch_size=int(batch_size), amp=amp, seed=seed)
    about |= {"n_views": [int(k) for k in n_views], "arms": sorted(rivals), "oracle": oracle, **settings}
    streamed = any(isinstance(part, StreamedImages) for part in (data, choice))
    looks = isinstance(aug.predictor, FeaturesPredictor)
    with frozen(classifier), torch.no_grad(), rows_in(None if workdir is None else Path(workdir), streamed) as folder:
        at = load_setting((aug.recommended or {}).get("recommended", {})).get("temperature", 1.0)
        run = Runner(classifier, aug, batch_size, amp, seed, progress, disturb, how, folder, about, at)
        data, choice = _numbered(run, data, "data"), _numbered(run, choice, "choice_data")
        zooms, policies = arms.zoom_candidates(), arms.policy_candidates(aug)
        pick_zooms = pick_policy = slice(0, most)  # of arms that are left out
        known = None
        if {ZOOMS, GREEDY} & rivals:
            known = policies, run.candidates(choice, policies)
            losses = run.losses(known[1], choice.targets)
            pick_zooms = arms.greedy(losses[:, : zooms.batch_shape[0]], most)
            pick_policy = arms.greedy(losses, most)
        both = arms.boxes([(0.5, 0.5, 1.0, 0), (0.5, 0.5, 1.0, 1)])
        ways = [
            _way(SINGLE, [1], arms.fixed(both.index(slice(0, 1)))),
            _way(FLIP, [2], arms.fixed(both)),
            _way(ZOOMS, n_views, arms.fixed(zooms.index(pick_zooms))),
            _way(RANDOM, several, arms.random_views(aug, most)),
            _way(AUTO, several if aug.in_channels in (1, 3) else [], arms.auto_augment(most)),
            _way(GREEDY, n_views, arms.fixed(policies.index(pick_policy))),
        ]
        # Of candidates, the likeliest k are the first k of more; views spread over a range depend on their number.
        nested = select == "top" and not any(family.has_rsample for family in aug.families)
        for ks in [several] if nested else [[k] for k in several]:
            for name, shuffled in ((SHUFFLED, True), (OURS, False)):
                how_many = (aug, max(ks, default=1), select, range_fraction)
                arm = arms.learned(*how_many, shuffled, include_identity, run.shared.predict)
                ways.append(_way(name, ks, arm, looks and not shuffled))
        ways = [way for way in ways if way.costs and (way.name in (SINGLE, OURS) or way.name in rivals)]
        if 1 in n_views:  # one view alone is the likeliest, not the image itself
            ways.append(
                _way(OURS, [1], arms.learned(aug, 1, select, range_fraction, predict=run.shared.predict), looks)
            )
        own = arms.own_candidates(aug)
        if nuisance is not None and len(own) == 1 and own[0].batch_shape[0] <= MOST_CANDIDATES:
            cost = float(own[0].batch_shape[0])
            ways.append(Way(CONFIDENT, {1: cost}, arms.fixed(own[0]), lambda logits, _: arms.most_confident(logits)))
        if aug.recommended:
            ways.append(_recommended(given, aug, run, looks))
        results = run.results(ways, data, choice, known, policies if oracle else None)
        if disturb is None:
            _warn_about_labels(results[SINGLE, 1].correct, run.classes(data))
    order = {name: i for i, name in enumerate([*dict.fromkeys(way.name for way in ways), ORACLE])}
    results = {key: replace(arm, correct=arm.correct[back], nll=arm.nll[back]) for key, arm in results.items()}
    results = dict(sorted(results.items(), key=lambda item: (item[0][1], order[item[0][0]])))
    return Evaluation(results, len(data), seed)


def _warn_about_alike(data: Images, choice: Images) -> None:
    """Log that choices are made on what is reported."""
    alike, some = count_alike(choice, data)
    if alike:
        logger.warning(
            f"choice_data: {alike} of {some} images look nearly like one of data. What is chosen on images that are reported flatters the "
            "report; give others"
        )


def _warn_about_labels(correct: np.ndarray, classes: int) -> None:
    """Log that answers on the images as they are are right no more often than guesses, three standard errors granted."""
    share, n = float(correct.mean()), len(correct)
    if classes > 1 and n >= FEWEST and is_guessing(share, classes, n):
        logger.warning(
            f"labels: the classifier is right on {100 * share:.1f} % of {n} images as they are, where guessing among {classes} "
            f"classes is on {100 / classes:.1f} %: the labels do not match its classes, or it knows next to nothing of these images. "
            "Check the labels' order, or the class map"
        )


def _numbered(run: Runner, data: Images, name: str) -> Images:
    """The same images; their labels are checked, class numbers as losses want them."""
    data = copy.copy(data)
    data.targets = as_labels(data.targets, run.classes(data), name, soft=False)
    return data


def _way(name: str, ks: Sequence[int], arm: arms.Arm, looks: bool = False) -> Way:
    return Way(name, {k: float(k + looks) for k in ks}, arm, looks=looks)


def _recommended(classifier: nn.Module, aug: LearnedAugment, run: Runner, looks: bool) -> Way:
    """The setting that won on held-out images, as `TTAModel.recommended` has it."""
    model = TTAModel.recommended(classifier, aug)
    k = model.n_views
    looked: list[Any] = [None]

    def arm(images: Tensor, generator: torch.Generator) -> AugmentParams:
        looked[0] = run.shared.predict(images) if model.asks else None
        return model.policy_views(images) if looked[0] is None else model.choose(looked[0], generator)

    def average(logits: Tensor, params: AugmentParams) -> Tensor:
        weights = model.log_weights(params, looked[0])
        return model.average(logits, None if weights is None else weights.cpu())

    looks = looks and model.asks
    return Way(RECOMMENDED, {k: float(k + looks)}, arm, average, looks)


def _about(classifier: nn.Module, aug: LearnedAugment, nuisance: Nuisance | None, **more: Any) -> dict[str, Any]:
    """What the rows of a comparison are computed from, as JSON values; the images apart."""
    about = {"classifier": model_sha256(classifier), "code of the classifier": code_sha256(classifier)}
    about["transform"] = fingerprint(aug, config=aug.config())
    return about | {"recommended": aug.recommended, "nuisance": nuisance and nuisance.about(), **more}


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
    check_aggregation(how, "how", COMPARABLE)
    check_choice("top", 1.0, n_views=n_views, batch_size=batch_size)
    aug = check_aug(aug)
    data = load(choice_data, "choice_data", channels=aug.in_channels, labelled=True)
    classifier = normalizing(aug, classifier)
    run = Runner(classifier, aug, batch_size, amp, seed, progress, how=how)
    continuous = any(family.has_rsample for family in aug.families)
    settings = [
        {"select": select, "range_fraction": fraction}
        for select in ("top", "stratified")
        for fraction in ((1.0, 0.5, 0.25) if continuous else (1.0,))
    ]
    ways = [
        _way(str(setting), [n_views], arms.learned(aug, n_views, **setting, predict=run.shared.predict))
        for setting in settings
    ]
    with frozen(classifier), torch.no_grad():
        data = _numbered(run, data, "choice_data")
        averages, _ = run.averages(ways, data)
        losses = [nn.functional.cross_entropy(logits(), data.targets).item() for logits in averages.values()]
    return settings[losses.index(min(losses))]


def views_nll(
    classifier: nn.Module,
    aug: LearnedAugment,
    choice_data: Any,
    n_views: int = 4,
    *,
    select: str = "top",
    how: str = "mean_prob",
    nuisance: Step | Sequence[Step] | None = None,
    nuisance_probability: float = 1.0,
    batch_size: int = 256,
    amp: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> float:
    """NLL of the average of ``n_views`` learned views on ``choice_data``, after its best temperature: to choose among fits.

    Args:
        choice_data: held-out images that are not reported on; the rest is as in `evaluate`.
    """
    check_aggregation(how, "how", COMPARABLE)
    check_choice(select, 1.0, n_views=n_views, batch_size=batch_size)
    disturb = None if nuisance is None else Nuisance(nuisance, nuisance_probability, seed)
    aug = check_aug(aug)
    data = load(choice_data, "choice_data", channels=aug.in_channels, labelled=True)
    classifier = normalizing(aug, classifier)
    run = Runner(classifier, aug, batch_size, amp, seed, progress, disturb, how)
    with frozen(classifier), torch.no_grad():
        data = _numbered(run, data, "choice_data")
        averages, _ = run.averages(
            [_way(OURS, [n_views], arms.learned(aug, n_views, select, predict=run.shared.predict))], data
        )
        logits = averages[OURS, n_views]()
    return nn.functional.cross_entropy(logits / best_temperature(logits, data.targets), data.targets).item()
