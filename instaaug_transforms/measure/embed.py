"""Embedding and output of a model in one forward, whatever its architecture."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..utils.errors import InstaAugError
from ..utils.hooks import record
from ..utils.modes import evaluating
from ..utils.outputs import as_weights, told, unwrap

Embed = Callable[[Tensor], tuple[Tensor, Tensor]]
PENULTIMATE, OUTPUT = "penultimate", "output"


def embedder(model: nn.Module, layer: str | None, example: Tensor) -> tuple[Embed, str]:
    """A function from images to (embedding, outputs ``(B, classes)``), and the name of what is embedded.

    Args:
        layer: a name of ``model.named_modules()``, whose output is taken; ``"output"``, the model's own; None or
            ``"penultimate"``, what enters the linear layer that gives the model's output. A model that does not end in
            one (its output is pooled features, say) is measured at its output.
        example: ``(1 or more, C, H, W)``, run once.

    Returns:
        Embeddings are float32 and keep their shape: ``(B, D)``, ``(B, tokens, D)`` or ``(B, C, h, w)``.

    Raises:
        InstaAugError: an unknown layer, one that is not run, or one whose output is no tensor that leads with B.
    """
    inputs, outputs, name = [], [] if layer in (None, PENULTIMATE, OUTPUT) else [layer], layer
    if layer in (None, PENULTIMATE):
        head = _head(model, example)
        inputs, name = ([], OUTPUT) if head is None else ([head], f"input of {head or type(model).__name__}")

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        with record(model, inputs=inputs, outputs=outputs) as seen:
            output = model(as_weights(model, images))
        if not isinstance(output, Tensor) or output.ndim < 2:
            one = "wrap it in a module: return model(x)[:, None], say; one logit z makes two: torch.cat([0 * z, z], 1)"
            fix = one if isinstance(output, Tensor) else unwrap(output)
            raise InstaAugError(f"model: expected outputs (B, classes) as one tensor, got {told(output)}; {fix}")
        if (inputs or outputs) and seen == ({}, {}):
            raise InstaAugError(f"layer: {name} gives nothing: it was not run")
        z = next(iter({**seen.inputs, **seen.outputs}.values()), output)
        if not isinstance(z, Tensor) or z.ndim < 2 or z.shape[0] != len(images):
            raise InstaAugError(f"layer: {name} must give a tensor that leads with B = {len(images)}, got {told(z)}")
        return z.float(), output.float()

    with evaluating(model), torch.no_grad():
        embed(example)
    return embed, name


def _head(model: nn.Module, example: Tensor) -> str | None:
    """The name of the linear layer whose output is the model's; None if the model does not end in one."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    with record(model, outputs=linear) as seen, evaluating(model), torch.no_grad():
        output = model(as_weights(model, example))
    for name, out in reversed(seen.outputs.items()):
        same = isinstance(output, Tensor) and out.shape == output.shape
        if same and (out.data_ptr() == output.data_ptr() or torch.equal(out, output)):
            return name
    return None
