"""Bars for long work: they move on a terminal; in a file or a log they are a line now and then."""

import sys
from typing import Any

from tqdm import tqdm

EVERY = 20.0  # seconds between lines; work that takes less has none


class _Lines:
    """stderr, with a line of its own for every redraw."""

    def write(self, text: str) -> None:
        text = text.strip()
        if text:
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(iterable: Any = None, *, progress: bool | None = None, **kwargs: Any) -> tqdm:
    """tqdm, with what is planned, how fast it goes and how long it still takes.

    Args:
        iterable, **kwargs: tqdm's.
        progress: None, where stderr is a terminal; True, elsewhere too; False, never.
    """
    if sys.stderr.isatty() or not progress:
        return tqdm(iterable, **kwargs, disable=progress is False or not sys.stderr.isatty())
    lines = {"file": _Lines(), "delay": EVERY, "mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "ncols": 100}
    return tqdm(iterable, **{**kwargs, **lines, "leave": True})
