"""Says in the log, once, when a family's ranges have collapsed, are saturated, or λ is at its limit; and what is wrong with data."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..engine.alike import count_alike
from ..engine.data import Images
from ..families import Family
from ..utils.modes import sums_of_squares
from .entropy import EntropyController
from .prepared import Prepared
from .scores import Scores

logger = logging.getLogger(__name__)

PATIENCE = 200  # updates in a row before anything is said: every run starts narrow
COLLAPSED = 1.0  # nats below the band; of a table, half of the way to 0 if that is less
TOLERANCE = 0.1  # nats outside the band that a fit may end with
SATURATED = 0.02  # nats below the largest entropy
MOST_ALIKE = 20  # images with the same small numbers that are looked at more closely
COPIES = 0.02  # of the held-out images, that may be among the others


class Watch:
    """Counts, per family, how many updates in a row something has been wrong.

    Args:
        families: those of the transform.
        patience: updates in a row until it is logged.
    """

    def __init__(self, families: Sequence[Family], patience: int = PATIENCE) -> None:
        self.largest = {family.name: family.max_entropy() for family in families}
        self.patience = patience
        self._streak: dict[tuple[str, str], int] = {}
        self._warned: set[tuple[str, str]] = set()
        self._calls, self._first = 0, list[float]()

    def weights(self, weights: Iterable[Tensor]) -> None:
        """φ's, at every batch: log where none has changed after ``patience`` of them."""
        self._calls += 1
        if self._calls not in (1, self.patience):
            return
        now = sums_of_squares(weights)
        if self._calls == 1:
            self._first = now
        elif now == self._first:
            logger.warning(
                f"objective: no weight of φ has changed in {self.patience} batches, so that nothing of the augmentation is learned. Unless the "
                "gradients of as many are accumulated for one update, give them to the optimizer, "
                'optimizer.add_param_group({"params": objective.parameters()}), with a learning rate above 0'
            )

    def update(self, entropies: Mapping[str, float], controller: EntropyController) -> None:
        """Mean entropies (nats) of one batch, after the controller's step."""
        for name, entropy in entropies.items():
            if not math.isfinite(entropy):  # a batch that overflowed
                continue
            below = controller.violation(name, entropy)
            low, high = controller.bands[name]
            most = controller.limits[1]
            at_limit = controller.settled_weight(name) >= most * (1 - 1e-6)
            self._note(
                name,
                "forgotten",
                controller.forgets and below > 0,
                f"{name}: entropy {entropy:.2f} nats is below its band [{low:.2f}, {high:.2f}], and on the way there the loss has risen from "
                f"{controller.losses.get('lowest', 0):.2g} to {controller.losses.get('recent', 0):.2g}. λ falls until the model has learned such views; "
                "if their labels cannot be told, lower the band",
                patience=1,
            )
            # The entropy of a table cannot fall below 0: of a few candidates it is gone before it is a nat below the band.
            collapsed = min(COLLAPSED, low / 2) if low > 0 else COLLAPSED
            self._note(
                name,
                "collapse",
                below > collapsed,
                f"{name}: entropy {entropy:.2f} nats has stayed more than {collapsed:.2g} below its band "
                f"[{low:.2f}, {high:.2f}]: (almost) nothing is augmented. Raise λ, e.g. "
                f"EntropyConfig(initial_weight={2 * controller.settled_weight(name):.2g}), or its rate, or φ's learning rate",
            )
            # Early: a model that learns from nothing but such views does not recover in a short run.
            self._note(
                name,
                "saturation",
                entropy > min(self.largest[name] - SATURATED, high + COLLAPSED) and high < self.largest[name],
                f"{name}: entropy {entropy:.2f} nats is near its largest, {self.largest[name]:.2f}, and above its band [{low:.2f}, {high:.2f}]: "
                "every image gets nearly the widest range. If training has just begun, begin it without augmentation, or leave warm_up on; "
                "else lower the band or EntropyConfig.initial_weight, or check that the loss depends on the augmented image",
                patience=self.patience // 4,
            )
            self._note(
                name,
                "limit",
                at_limit and below > 0,
                f"{name}: λ is at its limit {most:g} and entropy {entropy:.2f} nats is still below the "
                f"band [{low:.2f}, {high:.2f}]: the loss forbids this band; choose a lower one",
            )

    def _note(self, name: str, what: str, wrong: bool, message: str, patience: int | None = None) -> None:
        key = (name, what)
        self._streak[key] = self._streak.get(key, 0) + 1 if wrong else 0
        if self._streak[key] >= (patience or self.patience) and key not in self._warned:
            self._warned.add(key)
            logger.warning(message)


