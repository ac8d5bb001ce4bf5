"""What every report of this folder can do with its rows: CSV, pandas, JSON values."""

import csv
import io
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ..utils.errors import InstaAugError
from ..utils.files import replace_file

Row = dict[str, Any]


class Table(ABC):
    """A report whose figures are `rows`."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """Dictionaries with the same keys each; numbers, strings and booleans."""

    @abstractmethod
    def summary(self) -> str:
        """What there is to know on one screen, as Markdown."""

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write `rows` to a UTF-8 file, all at once."""
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


def write_csv(path: str | os.PathLike, rows: list[Row]) -> None:
    """Rows with the same keys to a UTF-8 file, all at once."""
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(Path(path), written.getvalue().encode())
