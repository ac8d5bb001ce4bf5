"""What a fit needs of its images besides the images: what φ sees of them, and the losses of their views."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..augment import LearnedAugment
from ..engine.data import Images
from ..engine.nuisance import Nuisance
from ..engine.rows import Rows, SomeRows, chunks, compute_rows
from ..families import CandidateProduct
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..predictors.features import pack
from ..tta.views import sees_images
from ..utils.describe import code_sha256, describe, model_sha256
from ..utils.errors import InstaAugError
from ..utils.modes import permutation
from .loss_table import Viewer
from .losses import per_view
from .task import Task

NOT_MEANT = ("progress", "checkpoint_seconds")  # options of a fit that change none of its numbers


@dataclass(frozen=True)
class Prepared:
    """N images, D disturbed copies of each, and what has been computed of them once.

    Rows are numbered image by image: row r is copy ``r % D`` of image ``r // D``.

    Attributes:
        images: the images as they are.
        draws: D.
        rows: ``"seen-k"`` (N, D, …), what φ sees; ``"mirrored-k"``, the same of the mirror images; ``"losses"`` (N, D, A);
            ``"logits"`` (N, D, V, C) of every view and ``"plain"`` (N, C) of the images as they are.
        device: of φ.
        weights: ``(R,)`` of the copies, 1 on average, where they are not equally likely.
        answered: whether φ's look is the classifier's answer for the image itself.
        nuisance: what disturbed the copies.
        undisturbed: ``(R,)`` bool, the copies that it left as they were; None where there are none, or no nuisance.
        about: what all of it was computed from, as JSON values; empty where nothing is kept.
    """

    images: Images
    draws: int
    rows: dict[str, Rows]
    device: torch.device
    weights: Tensor | None = None
    answered: bool = False
    nuisance: Nuisance | None = None
    undisturbed: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images) * self.draws

    def __contains__(self, name: str) -> bool:
        return any(key == name or key.startswith(f"{name}-") for key in self.rows)

    def take(self, name: str, index: Tensor) -> Tensor:
        """Entries of one array for ``(B,)`` rows."""
        index = index.cpu()
        return self.rows[name][index // self.draws, index % self.draws].to(self.device)

    def seen(self, index: Tensor, mirrored: bool = False) -> tuple[Tensor, ...]:
        """What φ sees of ``(B,)`` rows."""
        stem = "mirrored" if mirrored else "seen"
        return tuple(self.take(name, index) for name in sorted(self.rows) if name.startswith(f"{stem}-"))

    def copies(self, images: Tensor) -> Tensor:
        """The rows of images ``(n,)``, ``(n · D,)``."""
        return (images[:, None] * self.draws + torch.arange(self.draws)).flatten()

    def part(self, images: Tensor) -> "Prepared":
        """Some of the images, and of their rows what a fit reads."""
        rows = {name: SomeRows(rows, images) for name, rows in self.rows.items()}
        weights = None if self.weights is None else self.weights[self.copies(images)]
        return dataclasses.replace(
            self, images=self.images.subset(images), rows=rows, weights=weights, undisturbed=None
        )

    def left_alone(self, most: int) -> Tensor:
        """Of ``most`` images at the most, drawn at random, the first copies ``(n,)`` that the nuisance left as they were."""
        images = permutation(len(self.images), 0)[:most].sort().values
        first = self.undisturbed.unflatten(0, (-1, self.draws))[images].int().argmax(1)
        return images * self.draws + first

    def as_it_was(self, index: Tensor) -> "Prepared":
        """Rows ``(n,)`` that `left_alone` gave: images of which there is one copy, each by itself, and their outputs."""
        images = index // self.draws
        logits = self.rows["logits"][images, index % self.draws]
        rows = {"plain": Rows.of(self.rows["plain"][images]), "logits": Rows.of(logits[:, None])}
        alone = self.images.subset(images)
        alone.groups = None
        everything = torch.ones(len(index), dtype=torch.bool)
        return dataclasses.replace(
            self, images=alone, draws=1, rows=rows, weights=None, nuisance=None, undisturbed=everything
        )

    def weight(self, index: Tensor) -> Tensor:
        """How much each of ``(B,)`` rows counts, on the index's device."""
        return (
            torch.ones(len(index), device=index.device)
            if self.weights is None
            else self.weights[index.cpu()].to(index.device)
        )

    def per_image(self, values: Tensor) -> Tensor:
        """Means ``(N,)`` over the copies of each image, of values ``(R,)``: of ones that are not equally likely, as it were."""
        values = values if self.weights is None else values * self.weights
        return values.unflatten(0, (-1, self.draws)).mean(1)

    def mean(self, values: Tensor) -> Tensor:
        """Likewise over all copies, of ``(R, …)``."""
        if self.weights is None:
            return values.mean(0)
        return (values * self.weights.to(values).reshape(-1, *[1] * (values.ndim - 1))).mean(0)

    def losses(self, index: Tensor) -> Tensor | None:
        """The table's rows ``(B, A)``, if there is a table."""
        return self.take("losses", index) if "losses" in self.rows else None


