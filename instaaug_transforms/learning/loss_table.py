"""The loss table of a frozen classifier: L[i, a] is the loss of image i seen through candidate a."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..engine.data import load
from ..engine.rows import compute_rows
from ..families import CandidateProduct, identity_of
from ..families.product import MAX_COLUMNS
from ..params import AugmentParams
from ..tta.arms import families_for
from ..utils.describe import code_sha256, describe, model_sha256
from ..utils.forward import answers
from ..utils.modes import frozen
from ..utils.outputs import as_labels, check_logits
from .losses import PerViewLoss, cross_entropy, find_loss, per_view


class Viewer:
    """A frozen classifier that looks at images through every candidate of a table.

    Args:
        aug: its families, output size, fill and interpolation make the views.
        classifier: images in [0, 1] to outputs, in eval mode.
        views: ``(V,)`` parameters, the same for all images; every combination of ``aug``'s candidates by default. Crops
            and rotations act too where ``aug`` has neither.
        amp: bfloat16 autocast.
    """

    def __init__(
        self, aug: LearnedAugment, classifier: nn.Module, views: AugmentParams | None = None, amp: bool = False
    ) -> None:
        self.aug, self.classifier, self.amp = aug, classifier, amp
        self.views = CandidateProduct(aug.anchor_families).candidates() if views is None else views
        self.views = self.views.to(aug.device)
        own = {field for family in aug.families for field in family.fields}
        # Zooms and mirror images, say, beside a transform that only turns: the families act that act in a `TTAModel`.
        self.families = None if set(self.views) <= own else families_for(aug)

    def __len__(self) -> int:
        return self.views.batch_shape[0]

    def outputs(self, images: Tensor, view: int) -> Tensor:
        """The classifier's outputs of ``(B, C, H, W)`` images through one view."""
        params = self.views.for_each(len(images)).index(view)
        return answers(self.classifier, self.aug.apply(images, params, families=self.families), self.amp)

    def plain(self, images: Tensor) -> Tensor:
        """The classifier's outputs of the images themselves, at the size at which it sees the views."""
        if self.aug.output_size not in (None, tuple(images.shape[-2:])):
            identity = AugmentParams.alike(identity_of(self.aug.families), len(images), images.device)
            images = self.aug.apply(images, identity)
        return answers(self.classifier, images, self.amp)

    def about(self) -> dict[str, Any]:
        """What its answers depend on, as JSON values; the images apart."""
        config = self.aug.config()
        kept = ("families", "output_size", "fill", "interpolation")
        views = {name: field.tolist() for name, field in self.views.items()}
        about = {
            "classifier": model_sha256(self.classifier),
            "code of the classifier": code_sha256(self.classifier),
            "views": views,
            "amp": self.amp,
        }
        about |= {} if self.families is None else {"acting": [family.name for family in self.families]}
        return about | {name: config[name] for name in kept}


def build_loss_table(
    classifier: nn.Module,
    data: Any,
    aug: LearnedAugment,
    *,
    loss: PerViewLoss | str = cross_entropy,
    batch_size: int = 256,
    amp: bool = False,
    progress: bool | None = None,
    desc: str = "loss table",
    folder: str | os.PathLike | None = None,
    max_columns: int = MAX_COLUMNS,
) -> Tensor:
    """One forward per image and candidate, jitter off; shared by the processes of `torch.distributed`.

    Args:
        classifier: images in [0, 1] to outputs; held in eval mode meanwhile.
        data: N labelled images, as `fit` takes them, that the classifier has not memorised.
        aug: whose anchor families' candidates are tried: every combination, the last family's varying fastest.
        loss: per-view loss of (outputs, targets), or the name of one, as for `fit`.
        batch_size: images per chunk, and views per forward.
        amp: bfloat16 autocast.
        progress: show a bar; by default where the output is a terminal.
        desc: of the bar; also the name of the folder.
        folder: keep the table there, memory-mapped, and go on with what is there already: a kill loses one chunk at
            most. In memory if None.
        max_columns: the largest table allowed.

    Returns:
        ``(N, A)`` float32 on the CPU.

    Raises:
        InstaAugError: no labels, or none of the classifier's classes, a table that is too wide, or ``folder`` holds the table of
            other images, another classifier, another loss or other settings.
    """
    aug, loss, folder = check_aug(aug), find_loss(loss), None if folder is None else Path(folder)
    source = load(data, channels=aug.in_channels, labelled=True)
    table = CandidateProduct(aug.anchor_families, max_columns)
    viewer = Viewer(aug, classifier, table.candidates(), amp)

    def compute(images: Tensor, targets: Tensor, _: slice) -> dict[str, Tensor]:
        kept: list[Tensor] = []
        for a in range(len(viewer)):
            outputs = viewer.outputs(images, a)
            if not kept and loss is cross_entropy:
                targets = as_labels(targets, check_logits(outputs).shape[1], "data")
            kept.append(per_view(loss, outputs, targets, len(images)))
        return {"losses": torch.stack(kept, 1).float()}

    about = {} if folder is None else {**viewer.about(), "loss": describe(loss), "images": source.fingerprint()}
    with frozen(classifier):
        rows = compute_rows(
            source,
            compute,
            chunk=batch_size,
            folder=folder,
            name=desc,
            about=about,
            forwards=len(viewer),
            device=aug.device,
            progress=progress,
        )
    return rows["losses"].tensor()
