"""Every combination of the candidates of several anchor families: the columns of one loss table."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_distinct, check_whole
from .anchors import AnchorDistribution, AnchorFamily

MAX_COLUMNS = 1024


class CandidateProduct:
    """A₁ × A₂ × … columns, the last family's candidates varying fastest.

    Families are independent given the image, p(a₁, a₂) = p(a₁)·p(a₂), so the expected loss Σ p(a₁)·p(a₂)·L[a₁, a₂] is
    exact whatever the number of families.

    Args:
        families: anchor families, in the order in which they act.
        max_columns: the largest product allowed.

    Raises:
        InstaAugError: no family, or more columns than allowed.
    """

    def __init__(self, families: Sequence[AnchorFamily], max_columns: int = MAX_COLUMNS) -> None:
        self.families = list(families) if isinstance(families, Iterable) else [families]
        for family in self.families:
            if not isinstance(family, AnchorFamily):
                given = repr(family) if isinstance(family, str) else type(family).__name__
                raise InstaAugError(
                    f"families: expected families with a table of candidates, aug.anchor_families say, got {given}; families.create makes "
                    "them of names, and ranges have no candidates"
                )
        check_whole("max_columns", max_columns)
        self.sizes = tuple(family.n_candidates for family in self.families)
        if not self.families:
            raise InstaAugError("families: a table of candidates needs at least one anchor family, got none")
        check_distinct("families", [family.name for family in self.families])
        if self.n_candidates > max_columns:
            sizes = " × ".join(f"{family.name} {size}" for family, size in zip(self.families, self.sizes, strict=True))
            raise InstaAugError(
                f"max_columns: the table would have {sizes} = {self.n_candidates} columns, more than {max_columns}; "
                'choose smaller tables, raise max_columns, or fit with objective="sampled"'
            )

    @property
    def n_candidates(self) -> int:
        """Columns in all."""
        return math.prod(self.sizes)

    def unravel(self, column: Tensor) -> dict[str, Tensor]:
        """Column numbers to the index field of every family, of their shape.

        Raises:
            InstaAugError: there is no such column (said on a CPU alone).
        """
        if column.device.type == "cpu" and column.numel() and not torch.compiler.is_compiling():
            low, high = int(column.min()), int(column.max())
            if low < 0 or high >= self.n_candidates:  # which would wrap around
                raise InstaAugError(
                    f"column: expected whole numbers from 0 to {self.n_candidates - 1}, got {low} to {high}"
                )
        indices = torch.unravel_index(column, self.sizes)
        return {family.index_field: index for family, index in zip(self.families, indices, strict=True)}

    def take(self, column: Tensor) -> dict[str, Tensor]:
        """Fields of the columns ``column``, of its shape."""
        indices = self.unravel(column)
        return {
            name: field for family in self.families for name, field in family.take(indices[family.index_field]).items()
        }

    def candidates(self) -> AugmentParams:
        """Every column once, ``(A,)``."""
        return AugmentParams(**self.take(torch.arange(self.n_candidates)))

    def column(self, params: AugmentParams) -> Tensor:
        """Column numbers of parameters that were drawn from these families, of their shape."""
        total = torch.zeros((), dtype=torch.long)
        for family, size in zip(self.families, self.sizes, strict=True):
            total = total.to(params[family.index_field].device) * size + params[family.index_field]
        return total

    def log_p(self, parts: Mapping[str, AnchorDistribution]) -> Tensor:
        """``(B, A)``: log-probability of every column.

        Args:
            parts: each family's distribution, by its name.
        """
        total = torch.zeros(1, 1)
        for family in self.families:
            logits = parts[family.name].categorical.logits  # (B, A_k)
            total = (total.to(logits).unsqueeze(-1) + logits.unsqueeze(1)).flatten(1)
        return total

    def log_prior(self) -> Tensor:
        """``(A,)``: log-probabilities before any fit."""
        total = torch.zeros(1)
        for family in self.families:
            total = (total.unsqueeze(-1) + family.log_prior().log_softmax(0)).flatten()
        return total

    def mirror_index(self) -> Tensor | None:
        """As `AnchorFamily.mirror_index`; None unless there is one family only."""
        return self.families[0].mirror_index() if len(self.families) == 1 else None
