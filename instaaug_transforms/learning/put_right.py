"""Fixed views of what φ has put right: an upright photograph and its mirror image, say."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..engine.rows import compute_rows
from ..params import AugmentParams
from ..tta.aggregation import log_mean
from ..tta.arms import zoom_candidates
from ..tta.shared import FlatOutputs, SharedViews
from ..tta.views import combined, families_after
from .prepared import Prepared, stored
from .scores import Scores, scores_of
from .task import Task

SOME = slice(None, None, 2)  # of the zooms, to spare half of the forwards


@dataclass(frozen=True)
class PutRight:
    """What looks at fixed views of held-out copies that φ's likeliest candidates have put right.

    Attributes:
        task: of the fit.
        candidates: ``(V,)`` views whose outputs are known, the transform's own first.
        folder: keeps what is computed; in memory if None.
        columns: of the fixed views, those to look at; all by default.
    """

    task: Task
    candidates: AugmentParams
    folder: Path | None
    columns: tuple[int, ...] | None = None

    @cached_property
    def fixed(self) -> AugmentParams | None:
        """``(F,)`` centre zooms and mirror images, the image itself first; None where they cannot follow the transform."""
        if not families_after(self.task.aug):
            return None
        every = zoom_candidates().index(SOME)
        return every if self.columns is None else every.index(list(self.columns))

    def views(self, likeliest: Tensor) -> AugmentParams:
        """`fixed` views of what candidates ``likeliest``, columns ``(R, m)``, make of copies: ``(F·m, R)``, those of one zoom together."""
        acting = {name for family in self.task.aug.families for name in family.acting_fields}
        own = {name: field.cpu()[likeliest.T] for name, field in self.candidates.items() if name in acting}
        return combined(AugmentParams(**own), self.fixed)

    def look(
        self, held: Prepared, log_p: Tensor, most: int, view_temperature: float = 1.0
    ) -> list[tuple[Scores, Tensor]]:
        """For m = 1 … ``most``: scores of `fixed` views of what φ's m likeliest candidates make of copies; and those candidates.

        A view of these scores is an average over the m candidates, weighted by φ: with their log-probabilities, as
        ``"probability"`` has it.

        Args:
            held: the copies, with the outputs of ``candidates``, or of the first of them.
            log_p: φ's log-probabilities of its candidates, ``(R, A)``.
            most: candidates of an image, of which outputs can be averaged as probabilities where there are several.
            view_temperature: at which they are.
        """
        aug, config, nuisance = self.task.aug, self.task.config, held.nuisance
        log_w, likeliest = (part.cpu() for part in log_p.topk(most, 1))  # (R, most)
        columns, kept = likeliest.unflatten(0, (-1, held.draws)), held.rows["logits"]
        shared = SharedViews(FlatOutputs(self.task.classifier), aug, config.table_batch_size, config.amp)

        def compute(images: Tensor, _: Tensor | None, part: slice) -> dict[str, Tensor]:
            known = kept[part]  # (B, D, V, …)
            every = []
            for draw, chosen in enumerate(columns[part].unbind(1)):
                copies = images
                if nuisance is not None:
                    copies = nuisance(images, torch.arange(part.start, part.stop), draw)
                looked_at = (
                    self.candidates.index(slice(0, known.shape[2])),
                    known[:, draw].float().reshape(len(chosen), known.shape[2], -1),
                )
                (found,) = shared.logits(copies, [self.views(chosen)], looked_at)  # (F·m, B, numbers)
                every.append(found.transpose(0, 1).reshape(len(chosen), -1, *known.shape[3:]))
            outputs = {"1": torch.stack([outputs[:, ::most] for outputs in every], 1)}
            for m in range(2, most + 1):
                rows = slice(part.start * held.draws, part.stop * held.draws)
                weights = log_w[rows, :m].unflatten(0, (-1, held.draws))  # (B, D, m)
                log_probs = (torch.stack(every, 1) / view_temperature).log_softmax(-1).unflatten(2, (-1, most))
                average = log_mean(log_probs[:, :, :, :m], 3, weights[:, :, None, :, None])
                outputs[str(m)] = view_temperature * average
            return {name: stored(values, known.dtype) for name, values in outputs.items()}

        which = f"{view_temperature} {self.columns} {held.about.get('images')}"  # φ may say the same of others
        asked = likeliest.numpy().tobytes() + log_w.numpy().tobytes() + which.encode()
        digest = hashlib.sha256(asked).hexdigest()
        rows = compute_rows(
            held.images,
            compute,
            chunk=config.table_batch_size,
            folder=self.folder,
            name=f"put right {digest[:8]}",
            about={**held.about, "likeliest": digest, "fixed": self.fixed.batch_shape[0]},
            forwards=self.fixed.batch_shape[0] * most * held.draws,
            device=aug.device,
            progress=config.progress,
        )
        plain = held.rows["plain"]
        found = [replace(held, rows={"plain": plain, "logits": rows[str(m)]}) for m in range(1, most + 1)]
        scores = [scores_of(one, self.task.loss).at(view_temperature) for one in found]
        return [(one, likeliest[:, :m]) for m, one in enumerate(scores, 1)]
