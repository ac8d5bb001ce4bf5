"""The outcome of a comparison: every arm at every number of views, on the same images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from ..utils.errors import InstaAugError
from ..utils.files import replace_file, write_csv
from ..utils.stats import Interval, mean_interval

OURS = "ours"
SINGLE = "single view"
RECOMMENDED = "recommended"
CONFIDENT = "most confident candidate"
ORACLE = "oracle (any candidate view)"
FORMATS = ("csv", "json")


@dataclass(frozen=True)
class ArmResult:
    """One arm at one K: ``correct`` (N,) and ``nll`` (N,) per image, the temperature fitted on the choice data, ECE.

    ``cost`` is in forwards of the classifier per image, φ's own look included.
    """

    name: str
    n_views: int
    correct: np.ndarray
    nll: np.ndarray
    temperature: float
    ece: float
    cost: float = float("nan")


@dataclass(frozen=True)
class Evaluation:
    """Every arm at every K on the same images.

    Attributes:
        arms: results by ``(name, K)``.
        n: images.
        seed: of views and bootstrap.
    """

    arms: dict[tuple[str, int], ArmResult]
    n: int
    seed: int

    def interval(self, first: ArmResult, second: ArmResult, what: str = "correct") -> Interval:
        """Mean difference first − second and its 95 % paired bootstrap interval over images."""
        return mean_interval(getattr(first, what).astype(float) - getattr(second, what).astype(float), self.seed)

    def best_input_free(self, n_views: int) -> ArmResult:
        """The strongest arm that does not look at the image, by accuracy here: the hardest one to compare with."""
        looking = (OURS, ORACLE, RECOMMENDED, CONFIDENT)
        arms = ((name, k, arm) for (name, k), arm in self.arms.items() if name not in looking)
        return max((arm for _, k, arm in arms if k <= n_views), key=lambda arm: (arm.correct.mean(), -arm.nll.mean()))

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row per arm and K: accuracy and ECE in percent, differences in points, nll in nats."""
        rows = []
        for (name, k), arm in self.arms.items():
            single = self.arms[SINGLE, 1]
            gain, nll = [100 * x for x in self.interval(arm, single)], self.interval(arm, single, "nll")
            row = {
                "arm": name,
                "K": k,
                "cost": arm.cost,
                "n": self.n,
                "top1": 100 * arm.correct.mean(),
                "nll": float(arm.nll.mean()),
            }
            row |= {"ece": 100 * arm.ece, "temperature": arm.temperature}
            row |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
            row |= dict(zip(("nll_change", "nll_change_low", "nll_change_high"), nll, strict=True))
            rows.append(row)
        return rows

    def table(self) -> str:
        """Markdown: top-1, NLL and ECE per arm and K, gain over the single view with its interval."""
        lines = [
            [
                row["arm"],
                row["K"],
                f"{row['cost']:g}",
                f"{row['top1']:.2f}",
                "" if row["arm"] == SINGLE else f"{row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]",
                f"{row['nll']:.3f}",
                f"{row['ece']:.1f}",
            ]
            for row in self.rows()
        ]
        headers = ["views", "K", "forwards", "top-1 %", "points over single view [95 %]", "NLL", "ECE %"]
        return tabulate(lines, headers, tablefmt="github", disable_numparse=True)

    def against_input_free(self) -> list[str]:
        """A line per K: ours against the best arm that does not look at the image."""
        lines = []
        for (name, k), arm in self.arms.items():
            if name != OURS:
                continue
            rival = self.best_input_free(k)
            mean, low, high = (100 * x for x in self.interval(arm, rival))
            nll = self.interval(arm, rival, "nll")
            lines.append(
                f"K = {k}: ours − best input-free ({rival.name}, K = {rival.n_views}) = {mean:+.2f} points "
                f"[{low:+.2f}, {high:+.2f}], NLL {nll[0]:+.3f} [{nll[1]:+.3f}, {nll[2]:+.3f}]"
            )
        return lines

    def write(self, path: Path, kind: str = "csv", **notes: Any) -> None:
        """Write `rows` to ``path``, all at once, as ``"csv"`` or ``"json"``; ``notes`` are kept in every row.

        Raises:
            InstaAugError: another kind, or a folder that does not exist.
        """
        if kind not in FORMATS:
            raise InstaAugError(f"results-format: expected one of {', '.join(FORMATS)}, got {kind!r}")
        if not path.parent.is_dir():
            raise InstaAugError(f"results-file: folder {str(path.parent)!r} does not exist; create it first")
        rows = [{**row, "seed": self.seed, **notes} for row in self.rows()]
        if kind == "json":
            replace_file(path, (json.dumps(rows, indent=1) + "\n").encode())
        else:
            write_csv(path, rows)
