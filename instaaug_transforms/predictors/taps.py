"""What a classifier makes of an image on the way to its logits."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InstaAugError, reason
from ..utils.forward import in_parts
from ..utils.hooks import record, submodule
from ..utils.modes import at_rest, evaluating
from ..utils.outputs import as_weights, check_logits, told

LARGEST_MAP = 8


class Tapped(NamedTuple):
    """One forward: a feature map ``(B, C, h, w)``, the input of the last linear layer ``(B, D)``, logits ``(B, K)``."""

    map: Tensor
    penultimate: Tensor
    logits: Tensor
    levels: Tensor | None = None  # (B, C, L) of the image itself, for who wants them


class Taps:
    """Reads a feature map and the penultimate features of any classifier through forward hooks.

    Args:
        classifier: images in [0, 1] to logits ``(B, K)``. The penultimate features are what its last linear layer (or 1×1
            convolution) with K outputs takes; the mean of the map if it has none.
        layer: name of the submodule whose output is the map, ``(B, C, h, w)`` or tokens ``(B, N, C)``; found by
            `find_layer` by default.

    Raises:
        InstaAugError: no submodule of that name; when called, one that is not run or gives no map.
    """

    def __init__(self, classifier: nn.Module, layer: str | None, n_classes: int) -> None:
        submodule(classifier, layer)
        # A classifier without a last linear layer, a nearest-mean classifier say, shows its pooled map instead.
        last = [name for name, module in classifier.named_modules() if name and _outputs(module) == n_classes]
        self.classifier, self._layer, self._last = classifier, layer, last[-1:]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tapped:
        """Images ``(B, C, H, W)`` in [0, 1], in eval mode, without gradients; the classifier's modes come back."""
        parts = in_parts(images)
        if len(parts) > 1:
            return Tapped(*(torch.cat(field) for field in zip(*(self(part)[:3] for part in parts), strict=True)))
        # Threads that meet it in training mode take turns, or one would be shown what another had switched.
        resting = evaluating if torch.compiler.is_compiling() else at_rest
        with resting(self.classifier), record(self.classifier, outputs=[self._layer], inputs=self._last) as seen:
            logits = self.classifier(as_weights(self.classifier, images))
        out = seen.outputs.get(self._layer)
        if not isinstance(out, Tensor) or out.ndim not in (3, 4):
            given = "was not run" if out is None else f"gives {told(out)}"
            raise InstaAugError(
                f"layer: expected maps (B, C, h, w) or tokens (B, N, C), and {self._layer!r} {given}; name another layer"
            )
        maps = as_map(out)
        penultimate = next(iter(seen.inputs.values()), maps.flatten(2).mean(-1))
        if max(maps.shape[-2:]) > LARGEST_MAP:
            maps = F.adaptive_avg_pool2d(maps, LARGEST_MAP)
        if penultimate.ndim > 2:
            penultimate = penultimate.flatten(2).mean(-1) if penultimate.ndim == 4 else penultimate.mean(1)
        return Tapped(maps.float(), penultimate.float(), logits.float())


def find_layer(classifier: nn.Module, images: Tensor) -> tuple[str, int]:
    """The submodule whose output is the deepest map of at least 8×8 units, or else the largest map.

    Returns:
        Its name, and the number of classes K.
    """
    # Programs of torch.jit take no hooks.
    names = [name for name, part in classifier.named_modules() if name and not isinstance(part, torch.jit.ScriptModule)]
    size = len(images)
    recording = record(classifier, outputs=names, keep=lambda out: (_map_shape(out, size), _shape(out)))
    with evaluating(classifier), torch.no_grad(), recording as seen:
        logits = _logits(classifier, images)
    mixing = _mixing({name: raw for name, (shape, raw) in seen.outputs.items() if shape})
    maps = {name: shape for name, (shape, _) in seen.outputs.items() if shape and name not in mixing}
    if not maps:
        raise InstaAugError(
            "classifier: none of its layers gives a feature map that is square; name one, FeaturesPredictor(…, layer=…), or use predictor='conv'"
        )
    sides = {name: min(shape[-2:]) for name, shape in maps.items()}
    side = min((s for s in sides.values() if s >= LARGEST_MAP), default=max(sides.values()))
    # The last one at that size, in the order in which they were finished: hooks of outer modules run last. Blocks rather
    # than layers inside one, which may have many times as many channels on the way to the next size.
    at_side = [name for name, s in sides.items() if s == side]
    blocks = [name for name in at_side if next(classifier.get_submodule(name).children(), None) is not None]
    return (blocks or at_side)[-1], logits.shape[1]


def count_classes(classifier: nn.Module, images: Tensor) -> int:
    """K of its logits ``(B, K)``."""
    with evaluating(classifier), torch.no_grad():
        return _logits(classifier, images).shape[1]


def _logits(classifier: nn.Module, images: Tensor) -> Tensor:
    try:
        outputs = classifier(as_weights(classifier, images))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InstaAugError(
            f"classifier: it does not take images {tuple(images.shape)}: {reason(error)}; give the side of yours, FeaturesPredictor(…, "
            "image_size=224) say, and LearnedAugment their in_channels"
        ) from error
    if isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.shape[1:] == (1,):
        return outputs  # a regressor's one number: there is no posterior to read, and all the rest
    if isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim == 1:
        raise InstaAugError(
            f"classifier: its features are read beside outputs (B, K), got {told(outputs)}; wrap it in a module that returns model(x)[:, None]"
        )
    return check_logits(outputs)


def as_map(out: Tensor) -> Tensor:
    """Tokens ``(B, N, C)`` and ``(B, h, w, C)`` to ``(B, C, h, w)``; class and register tokens are left out."""
    if out.ndim == 4:
        channels_last = out.shape[1] == out.shape[2] != out.shape[3]
        return out.permute(0, 3, 1, 2) if channels_last else out
    side = int(out.shape[1] ** 0.5)
    return out[:, out.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))


def _map_shape(out: object, batch: int) -> tuple[int, ...]:
    """Shape of a module's output as a map of ``batch`` square images; empty if it is none (the windows of a Swin, say)."""
    if not isinstance(out, Tensor) or out.ndim not in (3, 4) or len(out) != batch:
        return ()
    if out.ndim == 3:
        # Up to five class and register tokens before a square of patches.
        side = int(out.shape[1] ** 0.5)
        if side < 2 or out.shape[1] - side * side > 5:
            return ()
    shape = as_map(out).shape
    # Queries and keys (B, heads, N, d) are no map: of a square image a map is square.
    return tuple(shape) if shape[-1] == shape[-2] > 1 else ()


def _shape(out: object) -> tuple[int, ...]:
    return tuple(out.shape) if isinstance(out, Tensor) else ()


def _mixing(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Modules that work across tokens, so that what they give only looks like a map.

    The innermost module around them that gives tokens (B, N, C) tells N and C. Token layers of an MLP-Mixer give (B, C, …);
    attention weights are (B, heads, N, N), (B, N, N, heads) or, between channels, (B, heads, C/heads, C/heads).
    """
    mixing: set[str] = set()
    for name in sorted(shapes, key=lambda name: name.count(".")):
        shape, outer = shapes[name], name.rpartition(".")[0]
        while outer and (len(shapes.get(outer, ())) != 3 or outer in mixing):
            outer = outer.rpartition(".")[0]
        if outer:
            _, n, channels = shapes[outer]
            if len(shape) == 3:
                mixes = shape[1] == channels != n
            else:
                mixes = shape[2] == n in (shape[1], shape[3]) or shape[1] * shape[2] == channels
            mixing |= {name} if mixes else set()
    return mixing


def _outputs(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) else 0
