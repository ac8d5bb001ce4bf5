"""Weights files: safetensors with a checksum inside, and the checkpoints that come with the package.

It knows files, not transforms. Nothing is ever unpickled. A file's one metadata entry, ``config``, is sorted JSON (two
entries would be stored in a random order, and the file's bytes would differ from save to save).
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from . import hf
from .errors import InstaAugError
from .files import check_folder, replace_file
from .hashing import fingerprint

FORMAT = 1
DIGEST = "tensors_sha256"


def hub_dir() -> Path:
    """Folder of the checkpoints that come with the package: in a wheel inside it, in a checkout beside it."""
    inside = Path(__file__).parent.parent / "_hub"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "hub"


def manifest() -> dict[str, dict[str, Any]]:
    """Name to ``{file, sha256, bytes, families, …}`` of every checkpoint that comes with the package."""
    path = hub_dir() / "manifest.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        # A plain name: what comes with the package lies beside the manifest, nowhere else.
        if all(
            Path(entry["file"]).name == entry["file"] and isinstance(entry["sha256"], str) for entry in known.values()
        ):
            return known
        error: Exception | str = "a file outside its folder, or without a sha256"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as raised:
        error = raised
    raise InstaAugError(f"weights: {path} is damaged ({error}); reinstall the package")


def list_weights() -> list[str]:
    """Names that `LearnedAugment.from_pretrained` knows."""
    return sorted(manifest())


def resolve(name_or_path: str | os.PathLike, sha256: str | None = None) -> tuple[Path, str | None]:
    """A checkpoint's name, one on the Hugging Face hub (see `hf`) or a path, to the file and the sha256 it must have.

    Raises:
        InstaAugError: neither a known name nor a file.
    """
    if str(name_or_path).startswith(hf.PREFIX):
        return hf.download(str(name_or_path), sha256)
    known = manifest()
    if str(name_or_path) in known:
        entry = known[str(name_or_path)]
        return hub_dir() / entry["file"], sha256 or entry["sha256"]
    path = Path(name_or_path)
    if path.is_file():
        return path, sha256
    raise InstaAugError(
        f"weights: {str(name_or_path)!r} is neither a file nor a known name; known are {', '.join(sorted(known))}"
    )


def to_bytes(config: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """A weights file's contents."""
    config = {**{key: value for key, value in config.items() if key != DIGEST}, "format": FORMAT}
    config = as_read(config)  # so that what is hashed is what will be read
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    config[DIGEST] = fingerprint(tensors, config=config)
    return save(tensors, metadata={"config": json.dumps(config, sort_keys=True)})


def as_read(config: dict[str, Any]) -> dict[str, Any]:
    """What a file's reader gets of ``config``: numbers of NumPy and PyTorch, and paths, as those of Python.

    Raises:
        InstaAugError: something that JSON does not know.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if hasattr(value, "tolist"):
            return value.tolist()
        raise InstaAugError(
            f"notes: expected numbers, text, lists and dictionaries of them, got a {type(value).__name__}; give str() of it, say"
        )

    return json.loads(json.dumps(config, default=plain))


def write(path: str | os.PathLike, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write a weights file: aside first, then renamed, so that no reader ever sees half a file.

    Raises:
        InstaAugError: the folder does not exist or cannot be written to, or the name does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InstaAugError(f"path: weights are saved as .safetensors, got {path.name!r}")
    check_folder(path)
    data = to_bytes(config, tensors)
    try:
        replace_file(path, data)
    except OSError as error:
        raise InstaAugError(f"path: {str(path)!r} cannot be written ({error.strerror or error})") from error
    return path


def read(name_or_path: str | os.PathLike, sha256: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a weights file and check it: sha256 of the file where one is known, of its contents for every file.

    Raises:
        InstaAugError: unknown name, unreadable, truncated or altered file, or one of another kind or a newer format.
    """
    path, sha256 = resolve(name_or_path, sha256)
    try:
        data = path.read_bytes()  # once: what is checked is what is used, whoever replaces the file meanwhile
    except OSError as error:
        fix = "save it again" if sha256 is None else "reinstall the package"
        raise InstaAugError(f"weights: {path} cannot be read ({error}); {fix}") from error
    if sha256 is not None and (actual := hashlib.sha256(data).hexdigest()) != sha256:
        raise InstaAugError(
            f"weights: {path.name} has sha256 {actual[:12]}…, expected {sha256[:12]}…: the file was altered or cut "
            "short, or is another; restore it from where it came, or reinstall the package"
        )
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # as `load` has found it
        metadata = header.get("__metadata__") or {}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InstaAugError(f"weights: {path} is not a readable safetensors file ({error}); save it again") from error
    try:
        config = json.loads(metadata["config"])
        stored, version = config[DIGEST], config["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InstaAugError(
            f"weights: {path} was not written by LearnedAugment.save (no valid 'config' entry); pass such a file"
        ) from error
    if version != FORMAT:
        raise InstaAugError(f"weights: {path} has format {version}, this version reads {FORMAT}; upgrade the package")
    if fingerprint(tensors, config={key: value for key, value in config.items() if key != DIGEST}) != stored:
        raise InstaAugError(
            f"weights: the contents of {path} do not match their checksum: it was altered; save it again"
        )
    return config, tensors
