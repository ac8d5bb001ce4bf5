"""One sample of a Dataset, however it comes: image and label in a tuple, in a dictionary, or an image alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.transforms.v2 import functional as F

from ..utils.errors import InstaAugError, reason

# As Hugging Face's datasets call them.
IMAGE_KEYS, LABEL_KEYS = ("image", "img", "pixel_values"), ("label", "labels", "fine_label")


def parts(sample: Any, name: str) -> tuple[Any, Any]:
    """Image and label of a sample; None for a label that it has not.

    Args:
        sample: as a Dataset gives it.
        name: the argument's name, for errors.

    Raises:
        InstaAugError: a dictionary without an image.
    """
    if isinstance(sample, Mapping):
        image, label = (next((sample[key] for key in keys if key in sample), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
        if image is None:
            raise InstaAugError(
                f"{name}: its samples are dictionaries of {', '.join(map(str, sample))}; call the image {IMAGE_KEYS[0]!r} "
                f"and the label {LABEL_KEYS[0]!r}"
            )
        return image, label
    if isinstance(sample, (tuple, list)):
        return sample[0], sample[1] if len(sample) > 1 else None
    return sample, None


class Samples(Dataset):
    """`parts` of the samples of a Dataset; whatever that raises comes with the index.

    Attributes:
        others: what the last sample, a dictionary, holds beside an image and what is known as a label.

    Args:
        dataset: anything with samples by index.
        name: the argument's name, for errors.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name, self.others = dataset, name, []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            sample = self.dataset[index]
        except InstaAugError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {reason(error)}"
            raise InstaAugError(f"{self.name}: sample {index} cannot be read ({said})") from error
        if isinstance(sample, Mapping):
            self.others = [str(key) for key in sample if key not in (*IMAGE_KEYS, *LABEL_KEYS)]
        return parts(sample, self.name)


def without_key(others: Sequence[str], name: str) -> str:
    """Of dictionaries that hold others beside an image, and no label by a name that is known: that they are taken for images alone."""
    return (
        f"{name}: its samples are dictionaries without any of {', '.join(map(repr, LABEL_KEYS))}, so they are images without labels; if "
        f"one of {', '.join(map(repr, others))} is the label, call it {LABEL_KEYS[0]!r}"
    )


def collated(labels: Sequence[Any], name: str) -> Any:
    """The labels of all samples as one: a tensor of numbers, several an image if there are.

    Raises:
        InstaAugError: they differ in number.
    """
    try:
        # Several numbers in a list would be collated column by column.
        return default_collate([torch.as_tensor(one) if isinstance(one, (list, tuple)) else one for one in labels])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InstaAugError(
            f"{name}: labels must be numbers, as many for every image ({reason(error)}); give samples (image, label), or one tensor of all "
            "images and one of all labels"
        ) from error


def as_image(image: Any, name: str) -> Tensor:
    """A PIL image, an array ``(H, W, C)`` or a tensor ``(C, H, W)`` as the latter.

    Raises:
        InstaAugError: something else, a batch say, or a picture with a palette.
    """
    if isinstance(image, Image) and image.mode == "P":
        raise InstaAugError(
            f"{name}: got a PIL image of mode 'P', whose numbers are places in a palette; convert it: image.convert('RGB')"
        )
    if isinstance(image, (Image, np.ndarray)):
        image = F.to_image(image)
    if isinstance(image, Tensor) and image.ndim == 3:
        return image.as_subclass(Tensor)
    given = f"a tensor {tuple(image.shape)}" if isinstance(image, Tensor) else kind(image)
    raise InstaAugError(
        f"{name}: expected samples (image, label) or images alone, PIL or tensors (C, H, W), one by index; got {given} for "
        "an image"
    )


def kind(thing: Any) -> str:
    """The type of something, and of its first element."""
    inner = f" of {type(thing[0]).__name__}" if isinstance(thing, (list, tuple)) and thing else ""
    return type(thing).__name__ + inner
