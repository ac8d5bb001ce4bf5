"""`fit`: learn an augmentation through a frozen classifier."""

import copy
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment.learnable import check_aug, check_ranges
from ..engine.alike import grouped_if_alike
from ..engine.data import Images, load
from ..engine.nuisance import Step
from ..engine.rows import unusable
from ..engine.splits import hold_out
from ..families import CandidateProduct
from ..tta.arms import with_extras
from ..utils import distributed
from ..utils.describe import model_sha256
from ..utils.errors import InstaAugError
from ..utils.modes import first_weight
from ..utils.outputs import check_module
from .answers import can_average, check_answers
from .config import FitConfig, FitResult
from .cross_fit import can_be_parted, cross_fit
from .entropy import EntropyController
from .fitting import Callback, Fitting
from .harmless import average_loss, do_no_harm, joint, policy_order
from .losses import PerViewLoss, cross_entropy
from .prepared import prepare
from .put_right import PutRight
from .report_by_views import report_by_views
from .scores import Scores, kept_as, scores_of
from .task import Task
from .watch import warn_about_copies, warn_about_data, warn_about_labels

logger = logging.getLogger(__name__)

FEW = 2_000  # images to learn from, up to which these are evidence too
MOST_OUTPUTS = 2 * 10**8  # numbers that are kept of them
SAME = 0.99  # probability that one candidate has of every held-out image, at which φ tells images apart no more
STRONGER, TRIES = 10.0, 3  # λ where that is so of all that were tried: times the largest, and how often


