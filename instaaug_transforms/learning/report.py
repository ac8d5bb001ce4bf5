"""What a fit found on held-out images: one view, the best policy that does not look at the image, and ours."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..utils.held_out_table import show_table
from ..utils.stats import mean_interval


@dataclass(frozen=True, eq=False)  # arms are told apart by who they are: two may have the same name, K and cost
class HeldOutArm:
    """One way of predicting, on the same held-out images.

    Attributes:
        name: ``"one view"``, ``"best input-free"``, ``"ours"``, ….
        n_views: K.
        cost: forwards of the classifier per image, φ's own look included; a mean, where that look answers for images that φ
            leaves as they are.
        correct: ``(N,)`` per held-out image, a mean over its copies where there are several; None in a fit with a loss of
            one's own.
        nll: likewise, nats, after one temperature per arm; with a loss of one's own, that of the averaged outputs.
        setting: arguments of `TTAModel`, as JSON values; None for an arm that is shown only.
        undisturbed: ``(N,)`` the share of right answers among the copies of each image that no nuisance disturbed, NaN where
            all were; None where there is no such copy.
        believed: likewise, how probable the classifier finds the answers, where its own are the target; of the image as it was.
        undisturbed_nll: likewise, of the NLL as a `TTAModel` gives it, without a temperature; or of the loss of one's own.
        tolerated: by how much the loss may rise on images as they were where the model's own outputs are the target, of which every
            average differs a little.
        nll_tells: whether a lower NLL is evidence: not where that of the images as they are, without a temperature, is above that of guessing.
        more: the same on the images that φ learned from, where that is known: of fixed views, each searched on the other half of these
            images; of ours, each by a φ that did not learn from the image (`cross_fit`). Beside a nuisance, of fixed views of what φ puts right
            only what they cost images that it left as they were is of these views; the rest is of what φ does alone.
    """

    name: str
    n_views: int
    cost: float
    correct: np.ndarray | None = field(repr=False)
    nll: np.ndarray = field(repr=False)
    setting: dict[str, Any] | None = None
    more: "HeldOutArm | None" = field(default=None, repr=False)
    undisturbed: np.ndarray | None = field(default=None, repr=False)
    believed: np.ndarray | None = field(default=None, repr=False)
    undisturbed_nll: np.ndarray | None = field(default=None, repr=False)
    tolerated: float = field(default=0.0, repr=False)
    nll_tells: bool = field(default=True, repr=False)

    @property
    def phi_alone(self) -> bool:
        """Whether ``more`` tells of what φ does alone, without the fixed views that follow."""
        return self.more is not None and self.more.setting is None and bool((self.setting or {}).get("put_right"))

    def with_more(self) -> "HeldOutArm":
        """What it does on all images that are known, held-out ones first."""
        if self.more is None:
            return self
        joined = {}
        for name in ("correct", "nll", "undisturbed", "believed", "undisturbed_nll"):
            parts = [getattr(arm, name) for arm in (self, self.more)]
            if all(part is not None for part in parts):
                joined[name] = np.concatenate(parts)
        return replace(self, more=None, **joined)

    def summary(self) -> dict[str, Any]:
        """JSON values: accuracy in percent and NLL in nats, or the loss."""
        if self.correct is None:
            figures = {"loss": float(self.nll.mean())}
        else:
            figures = {"top1": 100 * float(self.correct.mean()), "nll": float(self.nll.mean())}
        return {"arm": self.name, "K": self.n_views, "cost": self.cost, **figures}


@dataclass(frozen=True, repr=False)
class HeldOutReport:
    """All arms on the held-out images, and the one to use.

    Attributes:
        arms: in the order of the table; the first is one plain view.
        recommended: the arm that held-out images recommend.
        n_images: held-out images; groups of them, where there are any.
        against: ``"labels"``, or ``"the classifier's own answers"`` on the images as they were; with a loss of one's own
            ``"targets"`` and ``"the model's own outputs"``.
        notes: what else a user should know, a sentence each.
        cheaper: what to use where that takes too many forwards: the next in cost, and so on, to one plain view; none where that is recommended.
    """

    arms: list[HeldOutArm]
    recommended: HeldOutArm
    n_images: int
    against: str
    notes: list[str] = field(default_factory=list)
    cheaper: list[HeldOutArm] = field(default_factory=list)

    @property
    def labelled(self) -> bool:
        """Whether the targets are the user's."""
        return self.against in ("labels", "targets")

    @property
    def advice(self) -> str:
        """What to use, in a few words: ``"one view"``, or ``"ours, K = 2"``."""
        return self._in_words(self.recommended)

    def _in_words(self, arm: HeldOutArm) -> str:
        return arm.name if arm is self.arms[0] else f"{arm.name}, K = {arm.n_views}"

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row per arm: accuracy, NLL, and the gain over one view with its 95 % interval, in points, on all images and,
        beside a nuisance, on those that are as they were; or, with a loss of one's own, the loss and how much it is below that
        of one view."""
        rows, single = [], self.arms[0]
        for arm in self.arms:
            if arm.correct is None:
                gains = {"gain": single.nll.astype(float) - arm.nll.astype(float)}
            else:
                gains = {"gain": 100 * (arm.correct.astype(float) - single.correct.astype(float))}
            if arm.undisturbed is not None:
                gains["undisturbed"] = 100 * (arm.undisturbed - single.undisturbed)
            elif arm.correct is None and arm.undisturbed_nll is not None:
                gains["undisturbed"] = single.undisturbed_nll - arm.undisturbed_nll
            rows.append(arm.summary())
            for name, differences in gains.items():
                keys = (name, f"{name}_low", f"{name}_high")
                rows[-1] |= {key: float(value) for key, value in zip(keys, mean_interval(differences), strict=True)}
        return rows

    def to_json(self) -> dict[str, Any]:
        """For the weights file: the recommended setting, those that take fewer forwards, and the table."""
        recommended, *cheaper = (
            {"arm": arm.name, "cost": arm.cost, **(arm.setting or {})} for arm in (self.recommended, *self.cheaper)
        )
        return {
            "recommended": recommended,
            "cheaper": cheaper,
            "table": self.rows(),
            "n": self.n_images,
            "against": self.against,
        }

    def __repr__(self) -> str:
        against, table, *rest = self._parts()
        return "\n\n".join([against, table, "\n".join(rest)])

    def _repr_markdown_(self) -> str:  # of notebooks
        return "\n\n".join(self._parts())

    def _parts(self) -> list[str]:
        against = f"{self.n_images} held-out images, against {self.against}"
        table = show_table(self.rows(), self.arms.index(self.recommended))
        fewer = "; ".join(f"{self._in_words(arm)} ({arm.cost:.3g})" for arm in self.cheaper[:-1])
        advice = f"recommended: {self.advice}" + (f"; in fewer forwards: {fewer}" if fewer else "")
        return [against, table, advice, *self.notes]
