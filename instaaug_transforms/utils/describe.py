"""What tells losses, transforms and models from others: by code, settings and numbers, never by address."""

import dis
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .hashing import ADDRESS, fingerprint, unwrapped

# Attributes that all modules have: weights and hooks; and the mode, which others set.
OF_ANY_MODULE = frozenset(vars(nn.Module()))


# What an attribute, or a name in a file, may hold that results depend on; and whatever can be called.
VALUES = (bool, int, float, str, bytes, tuple, list, dict, Enum, Tensor, np.ndarray, np.generic, torch.dtype, nn.Module)

# What a run does not change, if it is not assigned to.
CONSTANTS = (bool, int, float, str, bytes, type(None), Enum, torch.dtype)

# What torch.jit puts into names, so that each is used once in a process.
MANGLED = re.compile(r"___torch_mangle_\d+\.")

# Python's own code, and this package's.
KNOWN_PLACES = tuple(f"{folder}{os.sep}" for folder in (Path(os.__file__).parent, Path(__file__).parents[1]))

Inside = Callable[[Any], str]


def describe(thing: Any, within: tuple[int, ...] = (), told: set[int] | None = None) -> str:
    """A text that differs for functions, modules, objects and values that may give other results.

    Of a function it tells what it takes from its own file too: constants, helpers, classes. Of other files it tells names alone.

    Args:
        thing: any object.
        within: ids of the objects that hold it.
        told: ids of the helpers and classes that were told already: they can name each other in any number of ways.
    """
    if id(thing) in within:  # it holds itself
        return type(thing).__qualname__
    told = set() if told is None else told
    inside = functools.partial(describe, within=(*within, id(thing)), told=told)
    if isinstance(thing, functools.partial):
        settings = [inside(value) for value in (*thing.args, *sorted(thing.keywords.items()))]
        return f"partial({inside(thing.func)}, {', '.join(settings)})"
    if isinstance(thing, nn.Module):
        parts = [_describe_module(part, inside, told) for part in thing.modules()]
        return f"{_repr(thing)} {fingerprint(thing)} {parts}"
    if isinstance(thing, (Tensor, np.ndarray)):
        return fingerprint(torch.as_tensor(thing))
    if isinstance(thing, (tuple, list)):  # a long tensor in one does not print whole
        return f"({', '.join(map(inside, thing))})"
    if isinstance(thing, dict):
        return f"{{{', '.join(f'{key!r}: {inside(value)}' for key, value in thing.items())}}}"
    if isinstance(thing, Enum):
        return repr(thing)
    if isinstance(thing, type):
        return f"{thing.__module__}.{thing.__qualname__} {_class(thing, inside, told)}"
    whole = ""
    if getattr(thing, "__code__", None) is None:
        if not hasattr(type(thing).__call__, "__code__"):
            return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', _repr(thing))}"
        whole = _class(type(thing), inside, told)
        thing = thing.__call__  # an object of a class of somebody's own
    closure = [inside(cell.cell_contents) for cell in thing.__closure__ or ()]
    holder = getattr(thing, "__self__", None)
    # Methods that an object keeps as attributes would tell it once for every order of them.
    owner = "" if id(holder) in within else _settings(holder, inside)
    defaults = inside([thing.__defaults__, sorted((thing.__kwdefaults__ or {}).items())])
    text = f"{_describe_code(thing.__code__)} {closure} {defaults} {owner} {_of_its_file(thing, inside, told)} {whole}"
    return f"{thing.__module__}.{thing.__qualname__} {hashlib.sha256(text.encode()).hexdigest()}"


def model_sha256(model: nn.Module) -> str:
    """As `fingerprint`, and of what no file of its weights holds: its layers' settings, and buffers that are not saved."""
    model = unwrapped(model)
    buffers = fingerprint(dict(model.named_buffers()))
    return hashlib.sha256(f"{fingerprint(model)} {buffers} {_repr(model)}".encode()).hexdigest()


