"""Files that appear whole or not at all."""

import csv
import io
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import InstaAugError


def replace_file(path: str | os.PathLike, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step: written to a temporary file in the same folder, flushed, renamed."""
    path = Path(path).resolve()  # a link stays a link, to the new contents
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def check_folder(path: str | os.PathLike, name: str = "path") -> Path:
    """The path itself.

    Raises:
        InstaAugError: it is a folder itself, or the one it is to lie in does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise InstaAugError(f"{name}: {str(path)!r} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise InstaAugError(f"{name}: folder {str(path.parent)!r} does not exist; create it first")
    return path


def _umask() -> int:
    """The mode bits that new files do not get; reading them means setting them."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that share their keys to a UTF-8 file with a header line, in one step.

    Raises:
        InstaAugError: a folder that does not exist.
    """
    path = check_folder(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())


def save_figure(figure: Any, path: str | os.PathLike) -> None:
    """Write a matplotlib figure in one step; the suffix says which format.

    Raises:
        InstaAugError: a suffix that matplotlib does not write, or a folder that does not exist.
    """
    suffix, known = Path(path).suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if suffix not in known:
        raise InstaAugError(f"path: expected a name that ends in one of .{', .'.join(known)}; got {str(path)!r}")
    replace_file(check_folder(path), drawn(figure, suffix))


def drawn(figure: Any, kind: str, **options: Any) -> bytes:
    """A matplotlib figure as the contents of a file, ``"png"`` say; options are those of its ``savefig``."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, **options)
    return file.getvalue()
