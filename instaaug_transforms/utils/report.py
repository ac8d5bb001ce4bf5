"""What every report can do: rows for a file, and sections that `summary` and an HTML page render alike."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tabulate import tabulate

from .errors import InstaAugError
from .files import save_figure, write_csv
from .stats import Interval

Row = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One headed part of a report.

    Attributes:
        title: its heading.
        text: plain text above the table; every line is a paragraph.
        records: what the table shows, a row each.
        labels: the table's first columns, words: heading to key.
        figures: its other columns, numbers or `Interval`: heading to (key, format, scale).
        draw: makes the picture, a matplotlib figure; for the page alone.
        caption: of the picture.
    """

    title: str
    text: str = ""
    records: Sequence[Row] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, tuple[str, str, float]] = field(default_factory=dict)
    draw: Callable[[], Any] | None = None
    caption: str = ""

    def table(self, tablefmt: str) -> str:
        """The table in a format of `tabulate`, figures aligned to the right; a dash for what is empty or NaN."""

        def text(value: float | Interval, form: str, scale: float) -> str:
            if isinstance(value, Interval):
                return value.text(form, scale)
            return "–" if np.isnan(value) else format(scale * value, form)

        cells = [
            {heading: str(row[key]) or "–" for heading, key in self.labels.items()}
            | {heading: text(row[key], form, scale) for heading, (key, form, scale) in self.figures.items()}
            for row in self.records
        ]
        align = ["left"] * len(self.labels) + ["right"] * len(self.figures)
        return tabulate(cells, headers="keys", tablefmt=tablefmt, disable_numparse=True, colalign=align)

    def markdown(self) -> str:
        """Heading, text and table."""
        return "\n\n".join(part for part in (f"## {self.title}", self.text, self.table("github")) if part)


class Report(ABC):
    """The outcome of one measurement."""

    picture: ClassVar[Callable[..., Any] | None] = None  # a function of the report, which makes it a method
    values: Any

    def records(self) -> list[Row]:
        """Dictionaries that share their keys; values are numbers, strings, booleans and `Interval`. As they are kept, by default."""
        return self.values

    @abstractmethod
    def sections(self) -> list[Section]:
        """Text, tables and pictures, in reading order."""

    def rows(self) -> list[Row]:
        """`records` with three columns for an interval: ``x``, ``x_low``, ``x_high``; ``low`` and ``high`` for a single one."""
        return [flatten(record) for record in self.records()]

    def summary(self) -> str:
        """The sections' text and tables as Markdown."""
        return "\n\n".join(section.markdown() for section in self.sections() if section.records)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_markdown_(self) -> str:  # of notebooks
        return self.summary()

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Draw the report, and write the picture to ``path`` (.png, .svg, .pdf) if one is given.

        Returns:
            The matplotlib figure.

        Raises:
            InstaAugError: a kind of report that has no picture, or matplotlib is not installed.
        """
        if self.picture is None:
            raise InstaAugError(f"plot: {type(self).__name__} has no picture; use summary() or rows()")
        figure = self.picture()
        if path is not None:
            save_figure(figure, path)
        return figure

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write `rows` to a UTF-8 file, in one step."""
        write_csv(path, self.rows())

    def to_pandas(self) -> Any:
        """`rows` as a ``pandas.DataFrame``.

        Raises:
            InstaAugError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InstaAugError(
                "to_pandas: pandas is not installed; pip install 'instaaug-transforms[tables]', or use rows()"
            ) from error
        return pandas.DataFrame(self.rows())


def flatten(record: Row) -> Row:
    """A record with every `Interval` in columns of its own, see `Report.rows`."""
    single, row = sum(isinstance(value, Interval) for value in record.values()) == 1, {}
    for key, value in record.items():
        row[key] = value
        if isinstance(value, Interval):
            row[key], low, high = value
            row |= {"low": low, "high": high} if single else {f"{key}_low": low, f"{key}_high": high}
    return row
