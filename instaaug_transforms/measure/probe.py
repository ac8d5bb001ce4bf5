"""A frozen model on a fixed set of images: one place that runs forwards, for every measurement."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..utils.errors import InstaAugError
from ..utils.modes import frozen
from .embed import Embed, embedding, flat
from .images import MeasuredImages
from .transformations import Transformation
from .warp import Fill, check_fills, fill_name


class Step(NamedTuple):
    """All images under one transformation at one magnitude."""

    transformation: Transformation
    fill: str  # as `fill_name`; "" where the transformation shows nothing from outside
    magnitude: float
    z: Tensor  # (N, D) embeddings
    outputs: Tensor  # (N, classes)


class Probe:
    """Embeddings and outputs of images, as they are and transformed.

    Attributes:
        layer: what is embedded, in words.
        z: ``(N, D)``; outputs: ``(N, classes)``, of the images as they are. On the CPU.
    """

    def __init__(
        self,
        embed: Embed,
        layer: str,
        images: MeasuredImages,
        device: torch.device,
        batch_size: int,
        amp: bool,
        progress: bool | None,
    ) -> None:
        self._embed, self.layer, self.images, self.device = embed, layer, images, device
        self._batch_size, self._amp = batch_size, amp
        self._disable = None if progress is None else not progress
        self._still: tuple[Tensor, Tensor] | None = None
        self.z, self.outputs = self.run(lambda x: x)

    def batches(self) -> Iterator[Tensor]:
        """Float images in [0, 1], channels_last, as convolutions on a CPU want them."""
        for start in range(0, len(self.images), self._batch_size):
            x = self.images.batch(slice(start, start + self._batch_size), self.device)[0]
            yield x.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding, of its own shape, and outputs of one batch in [0, 1]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._amp):
            return self._embed(self.images.to_model(images))

    @torch.inference_mode()
    def run(self, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """``(N, D)`` embeddings and ``(N, classes)`` outputs of every image after ``change``."""
        parts = []
        for x in self.batches():
            z, outputs = self.forward(change(x))
            parts.append((flat(z).cpu(), outputs.cpu()))
        return torch.cat([z for z, _ in parts]), torch.cat([outputs for _, outputs in parts])

    def still(self) -> tuple[Tensor, Tensor]:
        """The images as they are, forwarded a second time: what differs from the first is the model's own noise."""
        if self._still is None:
            self._still = self.run(lambda x: x)
        return self._still

    def steps(self, transformations: Sequence[Transformation], fills: Sequence[Fill]) -> Iterator[Step]:
        """Every transformation under every fill (where it shows any) at every magnitude, in that order.

        The identity's images are the originals bit for bit, so all sweeps share one second forward of them.
        """
        fills = check_fills(fills)
        sweeps = [(t, fill) for t in transformations for fill in (fills if t.uses_fill else fills[:1])]
        total = len(self.images) * sum(len(t.magnitudes) for t, _ in sweeps)
        with tqdm(total=total, desc="measure", unit="image", unit_scale=True, disable=self._disable) as bar:
            for t, fill in sweeps:
                bar.set_postfix_str(t.name, refresh=False)
                for magnitude in t.magnitudes:
                    if magnitude == t.identity:
                        z, outputs = self.still()
                    else:
                        z, outputs = self.run(lambda x, t=t, m=magnitude, fill=fill: t.apply(x, m, fill))
                    yield Step(t, fill_name(fill) if t.uses_fill else "", magnitude, z, outputs)
                    bar.update(len(self.images))


@contextmanager
def probing(
    model: nn.Module,
    images: MeasuredImages,
    layer: str | None = None,
    *,
    batch_size: int = 256,
    amp: bool = False,
    progress: bool | None = None,
) -> Iterator[Probe]:
    """A `Probe` on ``model``, which is in eval mode and frozen meanwhile and as before afterwards.

    Args:
        model: images to outputs.
        images: from `prepare`.
        layer: what to embed, see `embedding`.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        progress: show bars; None where the output is a terminal.
    """
    if len(images) < 2:
        raise InstaAugError(f"data: distances to other images need at least 2 images, got {len(images)}")
    first = next(model.parameters(), None)
    first = first if first is not None else next(model.buffers(), None)
    device = torch.device("cpu") if first is None else first.device
    example = images.to_model(images.batch(slice(0, 2), device)[0])
    with frozen(model), embedding(model, layer, example) as (embed, name):
        yield Probe(embed, name, images, device, batch_size, amp, progress)
