"""The outcome of a comparison: every arm at every number of views, on the same images."""

import json
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..utils.errors import check_one_of
from ..utils.files import check_folder, replace_file, write_csv
from ..utils.report import Report, Row, Section
from ..utils.stats import UNDEFINED, Interval, mean_interval

OURS = "ours"
SINGLE = "single view"
RECOMMENDED = "recommended"
CONFIDENT = "most confident candidate"
ORACLE = "oracle (any candidate view)"
FLIP, ZOOMS, RANDOM, AUTO, GREEDY, SHUFFLED = RIVALS = (
    "horizontal flip",
    "best centre zooms",
    "random views",
    "AutoAugment policy",
    "greedy policy",
    f"{OURS}, shuffled",
)
FORMATS = ("csv", "json")


@dataclass(frozen=True)
class ArmResult:
    """One arm at one K: ``correct`` (N,) and ``nll`` (N,) per image, in the order in which images were given; the temperature fitted
    on the choice data, ECE.

    ``cost`` is in forwards of the classifier per image, φ's own look included, a mean over images. ``scale_weights`` are those that
    ``how="weighted"`` fitted on the choice data, as `TTAModel` takes them.
    """

    name: str
    n_views: int
    correct: np.ndarray
    nll: np.ndarray
    temperature: float
    ece: float
    cost: float = float("nan")
    scale_weights: tuple[float, ...] | None = None


@dataclass(frozen=True, repr=False)
class Evaluation(Report):
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

    def records(self) -> list[Row]:
        """A row per arm and K: accuracy and ECE in percent, gain over the single view in points, nll in nats."""
        single = self.arms[SINGLE, 1]
        return [
            {"arm": name, "K": k, "cost": arm.cost, "n": self.n, "top1": 100 * arm.correct.mean()}
            | {"nll": float(arm.nll.mean()), "ece": 100 * arm.ece, "temperature": arm.temperature}
            | {"gain": Interval(*(100 * x for x in self.interval(arm, single)))}
            | {"nll_change": self.interval(arm, single, "nll")}
            for (name, k), arm in self.arms.items()
        ]

    def sections(self) -> list[Section]:
        """Top-1, NLL and ECE per arm and K, gain over the single view with its interval."""
        records = [row | {"gain": UNDEFINED} if row["arm"] == SINGLE else row for row in self.records()]
        figures = {
            "K": ("K", "d", 1),
            "forwards": ("cost", ".3g", 1),
            "top-1 %": ("top1", ".2f", 1),
            "points over single view [95 %]": ("gain", "+.2f", 1),
            "NLL": ("nll", ".3f", 1),
            "ECE %": ("ece", ".1f", 1),
        }
        return [Section("Views compared", "\n".join(self.against_input_free()), records, {"views": "arm"}, figures)]

    def table(self) -> str:
        """The table of `sections` as Markdown."""
        return self.sections()[0].table("github")

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

    def write(self, path: str | os.PathLike, kind: str = "csv", **notes: Any) -> None:
        """Write `rows` to ``path``, all at once, as ``"csv"`` or ``"json"``; ``notes`` are kept in every row.

        Raises:
            InstaAugError: another kind, or a folder that does not exist.
        """
        check_one_of("results-format", kind, FORMATS)
        path = check_folder(path, "results-file")
        rows = [{**row, "seed": self.seed, **notes} for row in self.rows()]
        if kind == "json":
            # JSON has no NaN: what an arm has not, the oracle's cost say, is null.
            known = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
            replace_file(path, (json.dumps(known, indent=1, allow_nan=False) + "\n").encode())
        else:
            write_csv(path, rows)
