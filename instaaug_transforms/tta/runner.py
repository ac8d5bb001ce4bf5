"""Views of many images through a frozen classifier: each view of an image once, however many arms ask for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..engine.data import Images
from ..engine.nuisance import Nuisance
from ..engine.rows import Rows, compute_rows
from ..params import AugmentParams
from . import arms
from .aggregation import SCALE_EDGES, aggregate, scale_bins
from .calibration import best_temperature, calibration_error
from .report import ORACLE, ArmResult
from .shared import SharedViews
from .views import sees_images, unchanged
from .weights_per_scale import fit_scale_weights

ITSELF = arms.boxes([(0.5, 0.5, 1.0, 0)])
SEEDS = 0x9E3779B97F4A7C15  # apart, so that no two chunks draw alike


@dataclass(frozen=True)
class Way:
    """An arm at several numbers of views K, which share their views.

    Attributes:
        name: in the report.
        costs: what each K costs at most, forwards of the classifier per image, φ's own look included.
        arm: gives the views, best first.
        average: logits ``(n, B, classes)`` and parameters of all views to ``(B, classes)``; the comparison's own by default.
        looks: whether φ looks through the classifier, which answers for views that are the image itself.
    """

    name: str
    costs: dict[int, float]
    arm: arms.Arm
    average: Callable[[Tensor, AugmentParams | None], Tensor] | None = None
    looks: bool = False


Key = tuple[str, int]
Known = tuple[AugmentParams, Rows]


class Runner:
    """What the arms of one comparison share.

    Args:
        classifier: images in [0, 1] to logits, held in eval mode by the caller.
        aug: whose families, output size and fill act on the views.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        seed: of random views; every arm starts from it.
        progress: show bars; by default where the output is a terminal.
        nuisance: what images suffer before anybody looks at them.
        how: the aggregation.
        folder: keeps what is computed, and is gone on with; in memory if None.
        about: JSON values that say what it was computed from.
        temperature: at which views are averaged, see `aggregate`.
    """

    def __init__(
        self,
        classifier: nn.Module,
        aug: LearnedAugment,
        batch_size: int,
        amp: bool,
        seed: int,
        progress: bool | None,
        nuisance: Nuisance | None = None,
        how: str = "mean_prob",
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.shared = SharedViews(classifier, aug, batch_size, amp)
        self.how, self.batch_size, self.seed, self.progress = how, batch_size, seed, progress
        self.device, self.nuisance = aug.device, nuisance
        self.folder, self.about, self.temperature = folder, dict(about or {}), temperature

    def candidates(self, data: Images, views: AugmentParams) -> Rows:
        """Logits ``(N, V, classes)`` of every image under the same ``(V,)`` views."""

        def compute(images: Tensor, _: Tensor, part: slice) -> dict[str, Tensor]:
            images = self._disturbed(images, part)
            (logits,) = self.shared.logits(images, [arms.fixed(views)(images, None)])
            return {"logits": logits.transpose(0, 1)}

        n = views.batch_shape[0]
        about = {"views": {name: field.tolist() for name, field in views.items()}}
        return self._rows(data, "candidate views", compute, {"logits": (n, self.classes(data))}, about, n)["logits"]

    def losses(self, logits: Rows, targets: Tensor) -> Tensor:
        """``(N, V)`` −log p(true class) from what `candidates` gives."""
        parts = torch.arange(len(logits)).split(self.batch_size)
        return torch.cat([_losses(logits[part] / self.temperature, targets[part]) for part in parts])

    def results(
        self, ways: Sequence[Way], data: Images, choice: Images, known: Known | None, oracle: AugmentParams | None
    ) -> dict[Key, ArmResult]:
        """Every way at every K on ``data``. Weights and temperatures are fitted on ``choice``.

        Args:
            known: ``(V,)`` views of ``choice``, and what `candidates` gives for them.
            oracle: also the best of these views of each image, found with its label: what no choice of one can pass.
        """
        averages, weights = self.averages(ways, choice, known)
        temperatures = {key: best_temperature(logits(), choice.targets) for key, logits in averages.items()}
        last = [] if oracle is None else [Way(ORACLE, {}, arms.fixed(oracle))]

        def compute(images: Tensor, targets: Tensor, part: slice) -> dict[str, Tensor]:
            targets, seen = targets.cpu(), self._seen(images, part, [*ways, *last])
            scores = []
            for way, views in zip(ways, seen, strict=False):
                for k in way.costs:
                    key = way.name, k
                    average = self._average(way, k, *views, weights.get(key))
                    # Divided by a high temperature, different logits can be the same number: the answer is that before.
                    best, scaled = average.argmax(-1), average / temperatures[key]
                    confidence = scaled.softmax(-1).amax(-1)
                    nll = _losses(scaled[:, None], targets)[:, 0]
                    cost = torch.full_like(nll, way.costs[k])
                    if way.looks and sees_images(self.shared.aug, self.shared.classifier, images.shape[-2:]):
                        first = views[1].map(lambda field, k=k: field[:k])
                        cost -= unchanged(self.shared.families, first).sum(0).cpu()
                    scores.append(torch.stack([best == targets, nll, confidence, cost], -1))
            if last:
                every = seen[-1][0].transpose(0, 1)  # (B, V, classes)
                right, nll = (every.argmax(-1) == targets[:, None]).any(1), _losses(every, targets).amin(1)
                scores.append(torch.stack([right, nll, torch.zeros_like(nll), torch.zeros_like(nll)], -1))
            return {"scores": torch.stack(scores, 1)}

        fitted = [[*key, temperatures[key], weights[key].tolist() if key in weights else None] for key in averages]
        like = {"scores": (len(averages) + len(last), 4)}
        rows = self._rows(data, "reported images", compute, like, {"fitted": fitted})["scores"].tensor().numpy()
        right, nll, confidence, cost = rows[..., 0].T.astype(bool), rows[..., 1].T, rows[..., 2].T, rows[..., 3].T
        found = {
            key: ArmResult(
                *key,
                right[i],
                nll[i],
                temperatures[key],
                calibration_error(confidence[i], right[i]),
                float(cost[i].mean()),
                tuple(weights[key].tolist()) if key in weights else None,
            )
            for i, key in enumerate(averages)
        }
        if last:
            key = ORACLE, oracle.batch_shape[0]
            found[key] = ArmResult(*key, right[-1], nll[-1], 1.0, float("nan"))
        return found

    def averages(
        self, ways: Sequence[Way], data: Images, known: Known | None = None
    ) -> tuple[dict[Key, Callable[[], Tensor]], dict[Key, Tensor]]:
        """Per arm and K: what gives its averaged logits ``(N, classes)``, and the log-weights that ``"weighted"`` fits."""
        fitted = [w for w, way in enumerate(ways) if self.how == "weighted" and way.average is None]
        ready = [(w, k) for w, way in enumerate(ways) if w not in fitted for k in way.costs]
        places = [(w, v) for w in fitted for v in range(max(ways[w].costs))]

        def compute(images: Tensor, _: Tensor, part: slice) -> dict[str, Tensor]:
            seen, rows = self._seen(images, part, ways, known), {}
            if ready:
                rows["averages"] = torch.stack([self._average(ways[w], k, *seen[w]) for w, k in ready], 1)
            if places:
                rows["views"] = torch.stack([seen[w][0][v] for w, v in places], 1)
                rows["bins"] = torch.stack([_bins(*seen[w])[v] for w, v in places], 1)
            return rows

        classes = self.classes(data)
        like = {"averages": (len(ready), classes)} if ready else {}
        like |= {"views": (len(places), classes), "bins": (len(places),)} if places else {}
        rows, every = self._rows(data, "choices", compute, like), torch.arange(len(data))
        found: dict[Key, Callable[[], Tensor]] = {}
        for place, (w, k) in enumerate(ready):
            found[ways[w].name, k] = lambda place=place: rows["averages"][every, torch.tensor(place)]
        weights: dict[Key, Tensor] = {}
        for w in fitted:
            index = every[:, None], torch.tensor([place for place, (of, _) in enumerate(places) if of == w])
            logits, bins = rows["views"][index].transpose(0, 1), rows["bins"][index].T.long()
            for k in ways[w].costs:
                weights[ways[w].name, k] = log_w = fit_scale_weights(
                    logits[:k] / self.temperature, bins[:k], data.targets
                )
                average = aggregate(logits[:k], self.how, log_weights=log_w[bins[:k]], temperature=self.temperature)
                found[ways[w].name, k] = lambda average=average: average
        return found, weights

    def _average(
        self, way: Way, k: int, logits: Tensor, params: AugmentParams | None, weights: Tensor | None = None
    ) -> Tensor:
        if way.average is not None:
            return way.average(logits, params)
        log_weights = None if weights is None else weights[_bins(logits, params)[:k]]
        return aggregate(logits[:k], self.how, log_weights=log_weights, temperature=self.temperature)

    def _seen(
        self, images: Tensor, part: slice, ways: Sequence[Way], known: Known | None = None
    ) -> list[tuple[Tensor, AugmentParams | None]]:
        """Per way: logits ``(n, B, classes)`` of its views, and their parameters if they have some."""
        images = self._disturbed(images, part)
        seed = (self.seed + SEEDS * part.start) % 2**63
        itself = arms.fixed(ITSELF)(images, None)
        views = [way.arm(images, torch.Generator().manual_seed(seed)) for way in ways]
        asked = [itself if isinstance(some, Tensor) else some for some in views]
        logits = self.shared.logits(images, asked, None if known is None else (known[0], known[1][part]))
        seen = []
        for some, of in zip(views, logits, strict=True):
            if isinstance(some, Tensor):
                rest = [self.shared.view(view, itself.index(0)) for view in some]
                seen.append((torch.cat([of, torch.stack(rest)]), None))
            else:
                seen.append((of, some))
        return seen

    def _disturbed(self, images: Tensor, part: slice) -> Tensor:
        return images if self.nuisance is None else self.nuisance(images, torch.arange(part.start, part.stop))

    def classes(self, data: Images) -> int:
        """How many, from a blank image."""
        first = self._disturbed(data.batch(slice(0, 1), self.device)[0], slice(0, 1))
        return self.shared.view(torch.full_like(first, 0.5), ITSELF.to(self.device)).shape[1]

    def _rows(
        self,
        data: Images,
        name: str,
        compute: Callable[[Tensor, Tensor, slice], Mapping[str, Tensor]],
        like: Mapping[str, tuple[int, ...]],
        about: Mapping[str, Any] | None = None,
        forwards: int = 1,
    ) -> dict[str, Rows]:
        chunk = max(self.batch_size, 2)
        while chunk < len(data) and len(data) % chunk == 1:  # an image alone has no other to take views from
            chunk += 1
        about = {} if self.folder is None else {**self.about, **(about or {}), "images": data.fingerprint()}
        return compute_rows(
            data,
            compute,
            chunk=chunk,
            folder=self.folder,
            name=name,
            about=about,
            forwards=forwards,
            device=self.device,
            progress=self.progress,
            like={key: torch.empty(0, *shape) for key, shape in like.items()},
            shared=False,
        )


def _bins(logits: Tensor, params: AugmentParams | None) -> Tensor:
    """``(n, B)``, by size of crop; finished views are whole images."""
    return torch.full(logits.shape[:2], len(SCALE_EDGES)) if params is None else scale_bins(params).cpu()


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """``(B, V)`` −log p(true class) of logits ``(B, V, classes)``."""
    labels = targets[:, None].expand(logits.shape[:2])
    return nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
