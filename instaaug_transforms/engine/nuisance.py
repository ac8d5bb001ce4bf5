"""Disturbances that images suffer before anybody looks at them: what a camera did, simulated."""

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .. import functional
from ..families import Family, available, create
from ..params import AugmentParams
from ..utils.describe import describe
from ..utils.errors import InstaAugError, check_number, reason
from ..utils.modes import seed_generators
from ..utils.outputs import told

PAIRED = 0.5  # probability at which draws come in pairs
OVERSHOOT = 0.01  # outside [0, 1], that interpolation may leave and that is cut off
Step = str | Family | Callable[[Tensor], Tensor]


class Nuisance:
    """Random disturbances of images, the same for the same seed, image and draw, whatever the batch.

    Args:
        steps: names of families, or families, drawn as widely as they can undo (`Family.disturb`); or torchvision
            transforms, which take images ``(C, H, W)`` in [0, 1] and give such, or bytes, or PIL images. Several act one
            after the other. What a transform draws from the global generators of PyTorch, NumPy and Python is seeded.
        probability: that an image is disturbed at all; the others stay as they are. Where it is ½, of the draws 2d and 2d + 1 of an
            image one is disturbed and one is not.
        seed: of everything drawn.

    Raises:
        InstaAugError: something else than a family or a transform, or a probability outside (0, 1].
    """

    def __init__(self, steps: Step | Sequence[Step], probability: float = 0.5, seed: int = 0) -> None:
        one = isinstance(steps, (str, Family)) or callable(steps) or not isinstance(steps, Iterable)
        steps = [steps] if one else list(steps)
        check_number("nuisance_probability", probability, "(0, 1]")
        if not steps:
            raise InstaAugError("nuisance: expected at least one family or transform, got none")
        self.probability, self.seed, self.steps = float(probability), int(seed), []
        for step in steps:
            if isinstance(step, (str, Family)):
                if isinstance(step, str) and step not in available():
                    raise InstaAugError(
                        f"nuisance: unknown family {step!r}; known are {', '.join(available())}; or give a transform"
                    )
                (step,) = create([step])
            elif not callable(step) or isinstance(step, type):
                given = f"the class {step.__name__}; make one of it" if isinstance(step, type) else type(step).__name__
                raise InstaAugError(f"nuisance: expected names of families or torchvision transforms, got {given}")
            self.steps.append(step)

    @property
    def families(self) -> list[Family]:
        """Those of its steps that are families."""
        return [step for step in self.steps if isinstance(step, Family)]

    def paired(self) -> "Nuisance":
        """The same disturbances, of the draws 2d and 2d + 1 of an image one."""
        other = copy.copy(self)
        other.probability = PAIRED
        return other

    def about(self) -> dict[str, Any]:
        """What tells it from others, as JSON values."""
        steps = [repr(step) if isinstance(step, Family) else describe(step) for step in self.steps]
        paired = {"paired": True} if self.probability == PAIRED else {}
        return {"steps": steps, "probability": self.probability, "seed": self.seed, **paired}

    def chosen(self, rows: Tensor, draw: int = 0) -> Tensor:
        """Which images ``rows`` (n,) are disturbed, ``(n,)`` bool."""
        if self.probability != PAIRED:
            return self._uniform(rows, draw, 1)[:, 0] < self.probability
        return (self._uniform(rows, draw - draw % 2, 1)[:, 0] < 0.5) ^ bool(draw % 2)

    def drawn(self, place: int, rows: Tensor, draw: int = 0) -> AugmentParams:
        """What step ``place``, a family, does to images ``rows`` (n,), where they are disturbed: ``(n,)`` parameters."""
        step = self.steps[place]
        return AugmentParams(**step.disturb(self._uniform(rows, draw, step.n_disturb, place + 1)))

    def __call__(self, images: Tensor, rows: Tensor, draw: int = 0) -> Tensor:
        """Disturbed copies of images ``(n, C, H, W)`` in [0, 1].

        Args:
            images: see above.
            rows: ``(n,)``, which images of the data set they are.
            draw: number of the copy.
        """
        disturbed = self.chosen(rows, draw).to(images.device)
        out = images
        for place, step in enumerate(self.steps):
            if isinstance(step, Family):
                if step.channels is not None and images.shape[1] not in step.channels:
                    raise InstaAugError(
                        f"nuisance: family {step.name!r} is defined on {step.channels} channels, the images have {images.shape[1]}"
                    )
                out = functional.apply(out, self.drawn(place, rows.cpu(), draw).to(images.device), [step])
            else:
                pairs = zip(out, rows.tolist(), strict=True)
                out = torch.stack([self._one(step, image, self._key(row, draw, place + 1)) for image, row in pairs])
        if out.shape != images.shape and self.probability < 1:
            raise InstaAugError(
                f"nuisance: it changes the size of images from {tuple(images.shape[1:])} to {tuple(out.shape[1:])}, so that "
                "some cannot stay as they are; give nuisance_probability=1, or a transform that keeps the size"
            )
        if bool(disturbed.all()):
            return out
        return torch.where(disturbed[:, None, None, None], out, images)

    def _one(self, step: Callable[[Tensor], Tensor], image: Tensor, seed: int) -> Tensor:
        with _seeded(seed, image.device):
            try:
                made = step(image.clone())  # some work in place, and the image itself is needed as it was
            except Exception as error:
                name = getattr(step, "__name__", type(step).__name__)
                fix = "; it takes bytes: put v2.ToDtype(torch.uint8, scale=True) before it, in one v2.Compose"
                raise InstaAugError(
                    f"nuisance: {name} fails on an image {tuple(image.shape)}, {image.dtype} in [0, 1]: {reason(error).rstrip('.')}"
                    f"{fix if _takes_bytes(step, image) else ''}"
                ) from error
        return _checked(made, image)

    def _uniform(self, rows: Tensor, draw: int, count: int, place: int = 0) -> Tensor:
        """``(n, count)`` in [0, 1); place 0 tells whether an image is disturbed, place k how step k − 1 does it."""
        return torch.stack(
            [
                torch.rand(count, generator=torch.Generator().manual_seed(self._key(row, draw, place)))
                for row in rows.tolist()
            ]
        ).reshape(len(rows), count)

    def _key(self, row: int, draw: int, place: int) -> int:
        key = 0
        for part in (self.seed, row, draw, place):
            key = (key * 6_364_136_223_846_793_005 + part + 1_442_695_040_888_963_407) % 2**63
        return key


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torchvision draws from PyTorch's global generators; a transform of one's own may draw from Python's or NumPy's."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_generators(seed, device)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def _takes_bytes(step: Callable[[Tensor], Any], image: Tensor) -> bool:
    try:
        step(image.mul(255).to(torch.uint8))
    except Exception:  # of whatever kind: it fails on these too
        return False
    return True


def _checked(out: Any, image: Tensor) -> Tensor:
    """What a transform made of an image, float in [0, 1] as that was.

    Raises:
        InstaAugError: it is no image, or has left [0, 1].
    """
    if isinstance(out, Image):
        out = F.to_image(out)
    if not isinstance(out, Tensor) or out.ndim != 3 or len(out) != len(image):
        raise InstaAugError(
            f"nuisance: of an image {tuple(image.shape)} a transform made {told(out)}; it must give an image with as many channels"
        )
    if out.dtype == torch.uint8:
        out = out / 255
    if not bool(out.isfinite().all()):
        raise InstaAugError("nuisance: a transform gave values that are not finite; images stay in [0, 1]")
    low, high = out.min().item(), out.max().item()
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise InstaAugError(
            f"nuisance: a transform gave values from {low:g} to {high:g}; images stay in [0, 1]. Leave v2.Normalize to the "
            "classifier, and clamp what noise adds"
        )
    return out.as_subclass(Tensor).to(image.dtype).clamp(0, 1)