def prepare(
    task: Task,
    images: Images,
    name: str,
    views: AugmentParams | None,
    folder: Path | None = None,
    *,
    table: Tensor | None = None,
    logits: torch.dtype | None = None,
) -> Prepared:
    """One pass over the images for all of it, or what is in ``folder`` already.

    Args:
        task: whose classifier is held frozen by the caller.
        images: what is fitted to.
        name: ``"table"`` or ``"val_table"``.
        views: ``(V,)`` parameters, the table's A columns first; None without a table.
        folder: keeps all of it; in memory if None.
        table: losses that the caller has computed before, ``(N, A)``.
        logits: also keep the outputs of every view, in this type; in half precision for logits alone.
    """
    aug, classifier, config, nuisance, own = task.aug, task.classifier, task.config, task.nuisance, task.own
    size = images.batch(slice(0, 1))[0].shape[-2:]
    own_columns = (
        0
        if views is None or table is not None
        else CandidateProduct(aug.anchor_families, config.max_columns).n_candidates
    )
    alone = own_columns > 0 and views.batch_shape[0] == own_columns
    orbit = _orbit(aug, nuisance, size) if alone else None
    draws = 1 if nuisance is None else len(orbit) if orbit is not None else config.nuisance_draws
    as_they_are = bool(logits) and nuisance is not None and nuisance.probability < 1
    if as_they_are and orbit is None:
        # Each held-out image both disturbed and as it is: what a change costs such images is rare, and takes many to be seen.
        nuisance, draws = nuisance.paired(), 2 * draws
    viewer = None if views is None else Viewer(aug, classifier, views, config.amp)
    columns = 0 if viewer is None or table is not None else len(viewer)
    mirror = _mirrors(aug, views, nuisance)
    predictor = aug.predictor
    shared = (
        columns > 0
        and isinstance(predictor, FeaturesPredictor)
        and predictor.classifier is classifier
        and aug.output_size is None
    )

    def compute(batch: Tensor, targets: Tensor | None, part: slice) -> dict[str, Tensor]:
        numbers = torch.arange(part.start, part.stop)
        out: dict[str, Tensor] = {}
        if viewer is not None and (own or logits):
            plain = viewer.plain(batch)
            targets = own(plain) if own else targets
            if logits:
                out["plain"] = stored(plain, logits)
        parts: dict[str, list[Tensor]] = {}
        answers = []
        for draw in range(draws):
            copy = batch
            if orbit is not None:
                turn = viewer.views.for_each(len(batch)).index(draw)
                # As large as the image: φ looks before views get their ``output_size``.
                copy = functional.apply(batch, turn, aug.families, None, aug.fill, aug.interpolation)
            elif nuisance is not None:
                copy = nuisance(batch, numbers, draw)
            first = []
            if shared and copy.shape[-1] == copy.shape[-2] == predictor.image_size:
                with torch.autocast(copy.device.type, torch.bfloat16, enabled=config.amp):
                    tapped = predictor.tap(copy.contiguous(memory_format=torch.channels_last))
                seen, first = pack(tapped), [tapped.logits]
            else:
                seen = predictor.encode(copy)
            for k, tensor in enumerate(seen):
                parts.setdefault(f"seen-{k}", []).append(tensor)
            if mirror:
                for k, tensor in enumerate(predictor.encode(copy.flip(-1))):
                    parts.setdefault(f"mirrored-{k}", []).append(tensor)
            if columns:
                rest = range(len(first), 1 if orbit is not None else columns)
                answers.append(first + [viewer.outputs(copy, a) for a in rest])
        if columns:
            if (
                orbit is not None
            ):  # view b of what view a made is view orbit[a, b] of the image: nothing is looked at twice
                every = [answer[0] for answer in answers]
                answers = [[every[int(c)] for c in orbit[d]] for d in range(draws)]
            kept = [
                [per_view(task.loss, outputs, targets, len(batch)).float() for outputs in answer] for answer in answers
            ]
            out["losses"] = torch.stack([torch.stack(row[:own_columns], 1) for row in kept], 1)
            if logits:
                out["logits"] = torch.stack([stored(torch.stack(answer, 1), logits) for answer in answers], 1)
        return out | {key: torch.stack(values, 1) for key, values in parts.items()}

    about: dict[str, Any] = {}
    if folder is not None:
        about = {"predictor": predictor.config(), "images": images.fingerprint(), "own": own is not None}
        about["code of the classifier"] = code_sha256(classifier)
        about |= {"nuisance": None if nuisance is None else nuisance.about(), "draws": draws}
        about |= {} if viewer is None else {**viewer.about(), "loss": describe(task.loss), "logits": logits is not None}
    rows = compute_rows(
        images,
        compute,
        chunk=config.table_batch_size,
        folder=folder,
        name="loss table" if name == "table" else "held-out loss table",
        about=about,
        forwards=max(columns if orbit is None else 1, 1) * draws,
        device=aug.device,
        progress=config.progress,
    )
    weights = None
    if orbit is not None and nuisance.probability < 1:  # the image as it is, and every turn as often as chance has it
        weights = torch.full((len(images), draws), nuisance.probability)
        weights[:, 0] += draws * (1 - nuisance.probability)
        weights = weights.flatten()
    answered = sees_images(aug, classifier, size)
    undisturbed = None
    if as_they_are and orbit is not None:
        undisturbed = (torch.arange(len(images) * draws) % draws) == 0
    elif as_they_are:
        numbers, probability = torch.arange(len(images)), task.nuisance.probability
        undisturbed = torch.stack([~nuisance.chosen(numbers, draw) for draw in range(draws)], 1).flatten()
        if probability != nuisance.probability:
            weights = torch.where(undisturbed, 2 * (1 - probability), 2 * probability)
    prepared = Prepared(images, draws, rows, aug.device, weights, answered, nuisance, undisturbed, about)
    if table is not None:
        expected = (len(images), views.batch_shape[0])
        if table.shape != expected:
            raise InstaAugError(
                f"{name}: expected shape {expected} (images, candidates), got {tuple(table.shape)}; build it again for these "
                "data and families"
            )
        rows["losses"] = Rows.of(table.float()[:, None])
    if "losses" in rows and not all(
        rows["losses"][part].isfinite().all() for part in chunks(len(images), config.table_batch_size)
    ):
        raise InstaAugError(
            f"{name}: holds losses that are not finite; look at the classifier's outputs, and the targets"
        )
    return prepared


