"""What tells losses, transforms and models from others: by code, settings and numbers, never by address."""

import functools
import hashlib
from collections.abc import Callable
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .hashing import ADDRESS, fingerprint, unwrapped

# Attributes that all modules have: weights and hooks; and the mode, which others set.
OF_ANY_MODULE = frozenset(vars(nn.Module()))


def describe(thing: Any, within: tuple[int, ...] = ()) -> str:
    """A text that differs for functions, modules, objects and values that may give other results.

    Args:
        thing: any object.
        within: ids of the objects that hold it.
    """
    if id(thing) in within:  # it holds itself
        return type(thing).__qualname__
    inside = functools.partial(describe, within=(*within, id(thing)))
    if isinstance(thing, functools.partial):
        settings = [inside(value) for value in (*thing.args, *sorted(thing.keywords.items()))]
        return f"partial({inside(thing.func)}, {', '.join(settings)})"
    if isinstance(thing, nn.Module):
        parts = [_describe_module(part, inside) for part in thing.modules()]
        return f"{_repr(thing)} {fingerprint(thing)} {parts}"
    if isinstance(thing, (Tensor, np.ndarray)):
        return fingerprint(torch.as_tensor(thing))
    if isinstance(thing, (tuple, list)):  # a long tensor in one does not print whole
        return f"({', '.join(map(inside, thing))})"
    if isinstance(thing, dict):
        return f"{{{', '.join(f'{key!r}: {inside(value)}' for key, value in thing.items())}}}"
    if isinstance(thing, Enum):
        return repr(thing)
    if getattr(thing, "__code__", None) is None:
        if not hasattr(type(thing).__call__, "__code__"):
            return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', _repr(thing))}"
        thing = thing.__call__  # an object of a class of somebody's own
    closure = [inside(cell.cell_contents) for cell in thing.__closure__ or ()]
    owner = _settings(thing.__self__, inside) if hasattr(thing, "__self__") else ""
    defaults = inside([thing.__defaults__, sorted((thing.__kwdefaults__ or {}).items())])
    text = f"{_describe_code(thing.__code__)} {closure} {defaults} {owner}"
    return f"{thing.__module__}.{thing.__qualname__} {hashlib.sha256(text.encode()).hexdigest()}"


def model_sha256(model: nn.Module) -> str:
    """As `fingerprint`, and of what no file of its weights holds: its layers' settings, and buffers that are not saved."""
    model = unwrapped(model)
    buffers = fingerprint(dict(model.named_buffers()))
    return hashlib.sha256(f"{fingerprint(model)} {buffers} {_repr(model)}".encode()).hexdigest()


def _describe_module(module: nn.Module, inside: Callable[[Any], str]) -> str:
    code = getattr(type(module).forward, "__code__", None)
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return f"{name} {_settings(module, inside)} {'' if code is None else _describe_code(code)}"


def _settings(thing: Any, inside: Callable[[Any], str]) -> list[tuple[str, str]]:
    """The attributes of an object that are values, functions or modules, or hold some."""
    kinds = (bool, int, float, str, tuple, list, dict, Enum, Tensor, np.ndarray, nn.Module, FunctionType)
    known = OF_ANY_MODULE if isinstance(thing, nn.Module) else frozenset()
    values = ((name, value) for name, value in getattr(thing, "__dict__", {}).items() if name not in known)
    return sorted((name, inside(value)) for name, value in values if isinstance(value, kinds))


def _describe_code(code: Any) -> str:
    """Instructions, names and constants, those of functions inside it too; a set has its elements in no order."""
    constants = [
        _describe_code(value)
        if hasattr(value, "co_code")
        else repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)
        for value in code.co_consts
    ]
    return f"{code.co_code.hex()} {constants} {code.co_names}"


def _repr(thing: Any) -> str:
    return ADDRESS.sub("", repr(thing))