@torch.inference_mode(False)  # what is evaluated around it may keep no graph: φ needs one
@torch.enable_grad()
def fit(
    aug: LearnedAugment,
    classifier: nn.Module,
    train_data: Any,
    val_data: Any = None,
    config: FitConfig | None = None,
    *,
    loss: PerViewLoss | str = cross_entropy,
    nuisance: Step | Sequence[Step] | None = None,
    labels: bool | None = None,
    groups: Sequence[Any] | None = None,
    table: Tensor | None = None,
    val_table: Tensor | None = None,
    workdir: str | os.PathLike | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Learn ``aug`` through a classifier that stays as it is.

    Tables of candidates — crops, turns, lights, and products of them — learn from the loss of every image under every
    candidate, which makes the paper's objective exact: Σ_a p_a·L_a − λ·H(p) = λ·KL(p ‖ softmax(−L/λ)) + const. Ranges
    learn pathwise, by the gradient through the resample and the classifier; together with them a candidate's
    score-function gradient has the table as its control variate. The epoch kept is the one with the lowest held-out
    objective (mean loss − Σ λ·entropy, at the latest λ), where a nat outside the band costs a nat of loss.

    Where a table says all, the image moves φ only as far as held-out images reward; of few images, the others too, each by a φ
    that did not learn from it. `FitResult.report` says what one view, the best policy that does not look at the image, and ours
    give on held-out images, and which of them to use.

    Where `torch.distributed` is initialised, its processes share the classifier's work: the table's rows and the chunks
    of every step. φ itself, small, is trained by each of them alike, from rank 0's weights, so all end with those of a single process.

    Args:
        aug: fitted in place; what is frozen in a part of φ stays as it is.
        classifier: images in [0, 1] to outputs; its modes, requires_grad and buffers are as before afterwards.
        train_data: ``(images, labels)`` tensors, images alone, a Dataset or a DataLoader; images the classifier has not
            memorised.
        val_data: likewise, to choose on; a part of ``train_data`` is held out by default.
        config: see `FitConfig`.
        loss: ``"cross_entropy"`` of logits and labels; ``"binary_cross_entropy"`` of logits and 0 or 1 for each of several
            classes; ``"squared_error"`` of numbers; or a function of ``(outputs, targets)`` to per-view losses ``(B,)``.
        nuisance: what the images suffer before φ sees them, with ``config.nuisance_probability``: names of families,
            drawn as widely as they can undo, or torchvision transforms. See `Nuisance`.
        labels: whether to fit to the labels. Without them the target is the classifier's own answer on the image as it
            was; that is the default with a nuisance, and labels then serve the report and the choices on held-out images.
            False: what labels there are is not looked at.
        groups: a name per image of ``train_data``, the same for images that are much alike: frames of a video, one scene, one
            patient. Whole groups are held out, and each counts as one image in the report. Where many images look nearly alike,
            those that do are groups by default, in ``val_data`` too.
        table, val_table: loss tables that `build_loss_table` made of the same data, to save the time.
        workdir: folder for tables, memory-mapped, and for checkpoints, every ``config.checkpoint_seconds``. What is
            there already of the tables is used. Nothing is kept by default.
        resume: go on from the checkpoint in ``workdir``, to the same weights, bit for bit, as without the interruption;
            from the start if there is none yet.
        callbacks: each is called after every epoch, in the first process, with a flat dictionary of floats: ``run`` (1, 2, …
            where several λ are tried, one after another), ``epoch`` (from 1), ``loss``, ``val_loss``, ``in_band``,
            ``outside``, ``seconds``, and per family ``entropy/crop``, ``val_entropy/crop``, ``lambda/crop``.

    Raises:
        InstaAugError: unusable data, answers, labels, bands or tables, a loss that is not finite, or a ``workdir`` of another fit.
    """
    config = FitConfig.of(config)
    aug = check_aug(aug)
    check_module(classifier)
    distributed.broadcast(aug.predictor)
    if first_weight(aug.predictor).dtype == torch.float16:
        raise InstaAugError(
            "aug: its weights are float16, too coarse for an optimiser; fit aug.float(), then call aug.half()"
        )
    if aug.predictor.reads_labels:
        raise InstaAugError(
            f"aug: a {type(aug.predictor).__name__} learns which label means what, and fit shows φ none: all would become one. Train it "
            "by aug.sample(images, labels=labels), or fit predictor='global'"
        )
    EntropyController(aug.families, config.entropy)  # bands that cannot be are named before the long work
    if resume and workdir is None:
        raise InstaAugError("resume: give the workdir that holds the checkpoint")
    train = load(train_data, "train_data", channels=aug.in_channels)
    if val_data is None:
        if table is not None or val_table is not None:
            raise InstaAugError("table: give val_data too, so that the rows of both tables are known")
        train = grouped_if_alike(train) if groups is None else train.grouped(groups)
        train, val = hold_out(train, config.seed, config.held_out)
    else:
        if groups is not None:
            raise InstaAugError("groups: they say what is held out of train_data; with val_data leave them out")
        val = load(val_data, "val_data", channels=aug.in_channels)
        # Who gives `Images` has said what belongs together. Of others, frames of one scene are one witness, as where they are held out.
        val = val if isinstance(val_data, Images) else grouped_if_alike(val, held=True)
    if labels is False:
        train, val = train.without_targets(), val.without_targets()
    anchors, ranges = aug.anchor_families, len(aug.families) > len(aug.anchor_families)
    sampled = ranges or config.objective == "sampled"  # images are looked at again in every step
    task = Task.of(aug, classifier, loss, config, nuisance, labels, train, sampled)
    undo, own = task.nuisance, task.own
    if own is None and val.targets is None:
        raise InstaAugError("val_data: it has no labels, and train_data has; give both labels, or labels=False")
    if (table is not None or val_table is not None) and (undo is not None or own is not None):
        raise InstaAugError(
            "table: build_loss_table knows labelled images as they are, and this fit is to "
            f"{'disturbed images' if undo is not None else 'own answers'}; leave table and val_table out, and give workdir to keep its own"
        )
    if ranges:
        check_ranges(aug)
    if sampled:
        train, val = train.in_memory(config.progress), val.in_memory(config.progress)
    folder = None if workdir is None else Path(workdir)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(folder, error) from error
    # Without a table, candidates are learned from samples, as any family that is not differentiable.
    tabled = bool(anchors) and config.objective != "sampled"
    if val_table is not None and (ranges or not tabled):
        raise InstaAugError(
            "val_table: ranges and objective='sampled' are held to sampled views, which no table holds; leave it out"
        )
    views = CandidateProduct(anchors, config.max_columns).candidates() if tabled else None
    alone = tabled and not ranges
    # What φ draws for its dropout comes from the global generator: seeded by every step, and put back.
    devices = [aug.device] if aug.device.type == "cuda" else []
    start = time.perf_counter()
    with task.at_work(folder, train, val) as rows, torch.random.fork_rng(devices):
        classes = check_answers(task, {"train_data": train, "val_data": val}) if task.by_classes else 0
        judged = task.by_classes or can_average(task, val)
        report = judged and val_table is None
        if not judged:
            logger.warning(
                "report: none, because averages of several views' outputs cannot be judged: they are maps, or not one tensor of "
                "numbers. Compare with one view on held-out images yourself before you use what is learned"
            )
        kept = kept_as(task.loss) if report and alone else None
        # What its columns are compared with, on the held-out images alone.
        candidates = with_extras(aug, views) if report and alone else views
        # Losses of labels are those of an average too; of soft targets and of losses of one's own they are not.
        hard = task.by_classes and own is None and train.targets.ndim == 1
        # Few images that φ learns from are evidence too, by cross-fitting. Beside a nuisance they come as often as their copies, and zooms and
        # mirror images of them all would take too long.
        few = kept is not None and table is None and len(train) <= FEW and can_be_parted(train)
        few = few and (own is None or undo is not None)
        wide, copies = (candidates, 1) if undo is None else (views, 2 * config.nuisance_draws)
        few = few and len(train) * copies * wide.batch_shape[0] * classes <= MOST_OUTPUTS
        prepared = prepare(
            task, train, "table", wide if few else views, rows, table=table, logits=kept if few else None
        )
        held = prepare(task, val, "val_table", candidates if alone else None, rows, table=val_table, logits=kept)
        table_seconds = time.perf_counter() - start
        warn_about_copies(prepared, held)
        if kept and task.by_classes and own is None:
            warn_about_data(prepared, held)
        order = policy_order(prepared, task.by_classes) if alone else []
        scores = None if kept is None else scores_of(held, task.loss)
        warn_about_labels(scores)
        aug.recommended = None  # what another fit recommended is of another φ
        make = partial(Fitting, train=prepared, val=held, folder=folder, table_seconds=table_seconds)
        initial = copy.deepcopy(aug.predictor.state_dict())
        result, chosen = _best_of(_settings(task, alone, len(prepared)), make, order, scores, resume, callbacks)
        summary = None
        if scores is not None:
            start = time.perf_counter()
            more = cross_fit(chosen, prepared, held, initial, result.best_epoch + 1) if few else None
            result = replace(result, fit_seconds=result.fit_seconds + time.perf_counter() - start)
            put_right = PutRight(task, candidates, rows)
            summary = do_no_harm(aug, held, scores, candidates, order, prepared if hard else None, put_right, more)
        elif report:
            summary = report_by_views(task, val)
        if summary:
            aug.recommended["model"] = model_sha256(classifier)
            summary.notes.extend(task.what_was_not_asked(summary))
    return replace(result, report=summary, held_out=val.identities)


def _settings(task: Task, alone: bool, rows: int) -> list[Task]:
    """The fits to choose among: one for each λ to try, or the one that is asked for."""
    config = task.config
    if config.entropy.bands or not alone:
        return [task]
    epochs = min(config.epochs, max(1, config.max_steps * config.batch_size // rows))
    still = (replace(config.entropy, initial_weight=weight, mode="dual", rate=0.0) for weight in config.entropy_weights)
    return [replace(task, config=replace(config, entropy=entropy, epochs=epochs)) for entropy in still]


def _stronger(tasks: list[Task]) -> Task:
    """One more fit, where φ gave all images the same candidate at every λ.

    Beside the losses of a classifier that is sure of wrong answers, ten nats say, the usual λ is nothing: φ runs into the candidate that is best
    for all images before it has learned to tell them apart, and has no gradient there.
    """
    task = max(tasks, key=lambda one: one.config.entropy.initial_weight)
    weight = STRONGER * task.config.entropy.initial_weight
    logger.info("φ gives all images the same views at every λ that was tried; λ = %g is tried too", weight)
    return replace(task, config=replace(task.config, entropy=replace(task.config.entropy, initial_weight=weight)))


def _best_of(
    tasks: list[Task],
    make: Callable[..., Fitting],
    order: list[int],
    scores: Scores | None,
    resume: bool,
    callbacks: Sequence[Callback],
) -> tuple[FitResult, Task]:
    """Fit with each of the settings, from the same start; keep the one whose views average best on held-out images, and say which."""
    aug = tasks[0].aug
    start = copy.deepcopy(aug.predictor.state_dict())
    kept: list[tuple[float, dict[str, Tensor], FitResult, Task]] = []
    tasks, most, alike = list(tasks), len(tasks) + TRIES, True
    for run, task in enumerate(tasks, 1):
        aug.predictor.load_state_dict(start)
        fitting = make(task, callbacks=[partial(_with_run, callback, run) for callback in callbacks])
        result = fitting.run(resume)
        if len(tasks) == 1:
            return result, task
        loss = average_loss(aug, fitting.val, order, scores)
        kept.append((loss, copy.deepcopy(aug.predictor.state_dict()), result, task))
        alike = alike and bool((joint(aug, fitting.val).exp().amin(0) > SAME).any())
        if alike and run == len(tasks) < most:
            tasks.append(_stronger(tasks))
    _, state, result, task = min(kept, key=lambda one: one[0])
    aug.predictor.load_state_dict(state)
    return replace(result, fit_seconds=sum(one.fit_seconds for _, _, one, _ in kept)), task


def _with_run(callback: Callback, run: int, logs: dict[str, float]) -> None:
    callback({"run": float(run), **logs})
