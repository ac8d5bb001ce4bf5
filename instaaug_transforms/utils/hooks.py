"""Inputs and outputs of named submodules, recorded while a model runs."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from torch.jit import ScriptModule

from .errors import InstaAugError

# Handles draw their ids from one counter, and a module's hooks are one dictionary.
_LOCK = threading.Lock()


class Recording(NamedTuple):
    """What the submodules received and returned in their latest forward, by name, in the order in which they first ran.

    A submodule that did not run is missing.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]


@contextmanager
def record(
    model: nn.Module,
    *,
    inputs: Iterable[str] = (),
    outputs: Iterable[str] = (),
    keep: Callable[[Any], Any] | None = None,
) -> Iterator[Recording]:
    """Record submodules of ``model`` inside the ``with`` block; the hooks are removed when it ends, also by an exception.

    Several threads may record the same model at once: each sees its own forwards only.

    Args:
        model: the model to be run in the block.
        inputs: names of ``model.named_modules()`` whose first positional argument is recorded.
        outputs: names whose return value is recorded.
        keep: what to store of a value (its shape, say); the value itself by default.

    Yields:
        A `Recording`, filled by every forward in the block; what a later forward records replaces what an earlier one did.

    Raises:
        InstaAugError: ``model`` has no submodule of such a name, or it is a program of torch.jit.

    Example:
        >>> with record(model, outputs=["layer2"], inputs=["fc"]) as seen:
        ...     logits = model(images)
        >>> seen.outputs["layer2"].shape, seen.inputs["fc"].shape
    """
    recording, owner, handles = Recording({}, {}), threading.get_ident(), []

    def hook_for(name: str, store: dict[str, Any], of_input: bool) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(module: nn.Module, arguments: tuple, output: Any) -> None:
            if threading.get_ident() == owner:
                value = arguments[0] if of_input else output
                store[name] = value if keep is None else keep(value)

        return hook

    wanted = [(name, recording.inputs, True) for name in inputs]
    wanted += [(name, recording.outputs, False) for name in outputs]
    modules = [submodule(model, name) for name, *_ in wanted]
    program = next((name for (name, *_), m in zip(wanted, modules, strict=True) if isinstance(m, ScriptModule)), None)
    if program is not None:
        raise InstaAugError(
            f"layer: {program!r} is a program of torch.jit, which takes no hooks; give the model itself"
        )
    try:
        with _LOCK:
            for module, (name, store, of_input) in zip(modules, wanted, strict=True):
                handles.append(module.register_forward_hook(hook_for(name, store, of_input)))
        yield recording
    finally:
        with _LOCK:
            for handle in handles:
                handle.remove()


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The submodule of that name.

    Raises:
        InstaAugError: there is none; the message suggests names.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        near = [known for known in modules if known and str(name).split(".")[-1] in known][:5] or list(modules)[1:6]
        raise InstaAugError(
            f"layer: the model has no submodule {name!r}; names are those of model.named_modules(), e.g. {', '.join(near)}"
        )
    return modules[name]
