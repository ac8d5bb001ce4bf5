"""Rows that take long to compute, kept in memory-mapped files so that an interrupted run loses one chunk at most."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils import distributed as ranks
from ..utils.errors import InstaAugError
from ..weights import replace_file


class RowStore:
    """``(N, *shape)`` numbers, computed chunk by chunk, every process its share of the chunks.

    With a folder, a process keeps what it computes in .npy files of its own (`numpy.load` reads them with ``mmap_mode``):
    the rows, and which chunks are done. A JSON file says what they were computed from; with another description they
    are not taken up again.

    Args:
        folder: where the files are; in memory alone where None.
        name: first part of the files' names.
        n_rows: N.
        shape: of one row.
        dtype: of the rows, one that NumPy knows.
        chunk: rows computed at once.
        description: JSON values; equal ones mean equal rows.

    Raises:
        InstaAugError: the folder holds rows of that name with another description.
    """

    def __init__(
        self,
        folder: Path | None,
        name: str,
        n_rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        chunk: int,
        description: dict[str, Any],
    ) -> None:
        self.n_rows, self.chunk = n_rows, chunk
        full, kind = (n_rows, *shape), torch.empty(0, dtype=dtype).numpy().dtype
        n_chunks = -(-n_rows // chunk)
        if folder is None:
            self.rows, self.done = np.zeros(full, kind), np.zeros(n_chunks, bool)
            return
        folder.mkdir(parents=True, exist_ok=True)
        part = f"{name}-{ranks.rank()}of{ranks.world_size()}"
        rows, done, about = (folder / f"{part}{suffix}" for suffix in (".npy", ".done.npy", ".json"))
        # Through JSON once, so that tuples and lists compare equal.
        description = json.loads(json.dumps({**description, "shape": full, "dtype": str(kind), "chunk": chunk}))
        if about.exists():
            known = json.loads(about.read_text(encoding="utf-8"))
            changed = sorted(key for key in {*known, *description} if known.get(key) != description.get(key))
            if changed:
                raise InstaAugError(
                    f"workdir: {rows} was computed with another {', '.join(changed)}; delete it, or give another folder"
                )
            self.rows, self.done = (np.lib.format.open_memmap(file, "r+") for file in (rows, done))
            return
        self.rows = np.lib.format.open_memmap(rows, "w+", kind, full)
        self.done = np.lib.format.open_memmap(done, "w+", bool, (n_chunks,))
        self.done.flush()
        # Last: where it exists, the files beside it are whole.
        replace_file(about, json.dumps(description, indent=1, sort_keys=True).encode())

    @property
    def share(self) -> tuple[int, int]:
        """Rows that this process computes, and how many of them are done."""
        mine = self._mine()
        return sum(p.stop - p.start for _, p in mine), sum(p.stop - p.start for c, p in mine if self.done[c])

    def todo(self) -> list[slice]:
        """The chunks of this process that are missing."""
        return [part for c, part in self._mine() if not self.done[c]]

    def put(self, part: slice, values: Tensor) -> None:
        """Keep the rows ``(rows, *shape)`` of a chunk."""
        self.rows[part] = values.detach().cpu().numpy()
        self._flush(self.rows)
        self.done[part.start // self.chunk] = True
        self._flush(self.done)

    def gather(self) -> Tensor:
        """All rows, those of the other processes included. A single process leaves them on the disk."""
        if ranks.world_size() == 1:
            return torch.from_numpy(self.rows)
        mine = torch.zeros_like(torch.from_numpy(self.rows))
        for _, part in self._mine():
            mine[part] = torch.from_numpy(self.rows[part])
        return ranks.share(mine)

    def _mine(self) -> list[tuple[int, slice]]:
        """Index and rows of every chunk that is this process's to compute."""
        starts = list(enumerate(range(0, self.n_rows, self.chunk)))[ranks.rank() :: ranks.world_size()]
        return [(c, slice(start, min(start + self.chunk, self.n_rows))) for c, start in starts]

    @staticmethod
    def _flush(array: np.ndarray) -> None:
        if isinstance(array, np.memmap):
            array.flush()
