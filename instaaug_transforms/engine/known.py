"""What a Dataset or its DataLoader says of its samples without giving them: labels, names, an order."""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, default_collate

from ..utils.errors import InstaAugError

logger = logging.getLogger(__name__)


def sampled_rows(loader: DataLoader, name: str) -> Tensor:
    """The rows that a DataLoader goes through, each once."""
    iterable = isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__")
    if iterable or loader.batch_sampler is None:
        raise InstaAugError(
            f"{name}: a DataLoader without a map-style Dataset cannot be read at random; give the Dataset, and of what can only be iterated "
            "a list of its samples: list(dataset)"
        )
    if loader.collate_fn is not default_collate:
        logger.warning(
            "%s: the DataLoader's collate_fn is not used; images and labels are those of its Dataset, one by one. Change them there",
            name,
        )
    with torch.random.fork_rng([]):  # samplers draw from the global generator
        batches = loader.batch_sampler if loader.batch_size is None else [loader.sampler]
        rows = sorted({int(row) for batch in batches for row in batch})
    return torch.tensor(rows, dtype=torch.long)


def same_label(known: Any, given: Any) -> bool:
    """Whether two labels are the same."""
    try:
        known, given = torch.as_tensor(known), torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):  # names of classes, say
        return known == given
    return known.shape == given.shape and bool((known == given).all())


def known_targets(dataset: Dataset) -> Any:
    """Targets that a Dataset knows without reading its images."""
    if isinstance(dataset, Subset):
        known = _as_numbers(known_targets(dataset.dataset))
        return None if known is None else known[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_as_numbers(known_targets(part)) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat(parts)
    if getattr(dataset, "target_transform", None) is not None:
        return None
    targets = getattr(dataset, "targets", None)
    return targets if isinstance(targets, (list, Tensor)) and len(targets) == len(dataset) else None


def _as_numbers(targets: Any) -> Tensor | None:
    """None where they are none, names of classes say: the samples' own labels are then told apart."""
    try:
        return None if targets is None else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None


def known_identities(dataset: Dataset) -> list[str] | None:
    if isinstance(dataset, Subset):
        return names_of(known_identities(dataset.dataset), torch.as_tensor(dataset.indices))
    if isinstance(dataset, ConcatDataset):
        parts = [known_identities(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [name for part in parts for name in part]
    paths = getattr(dataset, "paths", None)
    if paths is None and isinstance(getattr(dataset, "samples", None), list):
        paths = [sample[0] for sample in dataset.samples]
    return [str(path) for path in paths] if paths is not None and len(paths) == len(dataset) else None


def names_of(names: list[str] | None, index: Tensor | slice) -> list[str] | None:
    if names is None:
        return None
    return names[index] if isinstance(index, slice) else [names[i] for i in index.tolist()]
