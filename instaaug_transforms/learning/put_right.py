"""Fixed views of what φ has put right: an upright photograph and its mirror image, say."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..engine.nuisance import Nuisance
from ..engine.rows import compute_rows
from ..params import AugmentParams
from ..tta.arms import zoom_candidates
from ..tta.shared import FlatOutputs, SharedViews
from ..tta.views import combined, families_beside
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

    @property
    def views(self) -> AugmentParams | None:
        """``(F,)`` centre zooms and mirror images, the image itself first; None where the transform crops itself."""
        crops_itself = len(families_beside(self.aug, "crop")) == len(self.aug.families)
        return None if crops_itself else zoom_candidates().index(SOME)

    def look(self, held: Prepared, likeliest: Tensor) -> Scores:
        """Scores of `views`, of copies that candidates ``likeliest``, ``(R,)`` columns, have put right.

        Args:
            held: the copies, with the outputs of ``candidates``.
        """
        aug, config, fixed = self.aug, self.config, self.views
        columns, kept = likeliest.cpu().reshape(-1, held.draws), held.rows["logits"]
        acting = {name for family in aug.families for name in family.acting_fields}
        own = AugmentParams(**{name: field for name, field in self.candidates.items() if name in acting})
        shared = SharedViews(FlatOutputs(self.classifier), aug, config.table_batch_size, config.amp)

        def compute(images: Tensor, _: Tensor | None, part: slice) -> dict[str, Tensor]:
            known = kept[part]  # (B, D, V, …)
            outputs = []
            for draw, chosen in enumerate(columns[part].unbind(1)):
                copies = images
                if self.nuisance is not None:
                    copies = self.nuisance(images, torch.arange(part.start, part.stop), draw)
                first = own.map(lambda field, chosen=chosen: field.cpu()[chosen][None])
                then = fixed.map(lambda field, n=len(chosen): field[:, None].expand(-1, n))
                looked_at = self.candidates, known[:, draw].float().reshape(len(chosen), known.shape[2], -1)
                (found,) = shared.logits(copies, [combined(first, then)], looked_at)  # (F, B, numbers)
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
            forwards=fixed.batch_shape[0] * held.draws,
            device=aug.device,
            progress=config.progress,
        )
        return scores_of(replace(held, rows={"plain": held.rows["plain"], **rows}), self.loss)
