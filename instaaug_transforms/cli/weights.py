"""List the checkpoints that come with the package."""

import argparse

from tabulate import tabulate

from ..utils.weights import manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(arguments: argparse.Namespace) -> None:
    """Print name, families, size and checksum of each."""
    rows = [
        [name, ", ".join(entry["families"]), f"{entry['bytes'] / 1024:.0f} kB", entry["sha256"][:12]]
        for name, entry in sorted(manifest().items())
    ]
    print(tabulate(rows, ["name", "families", "size", "sha256"]))
