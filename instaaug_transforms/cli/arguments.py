"""What an option's value may be. Each function is an argparse ``type``; the parser's error names the option."""

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from ..utils.errors import InstaAugError, reason


class Parser(argparse.ArgumentParser):
    """Wrong options are `InstaAugError`, one line like every other error, in place of the usage of forty options."""

    def error(self, message: str) -> NoReturn:
        raise InstaAugError(f"{message}; see {self.prog} --help")


def changed(arguments: argparse.Namespace, **others: Any) -> argparse.Namespace:
    """The same options, but for some."""
    return argparse.Namespace(**{**vars(arguments), **others})


def _number(kind: type, expected: str, allowed: Callable[[float], bool]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
            if math.isfinite(value) and allowed(value):
                return value
        except (ValueError, OverflowError):
            pass
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return parse


positive_int = _number(int, "a whole number of at least 1", lambda value: value >= 1)
natural = _number(int, "a whole number of at least 0", lambda value: 0 <= value < 2**63)
finite = _number(float, "a finite number", lambda value: True)
positive = _number(float, "a number above 0", lambda value: value > 0)
not_negative = _number(float, "a number of at least 0", lambda value: value >= 0)
fraction = _number(float, "a number above 0 and at most 1", lambda value: 0 < value <= 1)


def device(text: str) -> str:
    """What torch knows as a device and this machine has."""
    import torch

    try:
        wanted = torch.device(text)
        if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"torch finds {torch.cuda.device_count() or 'no'} CUDA devices here")
        if wanted.type == "meta":
            raise RuntimeError("it holds no numbers")
        if wanted.type != "cuda":  # where to try takes memory of a GPU, in every process
            torch.empty(0, device=wanted)
    except Exception as error:  # of another kind for each kind of device
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text!r} ({reason(error)})") from None
    return text
