"""What a fit found on held-out images: one view, the best policy that does not look at the image, and ours."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..utils.stats import mean_interval


@dataclass(frozen=True)
class HeldOutArm:
    """One way of predicting, on the same held-out images.

    Attributes:
        name: ``"one view"``, ``"best input-free"``, ``"ours"``, ….
        n_views: K.
        cost: forwards of the classifier per image, φ's own look included.
        correct, nll: ``(N,)`` per held-out image, means of its copies where there are several; nll after one temperature
            per arm.
        setting: arguments of `TTAModel`, as JSON values; None for an arm that is shown only.
        more: NLL on the images that φ learned from, ``(N,)``, of an arm that looks at none of them: more to tell such arms apart by.
    """

    name: str
    n_views: int
    cost: float
    correct: np.ndarray = field(repr=False)
    nll: np.ndarray = field(repr=False)
    setting: dict[str, Any] | None = None
    more: np.ndarray | None = field(default=None, repr=False)

    def summary(self) -> dict[str, Any]:
        """JSON values: accuracy in percent, NLL in nats."""
        figures = {"top1": 100 * float(self.correct.mean()), "nll": float(self.nll.mean())}
        return {"arm": self.name, "K": self.n_views, "cost": self.cost, **figures}


@dataclass(frozen=True)
class HeldOutReport:
    """All arms on the held-out images, and the one to use.

    Attributes:
        arms: in the order of the table; the first is one plain view.
        recommended: the arm that held-out images recommend.
        n_images: held-out images.
        against: ``"labels"``, or ``"the classifier's own answers"`` on the images as they were.
        notes: what else a user should know, a sentence each.
    """

    arms: list[HeldOutArm]
    recommended: HeldOutArm
    n_images: int
    against: str
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row per arm: accuracy, NLL, and the gain over one view with its 95 % interval, in points."""
        rows = []
        for arm in self.arms:
            gain = mean_interval(arm.correct.astype(float) - self.arms[0].correct.astype(float))
            keys = ("gain", "gain_low", "gain_high")
            rows.append(arm.summary() | {key: 100 * float(value) for key, value in zip(keys, gain, strict=True)})
        return rows

    def to_json(self) -> dict[str, Any]:
        """For the weights file: the recommended setting and the table."""
        return {
            "recommended": {"arm": self.recommended.name, **(self.recommended.setting or {})},
            "table": self.rows(),
            "n": self.n_images,
            "against": self.against,
        }

    def __str__(self) -> str:
        from tabulate import tabulate

        lines = [
            [
                row["arm"] + (" ←" if arm is self.recommended else ""),
                row["K"],
                f"{row['cost']:g}",
                f"{row['top1']:.2f}",
                "" if arm is self.arms[0] else f"{row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]",
                f"{row['nll']:.3f}",
            ]
            for row, arm in zip(self.rows(), self.arms, strict=True)
        ]
        headers = ["views", "K", "forwards", "top-1 %", "points over one view [95 %]", "NLL"]
        table = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
        arm = self.recommended
        advice = f"recommended: {arm.name}" + (f", K = {arm.n_views}" if arm is not self.arms[0] else "")
        against = f"{self.n_images} held-out images, against {self.against}"
        return "\n".join([against, "", table, "", advice, *self.notes])
