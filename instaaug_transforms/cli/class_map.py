"""Which label a folder's name stands for."""

from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import InstaAugError

# Above any classifier's number of classes: numbers like 20240131 are no labels.
MOST_CLASSES = 100_000


def read_class_map(path: Path) -> list[str]:
    """The folder name of every label: line number, from 0, is the label; a line is ``name`` or ``name<TAB>words``.

    Raises:
        InstaAugError: an unreadable or empty file, an empty line between others, or a name given twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InstaAugError(f"class-map: {str(path)!r} cannot be read: {error}") from error
    names = [line.partition("\t")[0].strip() for line in lines]
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name or name in first:
            wrong = f"line {first[name]} and line {number} both name {name!r}" if name else f"line {number} is empty"
            raise InstaAugError(f"class-map: {wrong} in {str(path)!r}; a line's number is its label: one name each")
        first[name] = number
    if not names:
        raise InstaAugError(f"class-map: {str(path)!r} is empty; expected a line per class, name or name<TAB>words")
    return names


def label_folders(folders: Sequence[str], class_map: Sequence[str] | None = None) -> tuple[list[str], dict[str, int]]:
    """The names of all labels, and the label of each folder.

    By the map where there is one; else whole numbers are labels themselves, and other names are numbered in their order.

    Raises:
        InstaAugError: folders that the map does not name, two of one number, or numbers too large for labels.
    """
    if class_map is not None:
        labels = {name: label for label, name in enumerate(class_map)}
        unknown = [name for name in folders if name not in labels]
        if unknown:
            raise InstaAugError(
                f"class-map: {first_of(sorted(unknown))} are folders that it does not name; add them to the map, or "
                "move them away"
            )
        return list(class_map), {name: labels[name] for name in folders}
    if not all(name.isascii() and name.isdecimal() for name in folders):
        names = sorted(folders)
        return names, {name: label for label, name in enumerate(names)}
    labels = {name: int(name) for name in folders}
    if len(set(labels.values())) < len(labels):
        twice = [name for name in folders if list(labels.values()).count(labels[name]) > 1]
        raise InstaAugError(
            f"data: folders named by numbers are labels, but one number has several: {first_of(sorted(twice))}"
        )
    if max(labels.values()) >= MOST_CLASSES:
        raise InstaAugError(
            f"data: folders named by numbers are labels, and {max(labels.values())} is too large for one; where they are "
            "names, give their order with --class-map"
        )
    return [str(label) for label in range(max(labels.values()) + 1)], labels


def first_of(names: Sequence[str], most: int = 10) -> str:
    """Names for a message, not too many."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
