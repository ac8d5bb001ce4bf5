"""The one error class of this package, what others say, and the checks that most arguments need."""

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any


class InstaAugError(ValueError):
    """Bad input. The message names the argument, what came, what is allowed and what to do about it."""


def reason(error: BaseException) -> str:
    """The first line of another library's message; the kind of error where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_one_of(name: str, value: Any, known: Collection[Any]) -> None:
    """Raise unless ``value`` is one of ``known``."""
    if value not in tuple(known):
        raise InstaAugError(f"{name}: expected one of {', '.join(map(str, known))}, got {value!r}")


def check_whole(name: str, value: Any, least: int = 1, most: float = math.inf, optional: bool = False) -> None:
    """Raise unless ``value`` is a whole number from ``least`` to ``most``, or None where that will do. True is none."""
    inside = isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most
    if not inside and not (value is None and optional):
        within = f"≥ {least}" if most == math.inf else f"in {least} … {most:,}"
        raise InstaAugError(f"{name}: expected a whole number {within}{', or None' * optional}, got {value!r}")


def check_number(name: str, value: Any, within: str, optional: bool = False) -> None:
    """Raise unless ``value`` is a number within an interval, ``"(0, 1]"`` say, or None where that will do."""
    low, high = (float(end.replace("∞", "inf")) for end in within[1:-1].split(","))
    left_out = [end for end, mark in ((low, within[0]), (high, within[-1])) if mark in "()"]
    inside = isinstance(value, Real) and low <= value <= high and value not in left_out
    if not inside and not (value is None and optional):
        raise InstaAugError(f"{name}: expected a number in {within}{', or None' * optional}, got {value!r}")


def check_distinct(name: str, values: Collection[Any]) -> None:
    """Raise unless there is at least one, and each once."""
    if not values or len(set(values)) < len(values):
        raise InstaAugError(f"{name}: expected at least one, each once, got {list(values)}")


def several(what: str, given: Any) -> tuple:
    """Numbers as a tuple; raise where there is one by itself, or anything else."""
    try:
        values = tuple(given)
        _ = [value + 0.0 for value in values]  # of a word, letters
    except TypeError:
        raise InstaAugError(f"{what}: expected several numbers, or one in brackets, (0.8,); got {given!r}") from None
    return values
