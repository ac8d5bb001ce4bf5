"""The one module that imports timm: classifiers by name, with their normalisation inside."""

import os
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..utils.errors import InstaAugError


class Classifier(nn.Module):
    """A timm model that takes images in [0, 1]: ``(x − mean) / std`` is its first layer.

    Attributes:
        model: the wrapped model.
        num_classes, pretrained_cfg: as timm's own models have them; but mean and std in it are 0 and 1, so that what timm
            resolves from it (`resolve_data_config`, `create_loader`) does not normalise a second time.
    """

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.num_classes = getattr(model, "num_classes", None)
        self.pretrained_cfg = {
            **(getattr(model, "pretrained_cfg", None) or {}),
            "mean": (0.0,) * len(mean),
            "std": (1.0,) * len(std),
        }
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to logits ``(B, classes)``."""
        return self.model((images - self.mean) / self.std)


def wrap(model: nn.Module, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> Classifier:
    """Put the normalisation that timm resolves for ``model`` inside it.

    Args:
        model: a timm model.
        mean, std: per channel; those of `timm.data.resolve_model_data_config` where None.
    """
    config = timm.data.resolve_model_data_config(model)
    mean, std = mean or config["mean"], std or config["std"]
    channels = getattr(model, "in_chans", None) or config["input_size"][0]
    if channels == 1 and len(mean) == 3:  # timm keeps the RGB figures for one-channel models
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Classifier(model, tuple(mean), tuple(std))


def create_classifier(
    name: str,
    checkpoint: str | os.PathLike | None = None,
    num_classes: int | None = None,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    **kwargs: Any,
) -> Classifier:
    """A timm model by name, weights from a .safetensors file, normalisation inside.

    Args:
        name: as in `timm.list_models`.
        checkpoint: weights; random ones where None.
        num_classes: classes; timm's default where None.
        mean, std: per channel, see `wrap`.
        **kwargs: further arguments of `timm.create_model`.

    Raises:
        InstaAugError: an unknown model, a file that is no .safetensors, or weights of another model.
    """
    if not timm.is_model(name):
        raise InstaAugError(f"model: timm has no {name!r}; timm.list_models('*{name[:6]}*') searches it")
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    model = timm.create_model(name, **kwargs)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return wrap(model, mean, std)


def load_checkpoint(model: nn.Module, checkpoint: str | os.PathLike) -> None:
    """Load weights from a .safetensors file into ``model``, all keys, cast to its dtype. Nothing is unpickled."""
    if not str(checkpoint).endswith(".safetensors"):
        raise InstaAugError(
            f"checkpoint: only .safetensors files are read (others can run code), got {str(checkpoint)!r}; convert it "
            "once with safetensors.torch.save_model"
        )
    try:
        tensors = load_file(checkpoint)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError) as error:
        raise InstaAugError(f"checkpoint: {checkpoint} cannot be read: {error}") from error
    except RuntimeError as error:
        raise InstaAugError(f"checkpoint: {checkpoint} does not fit {type(model).__name__}: {error}") from error
