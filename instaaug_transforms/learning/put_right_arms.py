"""Fixed views of what φ has put right: arms of a report, on held-out images and, where these are few, on cross-fitted ones too."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tta.arms import families_for
from ..tta.views import unchanged
from .arms import N_VIEWS, in_halves, policy_of
from .cross_fit import Said
from .put_right import PutRight
from .report import HeldOutArm
from .scores import Scores, by_group

MOST_PUT_RIGHT = 2  # candidates of an image whose results fixed views are made of
MOST_LEFT_ALONE = 500  # images that φ learned from, as they were, of which fixed views are looked at


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """What fixed views of what φ puts right do on images that it learned from, cross-fitted.

    Without a nuisance all is looked at. Beside one, what they cost is, on some images that nothing disturbed; all copies would take too long,
    and of those φ's own candidates are known.

    Attributes:
        said: of all copies.
        columns: of the fixed views, those that were looked at.
        rows: ``(n,)`` copies that were.
        seen: for m = 1 … scores of these views; none where a nuisance disturbed every copy.
    """

    said: Said
    columns: list[int]
    rows: Tensor
    seen: list[Scores]

    @classmethod
    def of(cls, said: Said, put_right: PutRight, most: int, columns: list[int]) -> "Elsewhere":
        scores, held = said.scores, said.scores.held
        rows = torch.arange(scores.n)
        if held.nuisance is not None:
            if held.undisturbed is None:
                return cls(said, columns, rows[:0], [])
            rows = held.left_alone(MOST_LEFT_ALONE)
            held = held.as_it_was(rows)
        some = replace(put_right, columns=tuple(columns))
        looked = some.look(held, said.log_p[rows], most, scores.view_temperature)
        return cls(said, columns, rows, [seen for seen, _ in looked])

    def arm(self, m: int, columns: list[int], setting: dict[str, Any]) -> HeldOutArm:
        """Fixed views, ``columns``, of what φ's m likeliest candidates make of an image."""
        scores, held = self.said.scores, self.said.scores.held
        found = None
        if self.seen:
            seen, views = self.seen[m - 1], torch.tensor([self.columns.index(column) for column in columns])
            found = seen.arm("ours", m, m, seen.average(views.expand(seen.n, -1)), setting)
        if held.nuisance is None:
            return found
        log_w, views = self.said.log_p.topk(m, 1)
        alone = scores.arm("ours", m, m, scores.average(views, log_w if m > 1 else None))
        for name in ("undisturbed", "believed", "undisturbed_nll"):
            if (values := getattr(found, name, None)) is not None:
                known = np.full(len(held.images), np.nan)
                known[self.rows // held.draws] = values
                alone = replace(alone, **{name: by_group(known, held.images.groups)})
        return alone


def views_put_right(known: Sequence[Said], look: bool, put_right: PutRight) -> list[tuple[int, HeldOutArm]]:
    """Fixed views of what φ's likeliest one or two candidates make of copies, searched as the best input-free ones are: K, and the arm,
    which takes fewer where all were chosen equally often. Of more images than the held-out ones, see `Elsewhere`."""
    scores, log_p = known[0].scores, known[0].log_p
    most = min(MOST_PUT_RIGHT, log_p.shape[1]) if scores.weighs else 1
    looked = put_right.look(scores.held, log_p, most, scores.view_temperature)
    searched = [seen.searched(in_halves(scores), max(N_VIEWS) // m) for m, (seen, _) in enumerate(looked, 1)]
    every = sorted({column for _, everywhere in searched for column in everywhere})
    elsewhere = [Elsewhere.of(said, put_right, most, every) for said in known[1:]]
    acting, arms = families_for(put_right.task.aug), []
    for m, ((seen, likeliest), (policies, everywhere)) in enumerate(zip(looked, searched, strict=True), 1):
        itself = scores.held.mean(
            unchanged(acting, put_right.views(likeliest)).unflatten(0, (-1, m)).sum(1).float().T
        )  # (F,)
        for k in [k for k in N_VIEWS if k % m == 0]:
            chosen = Counter(everywhere[: k // m])
            often = math.gcd(*chosen.values())
            columns = [column for column, times in chosen.items() for _ in range(times // often)]
            n = len(columns) * m
            setting = scores.setting(n_views=n, policy=policy_of(put_right.fixed, columns), put_right=m)
            setting |= {"aggregate": "probability"} if m > 1 else {}
            cost = n + look - scores.held.answered * float(itself[columns].sum())
            arm = scores.arm("ours", n, cost, seen.average(policies[:, : k // m]), setting)
            more = [each.arm(m, columns, setting) for each in elsewhere]
            arms.append((k, replace(arm, more=more[0] if more else None)))
    return arms
