"""Entry points of ``torch.hub``: ``torch.hub.load(repo, "learned_augment", weights="crop_tinyimagenet")``."""

import sys
import warnings
from pathlib import Path
from typing import Any

dependencies = ["torch", "torchvision", "kornia", "safetensors", "scipy", "tabulate", "tqdm"]

_ROOT = str(Path(__file__).resolve().parent)


def _package() -> Any:
    # torch.hub, which has put its folder first, takes it off the path again; DataLoader workers that are spawned must still find
    # the package. Last: what else lies here, tests say, may be called as the user's own.
    if _ROOT not in sys.path[1:]:
        sys.path.append(_ROOT)
    import instaaug_transforms

    found = str(Path(instaaug_transforms.__file__).resolve().parent.parent)
    if found != _ROOT:
        warnings.warn(
            f"instaaug_transforms is already imported from {found}; its code and weights are used, not {_ROOT}",
            stacklevel=3,
        )
    return instaaug_transforms


def learned_augment(weights: str = "crop_tinyimagenet", **overrides: Any) -> Any:
    """A pretrained `LearnedAugment`, frozen and in eval mode.

    Args:
        weights: a name of ``list_weights()``, or a file that ``LearnedAugment.save`` wrote.
        **overrides: constructor arguments to change: ``p``, ``same_on_batch``, ``normalization``, ``output_size``,
            ``fill``.
    """
    return _package().LearnedAugment.from_pretrained(weights, **overrides)


def turn_photos(**overrides: Any) -> Any:
    """Quarter turns of photographs undone, for any classifier."""
    return learned_augment("turn_photos", **overrides)


def light_photos(**overrides: Any) -> Any:
    """Exposure and white balance of photographs undone, for any classifier."""
    return learned_augment("light_photos", **overrides)


def turn_light_photos(**overrides: Any) -> Any:
    """Quarter turns and light of photographs undone, for any classifier."""
    return learned_augment("turn_light_photos", **overrides)


def crop_tinyimagenet(**overrides: Any) -> Any:
    """Crops, fitted to a frozen ResNet-18 on Tiny-ImageNet."""
    return learned_augment("crop_tinyimagenet", **overrides)


def crop_rotate_hsv_tinyimagenet(**overrides: Any) -> Any:
    """Crops, rotations and colours, fitted to a frozen ResNet-18 on Tiny-ImageNet."""
    return learned_augment("crop_rotate_hsv_tinyimagenet", **overrides)


def list_weights() -> list[str]:
    """The names of the checkpoints."""
    return _package().list_weights()
