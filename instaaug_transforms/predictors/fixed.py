"""Predictors that do not look at the image, to compare with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec, UniformFamily
from ..utils.errors import InstaAugError, check_whole
from .base import Predictor, register_predictor

SPEC = FeatureSpec(map_channels=8, map_size=(8, 8), vector_size=8)


@register_predictor("global")
class GlobalPredictor(Predictor):
    """One learned distribution for all images ("InstaAug without input").

    Its parameters are the families' raw outputs themselves: a free logit per candidate, a free range per field.
    """

    rows = 1
    takes_bytes = True

    def _build(self, families: Sequence[Family]) -> None:
        # Where a head starts is where it is with all-zero features: its biases.
        blank = Features(torch.zeros(1, SPEC.map_channels, *SPEC.map_size), torch.zeros(1, SPEC.vector_size))
        with torch.no_grad(), torch.random.fork_rng([]):
            starts = {family.name: _zeroed(family.head(SPEC))(blank) for family in families}
        self.raw = nn.ParameterDict({name: nn.Parameter(start.repeat(self.rows, 1)) for name, start in starts.items()})

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """How many images there are."""
        return (images.new_empty(images.shape[0], 0),)

    def decode(self, encoded: Tensor) -> dict[str, Tensor]:
        return {name: table.mean(0).expand(encoded.shape[0], -1).float() for name, table in self.raw.items()}


@register_predictor("symmetric")
class SymmetricPredictor(GlobalPredictor):
    """The same with ranges centred in their bounds, U[−θ, θ] (Augerino; Benton et al., NeurIPS 2020): widths are learned.

    For ranges alone, with the identity in the middle of their bounds.
    """

    def _build(self, families: Sequence[Family]) -> None:
        for family in families:
            _check_centred(family)
        super()._build(families)

    def decode(self, encoded: Tensor) -> dict[str, Tensor]:
        raw = super().decode(encoded)
        for name, table in raw.items():
            width, start = table.chunk(2, dim=-1)
            raw[name] = torch.cat([width, torch.zeros_like(start)], dim=-1)
        return raw


@register_predictor("class")
class ClassPredictor(GlobalPredictor):
    """One learned distribution per class (Miao et al. 2023, Table 1, "class-specific").

    Without labels, at test time say, it gives the mean of the classes' raw outputs.

    Args:
        n_classes: classes, at least 1.

    Raises:
        InstaAugError: when called, labels of another shape or out of range.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        check_whole("n_classes", n_classes, most=10**6)
        self.n_classes = self.rows = int(n_classes)

    @property
    def reads_labels(self) -> bool:
        return True

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Images ``(B, C, H, W)``, and their classes ``(B,)``, to raw outputs ``(B, R)`` per family."""
        if labels is None:
            return super().forward(images)
        if not isinstance(labels, Tensor):
            raise InstaAugError(
                f"labels: expected a tensor ({len(images)},), got {type(labels).__name__}; make one, torch.as_tensor(labels)"
            )
        whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        if not whole or labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= self.n_classes:
            span = f", from {labels.min().item():g} to {labels.max().item():g}" if whole and labels.numel() else ""
            raise InstaAugError(
                f"labels: expected ({len(images)},) classes in 0 … {self.n_classes - 1}, got {tuple(labels.shape)} {labels.dtype}{span}"
            )
        return {name: table[labels.long()].float() for name, table in self.raw.items()}


def _zeroed(head: nn.Module) -> nn.Module:
    """A head whose output does not depend on any feature."""
    for name, parameter in head.named_parameters():
        if name.endswith("weight"):
            parameter.zero_()
    return head


def _check_centred(family: Family) -> None:
    if not isinstance(family, UniformFamily):
        raise InstaAugError(f'predictor: "symmetric" is for ranges; family {family.name!r} has none, use "global"')
    for name, (low, high) in family.bounds.items():
        if abs((low + high) / 2 - family.identity()[name]) > 1e-6 * (high - low):
            raise InstaAugError(
                f'predictor: "symmetric" needs the identity in the middle of the bounds, got ({low:g}, {high:g}) for '
                f"{name!r} of family {family.name!r}"
            )
