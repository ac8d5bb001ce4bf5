"""Whole batches augmented where a DataLoader collates them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from .transform import LearnedAugment


class collate:  # a class, so that spawned workers can unpickle it
    """A ``collate_fn`` that augments the batch: φ and the resample run once per batch, in the worker that made it.

    Whatever goes with the images goes through `LearnedAugment` with them, as in any v2 transform; no gradient is kept.

    Args:
        aug: fitted, on the CPU.
        samples: what collates samples; timm's ``fast_collate`` for timm's loaders with their prefetcher.

    Example:
        >>> loader = DataLoader(dataset, 64, collate_fn=ia.collate(aug), num_workers=2)
    """

    def __init__(self, aug: LearnedAugment, samples: Callable[[Sequence[Any]], Any] = default_collate) -> None:
        self.aug, self.samples = aug, samples

    def __call__(self, batch: Sequence[Any]) -> Any:
        """A list of samples to one batch."""
        with torch.no_grad():
            return self.aug(self.samples(batch))
