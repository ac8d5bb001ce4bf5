"""The one engine that takes many images through a frozen model: in chunks, with a bar, resumable, shared over ranks.

Loss tables, logits of many views and what φ sees are rows that take long to compute and are read many times. They are kept
in files where there are many of them, so that memory does not grow with the number of images, and a killed run loses one
chunk at most.
"""

import json
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils import distributed
from ..utils.errors import InstaAugError
from ..utils.files import replace_file
from ..utils.progress import bar
from .data import Images

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

# Images and targets of a chunk to named rows that lead with the chunk's length.
Compute = Callable[[Tensor, Tensor | None, slice], Mapping[str, Tensor]]


class Rows:
    """``(N, *shape)`` numbers, written chunk by chunk and read by index.

    With a folder they are in files of this process: the rows, a checksum per chunk, and last a JSON file that says what
    they were computed from. A file is mapped for as long as it takes to read or write a part of it.

    Args:
        folder: holds nothing else; in memory if None.
        n_rows: N.
        shape: of one row.
        dtype: of the rows, one that NumPy knows.
        chunk: rows computed at once.
        about: JSON values; equal ones mean equal rows.

    Raises:
        InstaAugError: the folder holds rows with another description.
    """

    def __init__(
        self,
        folder: Path | None,
        n_rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        chunk: int,
        about: Mapping[str, Any],
    ) -> None:
        self.chunk, self.n_rows = chunk, n_rows
        self._shape, self._kind = (n_rows, *shape), torch.empty(0, dtype=dtype).numpy().dtype
        self._files = None if folder is None else (folder / "rows.npy", folder / "checksums.npy")
        self._rows: np.ndarray | None = None
        if folder is None:
            self._rows = np.zeros(self._shape, self._kind)
            self._sums = np.full(-(-n_rows // chunk), -1, np.int64)
            return
        # Through JSON once, so that tuples and lists compare equal.
        about = json.loads(json.dumps({**about, "shape": self._shape, "dtype": str(self._kind), "chunk": chunk}))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):  # of processes that share a folder one makes room, and the others find it made
                self._begin(folder, about)
        except OSError as error:
            raise unusable(folder, error) from error

    @classmethod
    def of(cls, values: Tensor) -> "Rows":
        """Rows that are known, in memory."""
        rows = cls(None, len(values), tuple(values.shape[1:]), values.dtype, max(len(values), 1), {})
        rows.put(slice(0, len(values)), values)
        return rows

    def _begin(self, folder: Path, about: dict[str, Any]) -> None:
        """Go on with the rows in ``folder``, or make room for them."""
        known = _read_json(folder / "about.json")
        changed = sorted(key for key in {*(known or {}), *about} if known and known.get(key) != about.get(key))
        if changed:
            raise InstaAugError(
                f"workdir: {folder} was computed with another {', '.join(changed)}; delete that folder, or give another "
                "workdir"
            )
        if known and self._whole():
            self._sums = np.load(self._files[1])
            return
        if known:
            logger.warning("%s is damaged; it is computed again", folder)
        for file in (folder / "about.json", *self._files):  # what a link points to is somebody else's
            file.unlink(missing_ok=True)
        np.lib.format.open_memmap(self._files[0], "w+", self._kind, self._shape).flush()
        self._sums = np.full(-(-self.n_rows // self.chunk), -1, np.int64)
        np.save(self._files[1], self._sums)
        # Last: where it exists, the files beside it were whole.
        replace_file(folder / "about.json", json.dumps(about, indent=1, sort_keys=True).encode())

    def _whole(self) -> bool:
        """Whether both files have the sizes and kinds they were made with."""
        try:
            rows, sums = (np.load(file, mmap_mode="r") for file in self._files)
        except Exception:  # damaged headers make NumPy raise anything
            return False
        if not rows.flags.c_contiguous or sums.dtype != np.int64:
            return False
        return (rows.shape, rows.dtype, len(sums)) == (self._shape, self._kind, -(-self.n_rows // self.chunk))

    def _open(self, mode: str) -> np.ndarray:
        try:
            return self._rows if self._files is None else np.lib.format.open_memmap(self._files[0], mode)
        except Exception as error:  # gone, or cut short meanwhile
            raise unusable(self._files[0].parent, error) from error

    def done(self, part: slice) -> bool:
        """Whether a chunk has been computed, and is what was written."""
        expected = self._sums[part.start // self.chunk]
        if expected < 0:
            return False
        if self._files is not None and zlib.crc32(np.ascontiguousarray(self._open("r")[part])) != expected:
            logger.warning(
                "%s: rows %d … %d were altered; they are computed again", *self._files[:1], part.start, part.stop
            )
            return False
        return True

    def put(self, part: slice, values: Tensor) -> None:
        """Keep the rows ``(rows, *shape)`` of a chunk."""
        array = np.ascontiguousarray(values.detach().cpu().numpy().astype(self._kind, copy=False))
        index = part.start // self.chunk
        self._sums[index] = zlib.crc32(array)
        if self._files is None:
            self._rows[part] = array
            return
        try:
            _write(self._files[0], self._open("r").offset + part.start * array[:1].nbytes, array)
            _write(self._files[1], np.load(self._files[1], mmap_mode="r").offset + index * 8, self._sums[index])
        except OSError as error:
            raise unusable(self._files[0].parent, error) from error

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, index: Tensor | slice | tuple[Tensor, ...]) -> Tensor:
        """Rows by index, on the CPU; of several indices the others go into a row."""
        if isinstance(index, tuple):
            index = tuple(one.cpu().numpy() for one in index)
        elif isinstance(index, Tensor):
            index = index.cpu().numpy()
        return torch.from_numpy(np.array(self._open("r")[index]))

    def tensor(self) -> Tensor:
        """All rows in memory."""
        return self[:]

    def share(self, parts: list[slice]) -> None:
        """Take over what the other processes have computed; of ``parts``, each has every ``world_size``-th.

        Chunk by chunk, so that memory stays flat: the rows lie in this process's own files.
        """
        rank, world = distributed.rank(), distributed.world_size()
        dtype = torch.from_numpy(np.empty(0, self._kind)).dtype
        for i, part in enumerate(parts):
            own = i % world == rank
            values = self[part] if own else torch.zeros((part.stop - part.start, *self._shape[1:]), dtype=dtype)
            values = distributed.all_reduce_sum(values)
            if not own:
                self.put(part, values)


class SomeRows:
    """Rows of the given numbers, read where they lie."""

    def __init__(self, rows: Rows, index: Tensor) -> None:
        self.rows, self.index = rows, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: tuple[Tensor, ...]) -> Tensor:
        """As of `Rows`."""
        return self.rows[self.index[index[0]], *index[1:]]


def compute_rows(
    source: Images,
    compute: Compute,
    *,
    chunk: int,
    folder: Path | None = None,
    name: str = "rows",
    about: Mapping[str, Any] | None = None,
    forwards: int = 1,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
    like: Mapping[str, Tensor] | None = None,
    shared: bool = True,
) -> dict[str, Rows]:
    """Every image of ``source`` through ``compute``, in chunks.

    Args:
        source: N images, read as they are needed.
        compute: images ``(n, C, H, W)``, their targets, and which rows they are, to named rows.
        chunk: images at a time.
        folder: keep the rows there, and go on with what is there already; in memory if None.
        name: of the bar, and first part of the folders' names.
        about: JSON values; equal ones mean equal rows.
        forwards: of the model per image, for the bar.
        progress: show a bar; by default where the output is a terminal.
        like: the names and, ``(0, *shape)``, the shapes of what is computed; found out by default, with a single image where there is a folder.
        shared: whether the processes of `torch.distributed` share the work; else each does all of it.
    """
    parts = chunks(len(source), chunk)
    rank, world = (distributed.rank(), distributed.world_size()) if shared else (0, 1)
    mine = parts[rank::world]
    stem = f"{name.replace(' ', '-')}-{rank}of{world}"
    first = None
    if like is None:
        # Where nothing can be there already, by what has to be computed anyway.
        first = mine[0] if folder is None and mine else slice(0, 1)
        images, targets = source.batch(first, device)
        with torch.no_grad():
            like = compute(images, targets, first)
    stores: dict[str, Rows] = {}
    for key, value in like.items():
        where = None if folder is None else folder / f"{stem}-{key}"
        stores[key] = Rows(where, len(source), tuple(value.shape[1:]), value.dtype, chunk, about or {})
        if first in mine and folder is None:
            stores[key].put(first, value)
    missing = [part for part in mine if not all(rows.done(part) for rows in stores.values())]
    total, left = (sum(part.stop - part.start for part in some) for some in (mine, missing))
    with bar(
        total=total * forwards,
        initial=(total - left) * forwards,
        desc=name,
        unit="view" if forwards > 1 else "image",
        unit_scale=True,
        progress=progress,
    ) as shown:
        for part, (images, targets) in zip(missing, source.batches(missing, device), strict=True):
            with torch.no_grad():
                values = compute(images, targets, part)
            for key, rows in stores.items():
                rows.put(part, values[key])
            shown.update(len(images) * forwards)
    if world > 1:
        for key in sorted(stores):
            stores[key].share(parts)
    return stores


def chunks(n: int, size: int) -> list[slice]:
    """``n`` rows in parts of ``size``, the last of what is left."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@contextmanager
def rows_in(folder: Path | None, streamed: bool) -> Iterator[Path | None]:
    """The folder; without one, a temporary folder for images too many to keep in memory, else none."""
    if folder is not None or not streamed:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="instaaug-") as scratch:
        yield Path(scratch)


def unusable(folder: Path, error: Exception) -> InstaAugError:
    """What a full disk, a read-only folder or a folder that has gone comes to."""
    return InstaAugError(
        f"workdir: {folder} cannot be used ({getattr(error, 'strerror', None) or error}); make room or give another workdir. What is there is "
        "kept, and the same call goes on from it"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, offset: int, values: np.ndarray) -> None:
    # Not through a mapping: a disk that is full kills a process that writes to one.
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(values.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        pass
    logger.warning("%s is damaged; what lies beside it is computed again", path)
    return None
