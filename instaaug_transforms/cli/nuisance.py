"""What images suffer, on the command line: ``--nuisance`` and its companions."""

import argparse
from typing import Any

from ..learning import FitConfig
from .arguments import fraction, positive_int
from .own_code import named


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
        default=defaults.nuisance_probability,
        help="that an image is disturbed at all (%(default)s)",
    )
    group.add_argument(
        "--nuisance-draws",
        type=positive_int,
        default=defaults.nuisance_draws,
        help="disturbed copies per image (%(default)s)",
    )


def nuisance_of(arguments: argparse.Namespace) -> Any:
    """``--nuisance`` as `fit` takes it."""
    if not arguments.nuisance:
        return None
    if ":" in arguments.nuisance:
        return named(arguments.nuisance, "nuisance")
    return [name.strip() for name in arguments.nuisance.split(",")]
