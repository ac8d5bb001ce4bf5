"""``instaaug fit | validate | measure | show | weights``; ``python -m instaaug_transforms.cli`` is the same."""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..utils.errors import InstaAugError
from . import fit, measure, show, validate, weights

COMMANDS = {"fit": fit, "validate": validate, "measure": measure, "show": show, "weights": weights}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that the user can mend are one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="instaaug", description="Learned augmentations for image models.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = module.__doc__.strip().splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except InstaAugError as error:
        print(f"instaaug: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
