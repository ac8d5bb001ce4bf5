"""Per-view losses of a frozen classifier, and what tells one from another."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InstaAugError
from ..utils.hashing import fingerprint

# Outputs and targets to losses (B,).
PerViewLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``(B, classes)`` logits and ``(B,)`` labels, or ``(B, classes)`` probabilities, to ``(B,)`` nats."""
    # Classes that the classifier rules out have logits of −∞: finite, they may meet a probability of 0.
    return F.cross_entropy(logits.float().clamp(-1e4, 1e4), targets, reduction="none")


def per_view(loss: PerViewLoss, outputs: Any, targets: Tensor, n: int) -> Tensor:
    """``loss`` of n views, ``(n,)``.

    Raises:
        InstaAugError: it gives something else: their mean, a loss per class.
    """
    losses = loss(outputs, targets)
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise InstaAugError(
            f'loss: expected one loss per view, ({n},), got {given}; use reduction="none", and .flatten(1).mean(1) over what '
            "else it leaves"
        )
    return losses


def describe_loss(loss: Any) -> str:
    """A text that differs for losses that may give other values: by code and settings, never by address."""
    if isinstance(loss, functools.partial):
        settings = [describe_loss(value) for value in (*loss.args, *sorted(loss.keywords.items()))]
        return f"partial({describe_loss(loss.func)}, {', '.join(settings)})"
    if isinstance(loss, nn.Module):
        settings = f"{loss!r} {_settings(loss)} {fingerprint(loss)}"
        return f"{type(loss).__module__}.{settings} {_describe_code(type(loss).forward.__code__)}"
    if isinstance(loss, Tensor):
        return fingerprint(loss)
    if isinstance(loss, (tuple, list)):  # a long tensor in one does not print whole
        return f"({', '.join(map(describe_loss, loss))})"
    if getattr(loss, "__code__", None) is None:
        if not hasattr(type(loss).__call__, "__code__"):
            return f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', repr(loss))}"
        loss = loss.__call__  # an object of a class of somebody's own
    closure = [describe_loss(cell.cell_contents) for cell in loss.__closure__ or ()]
    owner = _settings(loss.__self__) if hasattr(loss, "__self__") else ""
    defaults = describe_loss([loss.__defaults__, sorted((loss.__kwdefaults__ or {}).items())])
    text = f"{_describe_code(loss.__code__)} {closure} {defaults} {owner}"
    return f"{loss.__module__}.{loss.__qualname__} {hashlib.sha256(text.encode()).hexdigest()}"


def _settings(thing: Any) -> list[tuple[str, str]]:
    """The attributes of an object that are plain values or tensors."""
    plain = (bool, int, float, str, tuple, list, Tensor)
    return sorted(
        (name, describe_loss(value))
        for name, value in getattr(thing, "__dict__", {}).items()
        if isinstance(value, plain)
    )


def _describe_code(code: Any) -> str:
    """Instructions, names and constants, those of functions inside it too; a set has its elements in no order."""
    constants = [
        _describe_code(value)
        if hasattr(value, "co_code")
        else repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)
        for value in code.co_consts
    ]
    return f"{code.co_code.hex()} {constants} {code.co_names}"


def own_answers(logits: Tensor) -> Tensor:
    """The classifier's probabilities ``(B, classes)``: targets where there are no labels."""
    return torch.softmax(logits.float(), -1)
