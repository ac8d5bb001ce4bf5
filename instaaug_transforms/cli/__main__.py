"""``instaaug fit | validate | recommend | measure | show | export | weights``; ``python -m instaaug_transforms.cli`` is the same.

A command's module, and torch with it, is imported when that command is named: `--version` and `--help` answer at once.
"""

import importlib
import sys
from collections.abc import Sequence

from .. import __version__
from ..utils.allocator import keep_freed_memory
from ..utils.errors import InstaAugError
from .arguments import Parser
from .own_code import import_own

# Each is a module here, with `add_arguments` and `run`; its docstring begins with the same line.
COMMANDS = {
    "fit": "Fit a transform to a frozen classifier, from folders of images, and write its weights.",
    "validate": "Compare a classifier with and without learned test-time views, beside every input-free way to choose views.",
    "recommend": "Say whether weights that are fitted already pay on your images, through your classifier, and in which setting.",
    "measure": "Measure what a model is invariant to, on a folder of images; writes a page with plots, and CSV files.",
    "show": "Draw what was learned for photographs: crops, rotation, colour, and a sheet of samples.",
    "export": "Write a classifier that averages learned views as an ONNX file, and compare it with PyTorch on your images.",
    "weights": "List the checkpoints that come with the package.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that the user can mend are one line on stderr and exit status 2."""
    if arguments is None:  # a process of its own, and no caller's
        arguments = sys.argv[1:]
        keep_freed_memory()
        # Arrows and Greek letters, in help and reports, are not in every encoding: Windows writes cp1252 to files.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")
    arguments = list(arguments)
    try:
        parsed = _parser(arguments).parse_args(arguments)
        for name in parsed.imports:
            import_own(name)
        if "img_size" in parsed:
            from .models import settle_images

            settle_images(parsed)
        parsed.run(parsed)
    except InstaAugError as error:
        print(f"instaaug: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(prog="instaaug", description="Learned augmentations for image models.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == asked:
            module = importlib.import_module(f".{name}", __package__)
            module.add_arguments(command)
            command.add_argument(
                "--import",
                dest="imports",
                action="append",
                default=[],
                metavar="MODULE",
                help="first import this module or .py file, which may register families of your own; repeatable",
            )
            command.set_defaults(run=module.run)
    return parser


def _one_line(error: InstaAugError) -> str:
    """The message; one from a DataLoader's process comes with that process's traceback, which ends in the message."""
    text = str(error).rpartition("InstaAugError: ")[2]
    return " ".join(line.strip() for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
