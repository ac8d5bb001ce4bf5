"""Per-view losses of a frozen classifier, and what tells one from another."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.hashing import fingerprint

# Outputs and targets to losses (B,).
PerViewLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``(B, classes)`` logits and ``(B,)`` labels, or ``(B, classes)`` probabilities, to ``(B,)`` nats."""
    # Classes that the classifier rules out have logits of −∞: finite, they may meet a probability of 0.
    return F.cross_entropy(logits.float().clamp(-1e4, 1e4), targets, reduction="none")


def describe_loss(loss: Any) -> str:
    """A text that differs for losses that may give other values: by code and settings, never by address."""
    if isinstance(loss, functools.partial):
        settings = [describe_loss(value) for value in (*loss.args, *sorted(loss.keywords.items()))]
        return f"partial({describe_loss(loss.func)}, {', '.join(settings)})"
    if isinstance(loss, nn.Module):
        plain = {name: value for name, value in vars(loss).items() if isinstance(value, (bool, int, float, str))}
        return f"{type(loss).__module__}.{loss!r} {sorted(plain.items())} {fingerprint(loss)}"
    if isinstance(loss, Tensor):
        return fingerprint(loss)
    code = getattr(loss, "__code__", None)
    if code is None:
        return f"{getattr(loss, '__module__', '')}.{getattr(loss, '__qualname__', repr(loss))}"
    closure = [describe_loss(cell.cell_contents) for cell in loss.__closure__ or ()]
    constants = [value.co_code.hex() if hasattr(value, "co_code") else repr(value) for value in code.co_consts]
    text = f"{code.co_code.hex()} {constants} {code.co_names} {closure} {loss.__defaults__} {loss.__kwdefaults__}"
    return f"{loss.__module__}.{loss.__qualname__} {hashlib.sha256(text.encode()).hexdigest()}"


def own_answers(logits: Tensor) -> Tensor:
    """The classifier's probabilities ``(B, classes)``: targets where there are no labels."""
    return torch.softmax(logits.float(), -1)
