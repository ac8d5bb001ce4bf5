"""What a fit, or `recommend`, asks of a classifier; checked before anything long begins."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ..augment import LearnedAugment
from ..engine.data import Images, StreamedImages
from ..engine.nuisance import Nuisance, Step
from ..engine.rows import rows_in
from ..predictors import FeaturesPredictor
from ..tta.views import normalizing
from ..utils.errors import InstaAugError
from ..utils.modes import frozen, without_autocast
from .config import FitConfig
from .losses import PerViewLoss, cross_entropy, find_loss, own_answers
from .report import HeldOutReport

logger = logging.getLogger(__name__)

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's weights expect
RIGHT_BY_DEFINITION = (
    "without labels and without a nuisance, one view is right by definition: give labels, or nuisance="
)
BETTER_THAN_ITS_OWN = (
    "an average that answers better than one view counts as wrong here, where one view of an image as it is says what is right: if you "
    "can label some hundred images, give (images, labels), and see whether fixed views gain"
)
NONE_AS_THEY_ARE = (
    "every held-out image was disturbed: what images as they are would lose by it was not looked at. If some of yours are, "
    "lower nuisance_probability and see"
)
TOO_RARE = (
    "a nuisance of probability {0:g} leaves most images as they are, and φ learns little of it: fit with nuisance_probability=0.5, and find "
    "out by recommend, with {0:g}, what that gives where so few are disturbed"
)
USUAL = 0.5  # probability of a nuisance, at which images that it disturbs and others count alike


@dataclass(frozen=True)
class Task:
    """A transform, a classifier that judges its views, and what it judges them by.

    Attributes:
        aug: on the classifier's device.
        classifier: images in [0, 1] to outputs.
        loss: of its outputs and targets, per view.
        config: of the fit.
        nuisance: disturbs images before φ and the classifier see them.
        own: what makes targets of the classifier's answers on the images as they are; None where labels are the targets.
    """

    aug: LearnedAugment
    classifier: nn.Module
    loss: PerViewLoss = cross_entropy
    config: FitConfig = field(default_factory=FitConfig)
    nuisance: Nuisance | None = None
    own: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(
        cls,
        aug: LearnedAugment,
        classifier: nn.Module,
        loss: PerViewLoss | str,
        config: FitConfig,
        nuisance: Step | Sequence[Step] | None,
        labels: bool | None,
        images: Images,
        sampled: bool,
    ) -> "Task":
        """As the arguments of `fit` say it, for ``images`` that it starts from; ``sampled``: views are, and no table is made.

        Raises:
            InstaAugError: labels that are not there, a loss that has no answers of the classifier's own, or both without a table.
        """
        loss = find_loss(loss)
        if not (labels is None or isinstance(labels, bool)):
            raise InstaAugError(
                f"labels: expected True, False or None, whether they are the target, got {type(labels).__name__}; labels themselves come with "
                "their images, (images, labels)"
            )
        if labels and images.targets is None:
            raise InstaAugError(
                "labels: asked for, but train_data has none; give (images, labels), or leave labels=True out"
            )
        is_own = images.targets is None or (nuisance is not None and labels is None) or labels is False
        own = own_answers(loss) if is_own else None
        undo = None if nuisance is None else Nuisance(nuisance, config.nuisance_probability, config.seed)
        if sampled and (undo is not None or own is not None):
            through = "nuisance: disturbed images are looked at through a table"
            if undo is None:
                through = "data: images without labels are looked at through a table"
            raise InstaAugError(f"{through}; use families of candidates (crop, turn, light, …) and objective='paper'")
        task = cls(aug, normalizing(aug, classifier), loss, config, undo, own)
        warn_about_normalization(task.classifier, aug.in_channels)
        warn_about_look(aug, images)
        return task

    @property
    def by_classes(self) -> bool:
        """Whether the loss is the cross-entropy of logits."""
        return self.loss is cross_entropy

    def what_was_not_asked(self, report: HeldOutReport, fitted: bool = True) -> list[str]:
        """What no image told that the report is made of, a sentence each; ``fitted``: φ learned from the nuisance too."""
        single = report.arms[0]
        if self.nuisance is None:
            return [] if self.own is None else [RIGHT_BY_DEFINITION]
        if report.recommended is single:
            rare = fitted and self.nuisance.probability < USUAL
            notes = [TOO_RARE.format(self.nuisance.probability)] if rare else []
            return notes if report.labelled else [*notes, BETTER_THAN_ITS_OWN]
        known = single.undisturbed is not None or single.undisturbed_nll is not None
        return [] if known else [NONE_AS_THEY_ARE]

    @contextmanager
    def at_work(self, workdir: str | os.PathLike | None, *data: Images) -> Iterator[Path | None]:
        """Holds the classifier frozen, and jitter off: a table holds the candidates themselves. Gives the folder for tables.

        It is ``workdir`` or, where images are streamed, a temporary one; None for tables in memory. Autocast around it is off: ``config.amp``
        says what the classifier runs in.
        """
        folder = None if workdir is None else Path(workdir)
        jittering = [family for family in self.aug.anchor_families if family.jitter]
        for family in jittering:
            family.jitter = False
        streamed = any(isinstance(part, StreamedImages) for part in data)
        try:
            with frozen(self.classifier), without_autocast(self.aug.device), rows_in(folder, streamed) as rows:
                yield rows
        finally:
            for family in jittering:
                family.jitter = True


def warn_about_normalization(classifier: nn.Module, channels: int) -> None:
    """Say where images in [0, 1] go to a bare timm or torchvision model, whose weights mostly expect them normalised."""
    config = getattr(classifier, "pretrained_cfg", None)
    config = config if isinstance(config, Mapping) else {}
    mean, std = config.get("mean"), config.get("std")
    if type(classifier).__module__.startswith("torchvision.models"):
        mean, std = IMAGENET
    if mean is None or std is None or (set(mean), set(std)) == ({0.0}, {1.0}):
        return
    # timm tells three numbers of models of any channels.
    mean, std = (tuple(mean), tuple(std)) if len(mean) == channels else ("mean", "std")
    logger.warning(
        "classifier: it gets images in [0, 1], and a bare %s is mostly trained on normalised ones; if this one is, put the "
        "normalisation inside, or its answers are wrong: torch.nn.Sequential(v2.Normalize(%s, %s), classifier), or ia.timm.wrap",
        type(classifier).__name__,
        mean,
        std,
    )


def warn_about_look(aug: LearnedAugment, images: Images) -> None:
    """Say where a predictor on features looks at images of another size than the classifier."""
    predictor = aug.predictor
    if not isinstance(predictor, FeaturesPredictor):
        return
    height, width = aug.output_size or images.batch(slice(0, 1))[0].shape[-2:]
    if height == width != predictor.image_size:
        logger.warning(
            "predictor: it looks at the classifier's features of %d-pixel copies, and the classifier at %d pixels; "
            "FeaturesPredictor(classifier, image_size=%d) sees what the classifier sees, and one forward pass then serves both",
            predictor.image_size,
            height,
            height,
        )
