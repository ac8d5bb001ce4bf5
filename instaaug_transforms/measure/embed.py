"""Embedding and output of a model in one forward, whatever its architecture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..utils.errors import InstaAugError

Embed = Callable[[Tensor], tuple[Tensor, Tensor]]
PENULTIMATE = "penultimate"
OUTPUT = "output"


@contextmanager
def embedding(model: nn.Module, layer: str | None, example: Tensor) -> Iterator[tuple[Embed, str]]:
    """A function from images to (embedding, outputs), and the name of what is embedded; hooks go with the context.

    Args:
        model: images to outputs ``(B, classes)``.
        layer: a name of ``model.named_modules()``, whose output is taken; ``"output"``, the model's own; None or
            ``"penultimate"``: what enters the linear layer that gives the model's output. A model that does not end in
            one (its output is pooled features, say) is measured at its output.
        example: ``(1 or more, C, H, W)``, run once to find that layer.

    Yields:
        ``(embed, name)``. Embeddings keep their shape: ``(B, D)``, ``(B, tokens, D)`` or ``(B, C, h, w)``, float32.

    Raises:
        InstaAugError: an unknown layer, one that is not run, or one whose output is no tensor that leads with B.
    """
    modules = dict(model.named_modules())
    if layer in (None, PENULTIMATE):
        layer = _head(model, example)
        hooked, name = (modules[layer], f"input of {layer}") if layer is not None else (None, OUTPUT)
        pick = 0
    elif layer == OUTPUT:
        hooked, name, pick = None, OUTPUT, 1
    elif layer in modules and layer:
        hooked, name, pick = modules[layer], layer, 1
    else:
        near = [known for known in modules if known and str(layer).split(".")[-1] in known][:5] or list(modules)[1:6]
        raise InstaAugError(
            f"layer: the model has no {layer!r}; names are those of model.named_modules(), e.g. {', '.join(near)}"
        )
    seen: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        seen.append(output if pick else inputs[0])

    handle = None if hooked is None else hooked.register_forward_hook(hook)

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.clear()
        output = model(images)
        z = seen[-1] if seen else None if hooked is not None else output
        seen.clear()
        if not isinstance(z, Tensor) or z.ndim < 2 or z.shape[0] != len(images):
            got = (
                "nothing: it was not run"
                if z is None
                else tuple(z.shape)
                if isinstance(z, Tensor)
                else type(z).__name__
            )
            raise InstaAugError(f"layer: {name} must give a tensor that leads with B = {len(images)}, got {got}")
        if not isinstance(output, Tensor):
            raise InstaAugError(f"model: expected outputs as one tensor, got {type(output).__name__}")
        return z.float(), output.float()

    try:
        with torch.no_grad():
            embed(example)
        yield embed, name
    finally:
        if handle is not None:
            handle.remove()


def _head(model: nn.Module, example: Tensor) -> str | None:
    """The name of the linear layer whose output is the model's; None where the model does not end in one."""
    produced: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: produced.append((name, o)))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            output = model(example)
    finally:
        for handle in handles:
            handle.remove()
    for name, out in reversed(produced):
        same = isinstance(output, Tensor) and out.shape == output.shape
        if same and (out.data_ptr() == output.data_ptr() or torch.equal(out, output)):
            return name
    return None


def flat(z: Tensor) -> Tensor:
    """Embeddings of any shape to ``(B, D)``; positions stay apart."""
    return z.flatten(1)
