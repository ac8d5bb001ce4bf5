"""Checkpoints of a fit: everything that decides what comes next, so that a resumed run gives the same bits."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..utils import weights
from ..utils.errors import InstaAugError


def save_state(folder: Path, about: dict[str, Any], values: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Write the state of a fit into ``folder``, aside first, then renamed.

    Args:
        about: JSON values: what is fitted to what; a state with another ``about`` is not taken up.
        values: JSON values.
        tensors: nested dicts and lists of tensors.
    """
    flat: dict[str, Tensor] = {}
    values = {**values, "about": about, "structure": _flatten(tensors, "", flat)}
    weights.write(state_file(folder, about), values, flat)


def state_file(folder: Path, about: dict[str, Any]) -> Path:
    """Where the state lies: fits with other entropy bands or another λ share a folder, and its tables, but not a state."""
    entropy = json.dumps(about.get("entropy"), sort_keys=True)
    return folder / f"fit-state-{hashlib.sha256(entropy.encode()).hexdigest()[:8]}.safetensors"


def load_state(folder: Path, about: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """``values`` and ``tensors`` of the state in ``folder``, or None where there is none.

    Raises:
        InstaAugError: a damaged file, or the state of another fit.
    """
    path = state_file(folder, about)
    if not path.exists():
        return None
    values, flat = weights.read(path)
    about, known = json.loads(json.dumps(about)), values.get("about")
    known = known if isinstance(known, dict) else {}
    changed = sorted(key for key in {*about, *known} if about.get(key) != known.get(key))
    if changed:
        raise InstaAugError(
            f"resume: {path} is the state of a fit with another {', '.join(changed)}; fit without resume, or "
            "give the arguments it had"
        )
    try:
        tensors = _restore(values["structure"], flat)
        if not isinstance(tensors, dict):
            raise TypeError("its tensors have no names")
        return values, tensors
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InstaAugError(
            f"resume: {path} is no state of a fit ({error}); delete it, or fit without resume"
        ) from error


def _flatten(value: Any, prefix: str, flat: dict[str, Tensor]) -> Any:
    """The structure as JSON, tensors replaced by their names in ``flat``."""
    if isinstance(value, Tensor):
        flat[prefix] = value.detach().clone()
        return {"tensor": prefix}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, f"{prefix}/{key}", flat)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(item, f"{prefix}/{i}", flat) for i, item in enumerate(value)]}
    return {"value": value}


def _restore(structure: Any, flat: dict[str, Tensor]) -> Any:
    ((kind, value),) = structure.items()
    if kind == "tensor":
        return flat[value]
    if kind == "dict":
        return {key: _restore(item, flat) for key, item in value}
    return [_restore(item, flat) for item in value] if kind == "list" else value
