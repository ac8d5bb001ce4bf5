"""A frozen model on a fixed set of images: one place that runs forwards, for every measurement."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..utils.errors import InstaAugError
from ..utils.forward import in_parts
from ..utils.progress import bar
from .embed import embedder
from .images import MeasuredImages
from .transformations import Transformation
from .warp import Outside, fill_name


class Step(NamedTuple):
    """All images under one transformation at one magnitude."""

    transformation: Transformation
    fill: str  # as `fill_name`; "" if the transformation shows nothing from outside
    magnitude: float
    z: Tensor  # (N, D) embeddings
    outputs: Tensor  # (N, classes)

    @property
    def at_identity(self) -> bool:
        return self.magnitude == self.transformation.identity

    @property
    def about(self) -> dict[str, str | float]:
        return {"transformation": self.transformation.name, "fill": self.fill, "magnitude": self.magnitude}


@dataclass
class Session:
    """Embeddings and outputs of images, as they are and transformed, of a model that `Probe` keeps frozen meanwhile. Fields are its
    arguments; ``layer`` becomes a name in words.

    Attributes:
        z: ``(N, D)``; outputs: ``(N, classes)``, of the images as they are. On the CPU.
    """

    model: nn.Module
    images: MeasuredImages
    layer: str | None
    batch_size: int
    amp: bool
    seed: int
    progress: bool | None

    def __post_init__(self) -> None:
        first = next(self.model.parameters(), next(self.model.buffers(), None))
        self.device = torch.device("cpu") if first is None else first.device
        example = self.images.to_model(self.images.batch(slice(0, 2), self.device)[0])
        self._embed, self.layer = embedder(self.model, self.layer, example)
        self.z, self.outputs = self.run(lambda x: x)

    def batches(self) -> Iterator[Tensor]:
        """Float images in [0, 1], channels_last, as convolutions on a CPU want them."""
        for start in range(0, len(self.images), self.batch_size):
            x = self.images.batch(slice(start, start + self.batch_size), self.device)[0]
            yield x.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding, of its own shape, and outputs of one batch in [0, 1]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            return self._embed(self.images.to_model(images))

    def check_maps(self, z: Tensor) -> None:
        """Raise unless embeddings, of their own shape, are maps."""
        if z.ndim != 4:
            given = f"{self.layer!r} gives {tuple(z.shape)}"
            raise InstaAugError(f"layer: {given}, maps (B, C, h, w) are needed; name an earlier layer")

    @torch.inference_mode()
    def run(self, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """``(N, D)`` embeddings and ``(N, classes)`` outputs of every image after ``change``."""
        changed = (change(x) for x in self.batches())
        forwards = (self.forward(part) for x in changed for part in in_parts(x))
        z, outputs = zip(*((z.flatten(1).cpu(), outputs.cpu()) for z, outputs in forwards), strict=True)
        z, outputs = torch.cat(z), torch.cat(outputs)
        if nan := int((z.isnan().any(1) | outputs.flatten(1).isnan().any(1)).sum()):
            raise InstaAugError(f"model: it gives NaN for {nan} of {len(z)} images; find what makes it, a division say")
        return z, outputs

    def progress_bar(self, desc: str, total: int) -> tqdm:
        """A progress bar over ``total`` images."""
        return bar(total=total, desc=desc, unit="image", unit_scale=True, progress=self.progress)

    def steps(self, transformations: Sequence[Transformation], fills: Sequence[Outside]) -> Iterator[Step]:
        """Every transformation under every fill (if it shows any) at every magnitude, in that order."""
        again = None  # all identities share one second forward, which differs from the first by the model's own noise
        sweeps = [(t, fill) for t in transformations for fill in (fills if t.uses_fill else fills[:1])]
        with self.progress_bar("measure", len(self.images) * sum(len(t.magnitudes) for t, _ in sweeps)) as bar:
            for t, fill in sweeps:
                bar.set_postfix_str(t.name, refresh=False)
                for magnitude in t.magnitudes:
                    if magnitude != t.identity:
                        z, outputs = self.run(lambda x, t=t, m=magnitude, fill=fill: t.apply(x, m, fill))
                    else:
                        again = z, outputs = again or self.run(lambda x: x)
                    yield Step(t, fill_name(fill) if t.uses_fill else "", magnitude, z, outputs)
                    bar.update(len(self.images))
