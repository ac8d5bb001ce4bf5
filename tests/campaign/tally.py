"""What a campaign counts, prints and takes as options."""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of one campaign.

    Attributes:
        seed: of everything random in it.
        cases: tried.
        faults: of them, those with something wrong that was put in on purpose.
        lost: what went wrong, a line each; empty where all went well.
        notes: counts of what happened, for the reader.
    """

    seed: int
    cases: int = 0
    faults: int = 0
    lost: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def expect(self, right: bool, what: str) -> None:
        """A line in `lost` unless ``right``."""
        if not right:
            self.lost.append(what)

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    def __str__(self) -> str:
        notes = "".join(f", {what} {count}" for what, count in sorted(self.notes.items()))
        return f"seed {self.seed}, cases {self.cases}, faults injected {self.faults}, lost {len(self.lost)}{notes}"


def peak_memory() -> int:
    """Bytes that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(campaign: Callable[[int, int], Tally], cases: int, what: str) -> int:
    """Run a campaign from the command line; exit status 1 where something was lost."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--cases", type=int, default=cases, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    tally = campaign(arguments.cases, arguments.seed)
    for line in tally.lost[:50]:
        print("lost:", line)
    print(f"{tally}; {time.perf_counter() - start:.0f} s")
    return int(bool(tally.lost))
