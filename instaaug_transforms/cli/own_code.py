"""Code of the user's own: modules that register families, and objects named as ``module:name``."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ..utils.errors import InstaAugError


def import_own(name: str) -> ModuleType:
    """Import a module by name, or a .py file as the module of its name without suffix.

    Raises:
        InstaAugError: there is none, its name is taken by another module, or running it fails.
    """
    try:
        return _load(name)
    except Exception as error:  # whatever the user's code raises
        raise InstaAugError(f"import: {name!r} cannot be imported: {why(error)}") from error


def named(path: str, option: str) -> Any:
    """The object that ``pkg.mod:name`` or ``file.py:name`` names.

    Raises:
        InstaAugError: no such module, no such name in it, or running it fails.
    """
    module, _, name = path.rpartition(":")
    try:
        return getattr(_load(module), name)
    except Exception as error:
        raise InstaAugError(f"{option}: cannot import {name!r} from {module!r}: {why(error)}") from error


def _load(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the current folder are found
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        raise ImportError(f"a module {path.stem!r} is imported already; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where pickle and ``module:name`` look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def why(error: Exception) -> str:
    """The error, and the line of the user's code that it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    inside = last.filename.startswith("<") or last.filename == __file__  # the import machinery, or here
    where = "" if inside else f" ({last.filename}, line {last.lineno})"
    return f"{type(error).__name__}: {error}{where}"
