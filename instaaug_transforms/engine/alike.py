"""Images that look nearly alike, as frames of a video do: of what is chosen on some of them, the others are no witnesses."""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.modes import permutation
from .data import Images
from .rows import chunks

logger = logging.getLogger(__name__)

ALIKE = 0.2  # of the usual distance between two images, between two that are nearly the same; of photographs next to none are as near
SHARE = 0.1  # of the images, that may look nearly like others
LOOKED_AT = 200, 1000  # images, and others, that are compared to tell
FEWEST = 50  # groups, below which images are rather of a few kinds than frames of scenes
LARGEST = 0.1  # of the images, in one group; likewise
SIDE = 8  # pixels of the copies that are: small, for what has moved a little to stay the same


def count_alike(images: Images, others: Images) -> tuple[int, int]:
    """How many of some ``images`` look nearly like one of ``others``, or 0 if they are few; and how many that some is."""
    parts = zip((images, others), LOOKED_AT, strict=True)
    some, rest = (_small(part, permutation(len(part), 0)[:most]) for part, most in parts)
    return _count(torch.cdist(some, rest)), len(some)


def grouped_if_alike(images: Images, held: bool = False) -> Images:
    """The same images; where many look nearly alike, those that do are a group, which the log says. ``held``: they are held out already.

    They stay as they are where the groups say something else: drawings of a few kinds, or a chain of images, each like the next.
    """
    drawn, (few, many) = permutation(len(images), 0), LOOKED_AT
    if (few := min(few, len(images) // 2)) == 0:
        return images  # one image is like no other
    some, rest = _small(images, drawn[:few]), _small(images, drawn[few : few + many])
    if not (alike := _count(distances := torch.cdist(some, rest))):
        return images
    groups = _components(_small(images, torch.arange(len(images))), ALIKE * float(distances.median()))
    if groups.max() + 1 < FEWEST or np.bincount(groups).max() > LARGEST * len(groups):
        return images
    together = "are held out together, in %d groups, and each group counts as one image. groups= says it better"
    logger.warning(
        "%s: %d of %d look nearly like another, as frames of one video do, or scans of one patient: images that look alike "
        + ("count as one, in %d groups" if held else together),
        "val_data" if held else "images",
        alike,
        few,
        groups.max() + 1,
    )
    return images.grouped(groups)


def _count(distances: Tensor) -> int:
    """Rows that have a small one, or 0 if these are few."""
    if not distances.numel():
        return 0
    alike = int((distances.amin(1) < ALIKE * distances.median()).sum())
    return alike if alike > max(2, SHARE * len(distances)) else 0


def _small(images: Images, rows: Tensor) -> Tensor:
    """Copies ``(n, numbers)`` of the images of ``rows``."""
    parts = images.batches(rows.split(64))
    copies = [F.adaptive_avg_pool2d(part.float(), SIDE).flatten(1) for part, _ in parts]
    return torch.cat(copies) if copies else torch.zeros(0, 1)


def _components(copies: Tensor, distance: float) -> np.ndarray:
    """``(N,)`` the number of each image's group: those that a chain of steps shorter than ``distance`` leads to."""
    from scipy.sparse import coo_array  # takes a while to import
    from scipy.sparse.csgraph import connected_components

    near = []
    for part in chunks(len(copies), 256):
        rows, columns = (torch.cdist(copies[part], copies) < distance).nonzero().T
        near.append(torch.stack([rows + part.start, columns]))
    pairs = torch.cat(near, 1).numpy()
    graph = coo_array((np.ones(pairs.shape[1], np.int8), tuple(pairs)), shape=(len(copies),) * 2)
    return connected_components(graph, directed=False)[1]
