"""Predictors that do not look at the image, to compare with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec
from ..utils.errors import InstaAugError

SPEC = FeatureSpec(map_channels=8, map_size=(8, 8), vector_size=8)


class GlobalPredictor(nn.Module):
    """One learned distribution for all images ("InstaAug without input"), or one per class.

    Its parameters are the families' raw outputs themselves: a free logit per anchor, a free range per field.

    Args:
        families: families whose raw outputs are learned.
        in_channels: channels of the images.
        n_classes: one distribution per class (Miao et al. 2023, Table 1, "class-specific"); one in all where None. With
            classes but without labels, at test time say, it gives the mean of the classes' raw outputs.
        symmetric: ranges stay centred in their bounds, U[−θ, θ] (Augerino; Benton et al., NeurIPS 2020): only widths are
            learned. For continuous families alone, with the identity in the middle of their bounds.

    Raises:
        InstaAugError: ``symmetric`` with a family that has no such range; labels missing or out of range when called.
    """

    def __init__(
        self,
        families: Sequence[Family],
        in_channels: int = 3,
        *,
        n_classes: int | None = None,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        if n_classes is not None and n_classes < 1:
            raise InstaAugError(f"n_classes: expected an integer ≥ 1, got {n_classes}")
        self.in_channels, self.n_classes, self.symmetric = in_channels, n_classes, symmetric
        if symmetric:
            for family in families:
                _check_centred(family)
        # Where a head starts is where it is with all-zero features: its biases.
        blank = Features(torch.zeros(1, SPEC.map_channels, *SPEC.map_size), torch.zeros(1, SPEC.vector_size))
        rows = n_classes or 1
        with torch.no_grad(), torch.random.fork_rng():
            starts = {family.name: _zeroed(family.head(SPEC))(blank) for family in families}
        self.raw = nn.ParameterDict({name: nn.Parameter(start.repeat(rows, 1)) for name, start in starts.items()})

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides the families, as JSON values."""
        return {"in_channels": self.in_channels, "n_classes": self.n_classes, "symmetric": self.symmetric}

    def look(self, images: Tensor) -> tuple[Tensor, ...]:
        """What φ sees of ``(B, C, H, W)`` images: how many there are."""
        return (images.new_empty(len(images), 0),)

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """What `look` gave to raw outputs ``(B, R)`` per family, fp32."""
        return self(images)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Images ``(B, C, H, W)``, and their classes ``(B,)``, to raw outputs ``(B, R)`` per family."""
        if labels is not None and (
            labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= self.n_classes
        ):
            raise InstaAugError(
                f"labels: expected ({len(images)},) classes in 0 … {self.n_classes - 1}, got {tuple(labels.shape)}"
            )
        raw = {}
        for name, table in self.raw.items():
            chosen = table.mean(0).expand(len(images), -1) if labels is None else table[labels]
            if self.symmetric:
                width, start = chosen.chunk(2, dim=-1)
                chosen = torch.cat([width, torch.zeros_like(start)], dim=-1)
            raw[name] = chosen.float()
        return raw


def _zeroed(head: nn.Module) -> nn.Module:
    """A head whose output does not depend on any feature."""
    for name, parameter in head.named_parameters():
        if name.endswith("weight"):
            parameter.zero_()
    return head


def _check_centred(family: Family) -> None:
    bounds = getattr(family, "_bounds", None)
    if bounds is None:
        raise InstaAugError(f'predictor: "symmetric" is for ranges; family {family.name!r} has none, use "global"')
    for name, (low, high) in bounds.items():
        if abs((low + high) / 2 - family.identity()[name]) > 1e-6 * (high - low):
            raise InstaAugError(
                f'predictor: "symmetric" needs the identity in the middle of the bounds, got ({low:g}, {high:g}) for '
                f"{name!r} of family {family.name!r}"
            )