def stored(outputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Outputs as they are kept. In half precision logits ``(…, classes)`` are, whose largest is 0 then: what all have in common says
    nothing, and leaves no digits for the differences. Of classes that are ruled out they are its smallest number."""
    if dtype != torch.float16:
        return outputs.to(dtype)
    outputs = outputs.float().clamp(-1e30, 1e30)
    return (outputs - outputs.amax(-1, keepdim=True)).clamp(min=-6e4).half()


def _orbit(aug: LearnedAugment, nuisance: Nuisance | None, size: torch.Size) -> Tensor | None:
    """The composition table, if disturbances are the very candidates and undone by them: quarter turns, say."""
    if nuisance is None or len(aug.families) != 1 or len(nuisance.steps) != 1:
        return None
    family, step = aug.anchor_families[0], nuisance.steps[0]
    same = nuisance.families and (type(step), step.config()) == (type(family), family.config())
    # A turn of an image that is no square loses what another turn cannot bring back.
    return family.compose_index() if same and family.keeps_inside(*size) else None


def _mirrors(aug: LearnedAugment, views: AugmentParams | None, nuisance: Nuisance | None) -> bool:
    """Whether the table of a mirrored image is a permutation of the image's own: then images are mirrored for nothing."""
    alone = len(aug.families) == 1 and len(aug.anchor_families) == 1
    return views is not None and nuisance is None and alone and aug.anchor_families[0].mirror_index() is not None


def belongs_to(task: Task, train: Prepared, val: Prepared) -> dict[str, Any]:
    """What a checkpoint belongs to, as JSON values."""
    settings = {key: value for key, value in dataclasses.asdict(task.config).items() if key not in NOT_MEANT}
    return {
        "transform": task.aug.config(),
        "classifier": model_sha256(task.classifier),
        "code of the classifier": code_sha256(task.classifier),
        "loss": describe(task.loss),
        "train_data": train.images.fingerprint(),
        "val_data": val.images.fingerprint(),
        "disturbed": {name: train.about.get(name) for name in ("nuisance", "draws", "own")},
        **settings,
    }
