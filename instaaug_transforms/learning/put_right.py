"""Fixed views of what φ has put right: an upright photograph and its mirror image, say."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..engine.nuisance import Nuisance
from ..engine.rows import compute_rows
from ..params import AugmentParams
from ..tta.arms import zoom_candidates
from ..tta.shared import FlatOutputs, SharedViews
from ..tta.views import combined, families_after
from .config import FitConfig
from .losses import PerViewLoss
from .prepared import Prepared, stored
from .scores import Scores, scores_of

SOME = slice(None, None, 2)  # of the zooms, to spare half of the forwards


@dataclass(frozen=True)
class PutRight:
    """What looks at fixed views of held-out copies that φ's likeliest candidates have put right.

    Attributes:
        aug, classifier, loss, config: of the fit.
        nuisance: what disturbed the copies.
        candidates: ``(V,)`` views whose outputs are known, the transform's own first.
        folder: keeps what is computed; in memory if None.
    """

    aug: LearnedAugment
    classifier: nn.Module
    loss: PerViewLoss
    config: FitConfig
    nuisance: Nuisance | None
    candidates: AugmentParams
    folder: Path | None

    @cached_property
    def fixed(self) -> AugmentParams | None:
        """``(F,)`` centre zooms and mirror images, the image itself first; None where they cannot follow the transform."""
        return zoom_candidates().index(SOME) if families_after(self.aug) else None

    def views(self, likeliest: Tensor) -> AugmentParams:
        """``(F, R)``: `fixed` views of what candidates ``likeliest``, ``(R,)`` columns, make of copies."""
        acting = {name for family in self.aug.families for name in family.acting_fields}
        own = {name: field.cpu()[likeliest][None] for name, field in self.candidates.items() if name in acting}
        then = self.fixed.map(lambda field: field[:, None].expand(-1, len(likeliest)))
        return combined(AugmentParams(**own), then)

    def look(self, held: Prepared, likeliest: Tensor) -> Scores:
        """Scores of `fixed` views of copies that candidates ``likeliest``, ``(R,)`` columns, have put right.

        Args:
            held: the copies, with the outputs of ``candidates``.
        """
        aug, config = self.aug, self.config
        columns, kept = likeliest.cpu().reshape(-1, held.draws), held.rows["logits"]
        shared = SharedViews(FlatOutputs(self.classifier), aug, config.table_batch_size, config.amp)

        def compute(images: Tensor, _: Tensor | None, part: slice) -> dict[str, Tensor]:
            known = kept[part]  # (B, D, V, …)
            outputs = []
            for draw, chosen in enumerate(columns[part].unbind(1)):
                copies = images
                if self.nuisance is not None:
                    copies = self.nuisance(images, torch.arange(part.start, part.stop), draw)
                looked_at = self.candidates, known[:, draw].float().reshape(len(chosen), known.shape[2], -1)
                (found,) = shared.logits(copies, [self.views(chosen)], looked_at)  # (F, B, numbers)
                outputs.append(found.transpose(0, 1).reshape(len(chosen), -1, *known.shape[3:]))
            return {"logits": stored(torch.stack(outputs, 1), known.dtype)}

        digest = hashlib.sha256(columns.numpy().tobytes()).hexdigest()
        rows = compute_rows(
            held.images,
            compute,
            chunk=config.table_batch_size,
            folder=self.folder,
            name=f"put right {digest[:8]}",
            about={"likeliest": digest},
            forwards=self.fixed.batch_shape[0] * held.draws,
            device=aug.device,
            progress=config.progress,
        )
        return scores_of(replace(held, rows={"plain": held.rows["plain"], **rows}), self.loss)
