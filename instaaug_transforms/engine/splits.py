"""Which images are held out of a fit, to choose on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..utils.errors import InstaAugError
from ..utils.modes import permutation
from .data import Images

ENOUGH = 100  # images to choose on; with a tenth of a few hundred, chance decides


def hold_out(data: Images, seed: int, fraction: float | None = None) -> tuple[Images, Images]:
    """A part to fit on and, chosen by the seed, a part to choose on; the same ones for the same seed. Groups are kept together, and
    each is one of the `ENOUGH`.

    Args:
        data: at least two images, and groups if they have any.
        seed: of the choice.
        fraction: share to choose on; by default a tenth, but `ENOUGH` images, or half of them all where they are few.

    Raises:
        InstaAugError: fewer than two images, or all in one group.
    """
    if data.groups is not None and len(data.groups.unique()) < 2:
        raise InstaAugError(
            "groups: whole groups are held out to choose on, and all images are of one; or give val_data"
        )
    if len(data) < 2:
        raise InstaAugError(
            f"train_data: a part is held out to choose on, which takes at least two images, got {len(data)}; or give val_data"
        )
    order = permutation(len(data), seed)
    share = max(0.1 * len(data), min(ENOUGH, len(data) / 2)) if fraction is None else len(data) * fraction
    held = max(1, int(share))
    if data.groups is not None:
        order, held = _whole_groups(data.groups, held, ENOUGH if fraction is None else 0, seed)
    return data.subset(order[held:]), data.subset(order[:held])


def folds(data: Images, n: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of a part, chosen by the seed, and of all others, ``n`` times: every image is in one of the parts, beside all of its group."""
    place = torch.arange(len(data)) if data.groups is None else data.groups.unique(return_inverse=True)[1]
    part = (permutation(int(place.max()) + 1, seed) % n)[place]
    for k in range(n):
        yield (part == k).nonzero()[:, 0], (part != k).nonzero()[:, 0]


def _whole_groups(groups: Tensor, n: int, enough: int, seed: int) -> tuple[Tensor, int]:
    """An order in which whole groups come first, ``n`` images or somewhat more, and ``enough`` groups or half of them, but not all; and how
    many images these are."""
    names, place = groups.unique(return_inverse=True)
    rank = permutation(len(names), seed).argsort()
    order = rank[place].argsort(stable=True)
    ends = place.bincount()[rank.argsort()].cumsum(0)  # of the groups in their order
    last = max(int((ends < n).sum()), min(enough, len(names) // 2) - 1)
    return order, int(ends[min(last, len(names) - 2)])
