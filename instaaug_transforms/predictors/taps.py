"""What a classifier makes of an image on the way to its logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InstaAugError

LARGEST_MAP = 8


class Tapped(NamedTuple):
    """One forward: a feature map ``(B, C, h, w)``, the input of the last linear layer ``(B, D)``, logits ``(B, K)``."""

    map: Tensor
    penultimate: Tensor
    logits: Tensor


class Taps:
    """Reads a feature map and the penultimate features of any classifier through forward hooks.

    Args:
        classifier: images in [0, 1] to logits ``(B, K)``. It needs a linear layer (or 1×1 convolution) with K outputs.
        layer: name of the submodule whose output is the map, ``(B, C, h, w)`` or tokens ``(B, N, C)``; found by
            `find_layer` where None.

    Raises:
        InstaAugError: no submodule of that name, or no such linear layer.
    """

    def __init__(self, classifier: nn.Module, layer: str | None, n_classes: int) -> None:
        modules = dict(classifier.named_modules())
        if layer not in modules:
            raise InstaAugError(f"layer: the classifier has no submodule {layer!r}; see classifier.named_modules()")
        last = [m for m in modules.values() if _outputs(m) == n_classes]
        if not last:
            raise InstaAugError(
                f"classifier: no linear layer with {n_classes} outputs, the number of its logits; φ cannot find its "
                "features. Use predictor='conv'"
            )
        self.classifier, self._layer, self._last = classifier, modules[layer], last[-1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tapped:
        """Images ``(B, C, H, W)`` in [0, 1], in eval mode, without gradients; the classifier's modes come back."""
        seen: dict[str, Tensor] = {}
        hooks = [
            self._layer.register_forward_hook(lambda m, i, out: seen.__setitem__("map", out)),
            self._last.register_forward_hook(lambda m, i, out: seen.__setitem__("penultimate", i[0])),
        ]
        try:
            with evaluating(self.classifier):
                logits = self.classifier(images)
        finally:
            for hook in hooks:
                hook.remove()
        maps, penultimate = as_map(seen["map"]), seen["penultimate"]
        if max(maps.shape[-2:]) > LARGEST_MAP:
            maps = F.adaptive_avg_pool2d(maps, LARGEST_MAP)
        if penultimate.ndim > 2:
            penultimate = penultimate.flatten(2).mean(-1) if penultimate.ndim == 4 else penultimate.mean(1)
        return Tapped(maps.float(), penultimate.float(), logits.float())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode as before afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def find_layer(classifier: nn.Module, images: Tensor) -> tuple[str, int, int]:
    """The submodule whose output is the deepest map of at least 8×8 units, or else the largest map.

    Returns:
        Its name, the number of classes K and D, sizes that one forward of ``images`` shows.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: shapes.__setitem__(name, _map_shape(out)))
        for name, module in classifier.named_modules()
        if name
    ]
    try:
        with evaluating(classifier), torch.no_grad():
            logits = classifier(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InstaAugError("classifier: φ can read the features of models with logits (B, classes) alone")
    maps = {name: shape for name, shape in shapes.items() if shape}
    if not maps:
        raise InstaAugError("classifier: none of its layers gives a feature map; name one, or use predictor='conv'")
    sides = {name: min(shape[-2:]) for name, shape in maps.items()}
    side = min((s for s in sides.values() if s >= LARGEST_MAP), default=max(sides.values()))
    # The last one at that size, in the order in which they were finished: hooks of outer modules run last.
    name = [name for name, s in sides.items() if s == side][-1]
    return name, logits.shape[1], maps[name][1]


def as_map(out: Tensor) -> Tensor:
    """Tokens ``(B, N, C)`` and ``(B, h, w, C)`` to ``(B, C, h, w)``; class and register tokens are left out."""
    if out.ndim == 4:
        channels_last = out.shape[1] == out.shape[2] != out.shape[3]
        return out.permute(0, 3, 1, 2) if channels_last else out
    side = int(out.shape[1] ** 0.5)
    return out[:, out.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))


def _map_shape(out: object) -> tuple[int, ...]:
    """Shape of a module's output as a map; empty where it is none."""
    if not isinstance(out, Tensor) or out.ndim not in (3, 4):
        return ()
    if out.ndim == 3:
        # Up to five class and register tokens before a square of patches.
        side = int(out.shape[1] ** 0.5)
        if side < 2 or out.shape[1] - side * side > 5:
            return ()
    shape = as_map(out).shape
    return tuple(shape) if min(shape[-2:]) > 1 else ()


def _outputs(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) else 0