def code_sha256(model: nn.Module) -> str | None:
    """What tells a model's Python code from another's: the code of its parts' classes, and of what that names, in any file.

    So do the numbers, texts and switches that it reads of its parts, `temperature` say. Left out are installed packages, and
    whatever a run may change: tensors, counters; and hooks, most of which only look. None where nothing is left.
    """
    texts, told, left, read, written = set(), set(), [], set(), set()
    for part in unwrapped(model).modules():
        left += [type(part), *vars(part).values()]
        texts |= _program(part)
    while left:
        thing = left.pop()
        if isinstance(thing, (MethodType, classmethod, staticmethod, property)):
            thing = thing.fget if isinstance(thing, property) else thing.__func__
        if not isinstance(thing, (type, FunctionType)):
            thing = type(thing)  # which may have a `__call__`
        if id(thing) in told:
            continue
        told.add(id(thing))
        if isinstance(thing, type):
            left += [member for kind in thing.__mro__ for member in vars(kind).values()]
            continue
        left += _closure(thing)  # what a decorator wraps, say
        if _is_installed(thing.__code__.co_filename, thing.__globals__):
            continue
        read |= _names(thing.__code__, "LOAD_ATTR")
        written |= set() if thing.__name__ == "__init__" else _names(thing.__code__, "STORE_ATTR")
        named = _named(thing)
        left += [value for _, value in named]
        settings = [*(thing.__defaults__ or ()), *sorted((thing.__kwdefaults__ or {}).items()), *named]
        settings = [_repr(value) for value in settings if _is_constant(value)]
        texts.add(f"{thing.__qualname__} {_describe_code(thing.__code__)} {settings}")
    if not texts:
        return None
    attributes = [_constants(part, read - written - OF_ANY_MODULE) for part in unwrapped(model).modules()]
    lines = [*sorted(texts), *filter(None, attributes)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _program(part: nn.Module) -> set[str]:
    """The code of a program of torch.jit, and the numbers, texts and switches that it reads of itself; empty where there is none."""
    if not isinstance(part, torch.jit.ScriptModule) or not hasattr(part, "code"):
        return set()
    code, constants = part.code_with_constants
    read = sorted(set(re.findall(r"\.(\w+)", code)) - OF_ANY_MODULE)
    held = [*((name, getattr(part, name, None)) for name in read), *constants.const_mapping.items()]
    return {f"{MANGLED.sub('', code)} {[(name, _repr(value)) for name, value in held if _is_constant(value)]}"}


def _constants(part: nn.Module, names: set[str]) -> str:
    """Attributes of these names; no lists, to which a run may append."""
    held = sorted(
        (name, _repr(value))
        for name, value in vars(part).items()
        if name in names and not isinstance(value, list) and _is_constant(value)
    )
    return f"{type(part).__qualname__} {held}" if held else ""


def _closure(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _is_constant(value: Any) -> bool:
    return all(map(_is_constant, value)) if isinstance(value, (tuple, list)) else isinstance(value, CONSTANTS)


def _is_installed(file: str, known: dict[str, Any]) -> bool:
    """Whether code came with Python, with a package or with this one: by its file, of generated code by the one around it."""
    file = known.get("__file__") or "" if file.startswith("<") else file
    return file.startswith(KNOWN_PLACES) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _named(function: FunctionType) -> list[tuple[str, Any]]:
    """What code names of its file, and of modules of one's own; but nothing that it assigns to, a counter say."""
    code, known, found = function.__code__, function.__globals__, []
    for name in sorted((_names(code) - _names(code, "STORE_GLOBAL")) & known.keys()):
        value = known[name]
        if not isinstance(value, ModuleType):
            found.append((name, value))
        elif not _is_installed("<module>", vars(value)):
            found += [
                (key, vars(value)[key]) for key in sorted(_names(code, "LOAD_ATTR", "LOAD_METHOD") & vars(value).keys())
            ]
    return found


def _describe_module(module: nn.Module, inside: Inside, told: set[int]) -> str:
    code = getattr(type(module).forward, "__code__", None)
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    code = "" if code is None else _describe_code(code)
    return f"{name} {_settings(module, inside)} {code} {_class(type(module), inside, told)}"


def _settings(thing: Any, inside: Inside) -> list[tuple[str, str]]:
    """The attributes of an object that are values or can be called, or hold some."""
    known = OF_ANY_MODULE if isinstance(thing, nn.Module) else frozenset()
    values = ((name, value) for name, value in getattr(thing, "__dict__", {}).items() if name not in known)
    return sorted((name, inside(value)) for name, value in values if isinstance(value, VALUES) or callable(value))


def _class(kind: type, inside: Inside, told: set[int]) -> list[str]:
    """The methods of a class, and of those of its bases that lie in the same file."""
    if id(kind) in told:
        return []
    told.add(id(kind))
    bases = [base for base in kind.__mro__ if base.__module__ == kind.__module__]
    members = [member for base in bases for _, member in sorted(vars(base).items())]
    members = [getattr(member, "__func__", getattr(member, "fget", member)) for member in members]
    return [inside(member) for member in members if isinstance(member, FunctionType)]


def _of_its_file(function: Any, inside: Inside, told: set[int]) -> list[tuple[str, str]]:
    """What a function names of its own file, by name: values, and what is defined there, once each."""
    known, found = getattr(function, "__globals__", {}), []
    for name in sorted(_names(function.__code__) & known.keys()):
        value = known[name]
        if not isinstance(value, VALUES):
            if getattr(value, "__module__", None) != function.__module__ or id(value) in told:
                continue
            if not isinstance(value, type):  # which `_class` marks itself
                told.add(id(value))
        found.append((name, inside(value)))
    return found


def _names(code: CodeType, *how: str) -> set[str]:
    """Those that code looks up in its file; attributes may be called as something there, and are something else."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    own = (one.argval for one in dis.get_instructions(code) if one.opname in (how or ("LOAD_GLOBAL",)))
    return set(own).union(*(_names(one, *how) for one in inner))


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
