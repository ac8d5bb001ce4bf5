"""`Accumulation`: which batches belong to one update of φ, because their gradients are added up."""

import math
from collections.abc import Iterable

from torch import Tensor

from ..utils.modes import sums_of_squares


class Accumulation:
    """The batches since φ's weights last changed, as one.

    A step that a GradScaler skips changes none: the batch after it is a further part of the same update.
    """

    def __init__(self) -> None:
        self._versions: list[int] | None = None
        self._sums: list[float] | None = None
        self._by_version = False
        self.end()

    def end(self) -> None:
        """Whatever comes next begins anew, even with the same weights."""
        self._totals: list[float] = []
        self._counts: list[int] = []

    def goes_on(self, weights: Iterable[Tensor]) -> bool:
        """Whether a batch is a further part of an update that has begun; to be asked once a batch, with φ's ``weights``."""
        weights = list(weights)
        versions, before, was_by_version = [weight._version for weight in weights], self._sums, self._by_version
        self._by_version, self._versions = versions != self._versions, versions
        # Fused optimizers, and what is written through `.data`, count no version; a step at a learning rate of 0 moves no number. The sums
        # cost more than versions, and where versions have changed twice in a row, nobody needs them.
        self._sums = None if was_by_version and self._by_version else sums_of_squares(weights)
        same = not self._by_version and before in (None, self._sums)
        if not same:
            self.end()
        return same and bool(self._totals)

    def mean(self, numbers: list[float]) -> list[float]:
        """The mean of these ``numbers`` of a batch and those of the parts before it; of what is finite alone, NaN where nothing is."""
        if not self._totals:
            self._totals, self._counts = [0.0] * len(numbers), [0] * len(numbers)
        for i, number in enumerate(numbers):
            if math.isfinite(number):  # a batch that overflowed says nothing
                self._totals[i] += number
                self._counts[i] += 1
        return [total / n if n else math.nan for total, n in zip(self._totals, self._counts, strict=True)]
