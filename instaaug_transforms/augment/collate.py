"""Whole batches augmented where a DataLoader collates them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate
from torchvision import tv_tensors

from ..functional.inputs import is_image, plain
from ..functional.targets import POINT_TYPES
from ..utils.errors import InstaAugError, reason
from .learnable import check_aug
from .transform import LearnedAugment

MOVED = (tv_tensors.Mask, *POINT_TYPES)
SEEN = (tv_tensors.Image, tv_tensors.Video)  # stacked, they are plain tensors, of which the first alone is an image


class collate:  # a class, so that spawned workers can unpickle it
    """A ``collate_fn`` that augments the batch: φ and the resample run once per batch, in the worker that made it.

    Masks, boxes and keypoints (tv_tensors) go with their images, and come out stacked, as ``samples`` would have them;
    no gradient is kept.

    Args:
        aug: fitted, on the CPU.
        samples: what collates samples; timm's ``fast_collate`` for timm's loaders with their prefetcher.

    Raises:
        InstaAugError: when called, images that ``samples`` does not stack; masks, boxes or keypoints for which it leaves no place
            like the one they had.

    Example:
        >>> loader = DataLoader(dataset, 64, collate_fn=ia.collate(aug), num_workers=2)
    """

    def __init__(self, aug: LearnedAugment, samples: Callable[[Sequence[Any]], Any] = default_collate) -> None:
        check_aug(aug)
        self.aug, self.samples = aug, samples

    @property
    def _name(self) -> str:
        return getattr(self.samples, "__name__", str(self.samples))

    def __call__(self, batch: Sequence[Any]) -> Any:
        """A list of samples to one batch."""
        leaves = tree_leaves(batch[0])
        try:
            collated = self.samples(batch)
        except TypeError as error:
            if not any(isinstance(leaf, PIL.Image.Image) for leaf in leaves):
                raise
            raise InstaAugError(
                f"samples: {self._name} stacks no PIL images ({reason(error)}); let the dataset's transform end in "
                "v2.ToImage(), at one size, or augment each sample in the dataset"
            ) from error
        except RuntimeError as error:
            images = [
                leaf for sample in batch for leaf in tree_leaves(sample) if isinstance(leaf, Tensor) and leaf.ndim > 2
            ]
            sizes = {tuple(image.shape) for image in images}
            if len(sizes) < 2:
                raise
            raise InstaAugError(
                f"samples: images of several sizes, {', '.join(map(str, sorted(sizes)[:3]))}, are no batch ({reason(error)}); let the "
                "dataset's transform resize them to one, or augment each sample in the dataset"
            ) from error
        moved = sum(isinstance(leaf, MOVED) for leaf in leaves)
        with torch.no_grad():
            if not any(isinstance(leaf, (*MOVED, *SEEN)) for leaf in leaves):
                return self._augmented(collated, len(batch))
            found: list[Any] = []

            def typed(leaves: Sequence[Any], stacked: Any) -> Any:
                found.extend(leaves[:1] if isinstance(leaves[0], MOVED) else ())
                return _typed(leaves, stacked)

            collated = _replaced(batch, collated, typed)
            if len(found) < moved:
                raise InstaAugError(
                    f"samples: {self._name} leaves no place for the masks, boxes or keypoints "
                    "of its samples, which would not move with their images; use default_collate, or augment each sample in the dataset"
                )
            return _replaced(batch, self._augmented(collated, len(batch)), _stacked)

    def _augmented(self, collated: Any, n: int) -> Any:
        """``collated`` of ``n`` samples, each of whose images gets what it asks for: by themselves, all would get what the first does."""
        images = [leaf for leaf in tree_leaves(collated) if is_image(leaf)]
        typed = [leaf for leaf in images if not isinstance(leaf, Tensor) or isinstance(leaf, SEEN)]
        image = next(iter(typed + images), None)  # as v2 chooses
        if (
            n > 1
            and image is not None
            and getattr(image, "ndim", 3) == (4 if isinstance(image, tv_tensors.Video) else 3)
        ):
            raise InstaAugError(
                f"samples: expected the images of a batch in one tensor (B, C, H, W), and {self._name} "
                f"leaves {n} by themselves, {type(image).__name__}s; stack them (default_collate does), or augment each sample in the dataset"
            )
        return self.aug(collated)


def _replaced(samples: Sequence[Any], made: Any, change: Callable[[Sequence[Any], Any], Any]) -> Any:
    """``made``, a structure like each of the samples', with ``change(leaves, part)`` where their leaves are `MOVED` or `SEEN`."""
    first = samples[0]
    if isinstance(first, (*MOVED, *SEEN)):
        return change(samples, made)
    if isinstance(first, Mapping) and isinstance(made, Mapping):
        change_at = {key: _replaced([one[key] for one in samples], made[key], change) for key in first if key in made}
        return {**made, **change_at}
    if isinstance(first, (tuple, list)) and isinstance(made, (tuple, list)) and len(first) == len(made):
        parts = [_replaced(leaves, part, change) for leaves, part in zip(zip(*samples, strict=True), made, strict=True)]
        return type(made)(*parts) if hasattr(made, "_fields") else type(made)(parts)
    return made


def _typed(leaves: Sequence[Any], stacked: Tensor) -> Any:
    """Stacked, they are plain tensors, which nothing moves: images, masks ``(B, N, H, W)``, and boxes and keypoints one by one."""
    if isinstance(leaves[0], SEEN):
        return tv_tensors.wrap(stacked, like=leaves[0]) if isinstance(stacked, Tensor) else stacked
    if isinstance(leaves[0], tv_tensors.Mask):
        return tv_tensors.Mask(stacked.reshape(len(leaves), -1, *stacked.shape[-2:]))
    return list(leaves)


def _stacked(leaves: Sequence[Any], moved: Any) -> Any:
    if isinstance(leaves[0], SEEN):
        return plain(moved) if isinstance(moved, Tensor) else moved
    if isinstance(leaves[0], tv_tensors.Mask):
        return plain(moved).reshape(len(leaves), *leaves[0].shape[:-2], *moved.shape[-2:])
    return default_collate(moved)