def warn_outside_band(entropies: Mapping[str, float], controller: EntropyController) -> None:
    """Log, per family, that the epoch a fit has kept lies outside its band, and what to change.

    Args:
        entropies: mean entropies (nats) of that epoch.
        controller: with the bands and the λ the fit came to.
    """
    for name, entropy in entropies.items():
        low, high = controller.bands[name]
        weight = controller.settled_weight(name)
        if entropy < low - TOLERANCE:
            logger.warning(
                f"{name}: the epoch that was kept has entropy {entropy:.2f} nats, below its band [{low:.2f}, {high:.2f}]: "
                f"too little is augmented. Give FitConfig more epochs, EntropyConfig(initial_weight={2 * weight:.2g}) or a higher lr; or, "
                "where the loss forbids the band, a lower one"
            )
        elif entropy > high + TOLERANCE:
            logger.warning(
                f"{name}: the epoch that was kept has entropy {entropy:.2f} nats, above its band [{low:.2f}, {high:.2f}]: "
                f"too much is augmented. Give FitConfig more epochs, EntropyConfig(initial_weight={weight / 2:.2g}) or a "
                "smaller rate; or a higher band"
            )


def warn_about_data(train: Prepared, held: Prepared) -> None:
    """Log what the losses of the images themselves give away: images learned by heart.

    Args:
        train, held: with tables; column 0 is the image itself.
    """
    losses = [part.rows["losses"].tensor()[:, :, 0].mean(1) for part in (train, held)]
    if len(losses[0]) < 50 or len(losses[1]) < 50:
        return
    # Memorised images are nearly all sure: half of them have next to no loss, where others have some.
    gap = losses[1].mean() - losses[0].mean()
    error = torch.stack([part.var() / len(part) for part in losses]).sum().sqrt()
    if gap > 4 * error and gap > 0.3 * losses[1].mean():
        logger.warning(
            f"train_data: the classifier's loss on it is {losses[0].mean():.2f} nats, on the held-out images "
            f"{losses[1].mean():.2f}: it has memorised the former, and what is fitted to them will not hold for others. Fit "
            "on images it was not trained on"
        )


def warn_about_labels(scores: Scores | None) -> None:
    """Log what is wrong with labels, before the long work."""
    doubt = None if scores is None else scores.doubt()
    if doubt is not None:
        logger.warning(doubt[0])


def warn_about_alike(train: Images, held: Images) -> None:
    """Log that many held-out images look nearly like one that φ learns from, as frames of a video do: they are no witnesses either."""
    alike, some = count_alike(held, train)
    if alike:
        logger.warning(
            f"val_data: {alike} of {some} held-out images look nearly like one that φ learns from. If such are frames of one video, "
            "say, or scans of one patient, what is chosen on them, and the report, flatter the fit: keep them together by groups="
        )


def warn_about_copies(train: Prepared, held: Prepared) -> None:
    """Log that φ sees of held-out images exactly what it sees of images it learns from, or nearly: they are no witnesses."""
    names = [name for name in train.rows if name.startswith("seen-")]
    # Of several things it sees the smallest, and where that is the same all of them: few numbers are alike by chance.
    name = min(names, key=lambda name: train.rows[name][:1].numel())
    if not train.rows[name][:1].numel():  # it does not look at images
        return
    known: dict[bytes, list[int]] = {}
    for i, row in enumerate(_seen(train, name)):
        known.setdefault(row.tobytes(), []).append(i)

    def same(i: int, k: int) -> bool:
        return all(torch.equal(held.take(n, torch.tensor([i])), train.take(n, torch.tensor([k]))) for n in names)

    copies: set[int] = set()  # of images, each of which may be there both disturbed and as it is
    for i, row in enumerate(_seen(held, name)):
        if any(same(i, k) for k in known.get(row.tobytes(), [])[:MOST_ALIKE]):
            copies.add(i // held.draws)
    if len(copies) > max(1, COPIES * len(held.images)):
        logger.warning(
            f"val_data: {len(copies)} of the {len(held.images)} held-out images are among those φ learns from, so what is chosen on them, "
            "and the report, flatter the fit; leave copies out, or give other images as val_data"
        )
    else:
        warn_about_alike(train.images, held.images)


def _seen(data: Prepared, name: str) -> Iterator[np.ndarray]:
    for index in torch.arange(len(data)).split(256):
        yield from data.take(name, index).cpu().numpy()
