"""What images suffer, on the command line: ``--nuisance`` and its companions."""

import argparse
from typing import Any

from ..engine import Nuisance
from ..learning import FitConfig
from ..utils.errors import InstaAugError
from .arguments import fraction, positive_int
from .own_code import named

COMPANIONS = ("nuisance_probability", "nuisance_draws")


def add_nuisance_arguments(group: Any) -> None:
    """The nuisance, how often and how many times it strikes, and what is fitted to then."""
    defaults = FitConfig()
    group.add_argument(
        "--nuisance",
        help="what images suffer before φ sees them: families, comma-separated, drawn as widely as they can undo (turn, "
        "light), or file.py:name of a torchvision transform; the target is the classifier's answer on the image as it was",
    )
    group.add_argument(
        "--use-labels",
        action="store_true",
        help="with --nuisance: the target is the label, not the classifier's answer",
    )
    group.add_argument(
        "--nuisance-probability",
        type=fraction,
        help=f"with --nuisance: that an image is disturbed at all ({defaults.nuisance_probability})",
    )
    group.add_argument(
        "--nuisance-draws",
        type=positive_int,
        help=f"with --nuisance: disturbed copies per image ({defaults.nuisance_draws})",
    )


def nuisance_of(arguments: argparse.Namespace) -> Any:
    """``--nuisance`` as `fit` takes it."""
    if not arguments.nuisance:
        return None
    if ":" in arguments.nuisance:
        return named(arguments.nuisance, "nuisance")
    return [name.strip() for name in arguments.nuisance.split(",")]


def check_nuisance(arguments: argparse.Namespace) -> Any:
    """`nuisance_of`; of its companions, those that were left out get their defaults.

    Raises:
        InstaAugError: something that disturbs no images, or a companion without a nuisance.
    """
    nuisance = nuisance_of(arguments)
    for name in COMPANIONS:
        given = getattr(arguments, name, None)
        if given is None:
            setattr(arguments, name, getattr(FitConfig(), name))
        elif nuisance is None:
            raise InstaAugError(
                f"{name.replace('_', '-')}: got {given:g} without --nuisance, and nothing would be disturbed; give --nuisance turn, say, or "
                "leave it out"
            )
    if nuisance is not None:
        Nuisance(nuisance, arguments.nuisance_probability)
    return nuisance
