"""Whether something can be written at a place: asked before the work, not after it."""

import tempfile
from pathlib import Path

from ..utils.errors import InstaAugError


def check_file(path: Path, option: str, suffix: str | None = None) -> None:
    """Refuse a file that could not be written.

    Raises:
        InstaAugError: another suffix, no such folder, a folder in its place, or one that cannot be written to.
    """
    if suffix is not None and path.suffix != suffix:
        raise InstaAugError(f"{option}: expected a {suffix} file in a folder that exists, got {str(path)!r}")
    if not path.parent.is_dir():
        raise InstaAugError(
            f"{option}: expected a file in a folder that exists, got {str(path)!r}: {str(path.parent)!r} is none; "
            "create it first"
        )
    if path.is_dir():
        raise InstaAugError(f"{option}: expected a file, got the folder {str(path)!r}")
    _try_writing(path.parent, option)


def check_folder(path: Path, option: str) -> None:
    """Refuse a folder that neither exists nor could be made, or that cannot be written to."""
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise InstaAugError(f"{option}: expected a folder, got {str(path)!r}: {str(existing)!r} is a file")
    _try_writing(existing, option)


def _try_writing(folder: Path, option: str) -> None:
    # Permissions say too little: file systems are mounted read-only, and root may do what others may not.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InstaAugError(f"{option}: cannot write in {str(folder)!r} ({error.strerror or error})") from error
