"""p(τ | x) over all families of a transform, as a `torch.distributions.Distribution`, and what was drawn from it."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

from .distributions import AnchorCategorical
from .families import AnchorDistribution, AnchorFamily, CandidateProduct, Family, FamilyDistribution, identity_of
from .functional import complete
from .params import AugmentParams
from .utils.errors import InstaAugError, check_number, check_one_of, check_whole

SELECTIONS = ("sample", "top", "stratified")


class AugmentDistribution(Distribution):
    """The product of the families' distributions, one per image: p(τ₁ … τ_K | x) = Π p(τ_k | x).

    ``batch_shape`` is (B,); a sample is an `AugmentParams`. Densities and entropies are relative to the widest
    distribution allowed, in nats (see `instaaug_transforms.distributions`).

    Args:
        families: in the order of `families.create`.
        raw: φ's raw outputs, ``(B, R)`` per family name.
    """

    arg_constraints = {}

    def __init__(self, families: Sequence[Family], raw: dict[str, Tensor]) -> None:
        self.families = list(families)
        self.parts: dict[str, FamilyDistribution] = {f.name: f.distribution(raw[f.name]) for f in self.families}
        first = next(iter(raw.values()))
        self.device = first.device
        super().__init__(torch.Size(first.shape[:1]), validate_args=False)

    def __repr__(self) -> str:  # torch's has nothing between the brackets
        kinds = [
            f"{f.name}: {f.n_candidates} candidates" if isinstance(f, AnchorFamily) else f"{f.name}: range"
            for f in self.families
        ]
        return f"AugmentDistribution({', '.join(kinds)}; batch_shape={tuple(self.batch_shape)})"

    @property
    def has_rsample(self) -> bool:
        """Whether every family's samples carry gradients; a crop's do not."""
        return all(part.has_rsample for part in self.parts.values())

    @property
    def n_uniforms(self) -> int:
        """Uniform numbers per sample, all families together."""
        return sum(part.n_uniforms for part in self.parts.values())

    def from_uniform(self, uniform: Tensor) -> AugmentParams:
        """Uniform numbers ``(*sample_shape, B, n_uniforms)`` in [0, 1) to parameters ``(*sample_shape, B)``."""
        parts = list(self.parts.values())
        shares = uniform.split([part.n_uniforms for part in parts], dim=-1) if len(parts) > 1 else [uniform]
        fields: dict[str, Tensor] = {}
        for part, share in zip(parts, shares, strict=True):
            fields.update(part.from_uniform(share))
        return AugmentParams(**fields)

    def _uniform(self, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
        return self.rand((*shape, *self.batch_shape, self.n_uniforms), generator)

    def rand(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        """Uniform numbers in [0, 1) where this is, drawn where the generator is."""
        if generator is not None and not torch.compiler.is_compiling() and not isinstance(generator, torch.Generator):
            raise InstaAugError(
                f"generator: expected a torch.Generator, or None, got {generator!r}; of a seed make torch.Generator().manual_seed(seed)"
            )
        device = (generator or self).device
        return torch.rand(tuple(shape), generator=generator, device=device).to(self.device)

    def rsample(
        self, sample_shape: Sequence[int] = torch.Size(), generator: torch.Generator | None = None
    ) -> AugmentParams:
        """Parameters ``(*sample_shape, B)``, sample_shape of at most one dimension.

        Fields of uniform families are differentiable in φ; a crop's are not (use `log_prob` there).

        Raises:
            InstaAugError: a number in place of a shape.
        """
        if not isinstance(sample_shape, (tuple, list)):
            raise InstaAugError(
                f"sample_shape: expected a shape, (3,) say for three samples an image, got {sample_shape!r}"
            )
        return self.from_uniform(self._uniform(torch.Size(sample_shape), generator))

    def sample(
        self, sample_shape: Sequence[int] = torch.Size(), generator: torch.Generator | None = None
    ) -> AugmentParams:
        """As `rsample`, detached."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator)

    def stratified(self, n: int, generator: torch.Generator | None = None) -> AugmentParams:
        """``n`` samples per image, fields ``(n, B)``, spread over every family's range (a Latin hypercube).

        Crop anchors are ordered by scale, so the n views are spread over the scales in proportion to their
        probability. Each view alone is distributed as a sample is.
        """
        check_whole("n", n)
        uniform = self._uniform(torch.Size((n,)), generator)
        order = self.rand(uniform.shape, generator).argsort(0)
        return self.from_uniform(((order + uniform) / n).clamp(max=1 - 2**-24))

    def top(self, k: int, offsets: Tensor | None = None) -> AugmentParams:
        """``k`` views per image without chance, fields ``(k, B)``: likeliest candidates, evenly spaced quantiles.

        Candidates of several families are ranked by the probability of their combination; they repeat in order where
        there are fewer than ``k``.

        Args:
            offsets: ``(A,)``, added to the log-probabilities of all A combinations before they are ranked.
        """
        check_whole("k", k)
        fields: dict[str, Tensor] = {}
        anchors = [part for part in self.parts.values() if isinstance(part, AnchorDistribution)]
        if offsets is not None:
            product = CandidateProduct([part.family for part in anchors], max_columns=10**9)
            scores = product.log_p({part.family.name: part for part in anchors}) + offsets.to(self.device)
            fields |= product.take(AnchorCategorical(scores, validate_args=False).top(k))
        elif len(anchors) > 1:
            fields |= _likeliest(anchors, k)
        rest = [part for part in self.parts.values() if not (fields and part in anchors)]
        for part in rest:
            fields |= part.top(k, len(fields))
        return AugmentParams(**fields)

    def select(
        self, n: int, how: str, generator: torch.Generator | None = None, offsets: Tensor | None = None
    ) -> AugmentParams:
        """``(n, B)`` parameters by one of the ways of selecting views, `SELECTIONS`; ``offsets`` are those of `top`."""
        check_whole("n", n)
        check_one_of("select", how, SELECTIONS)
        if how == "sample":
            return self.rsample((n,), generator)
        if how == "stratified":
            return self.stratified(n, generator)
        return self.top(n, offsets)

    def narrowed(self, fraction: float) -> "AugmentDistribution":
        """The same with only the middle ``fraction`` of every continuous range; which crops are likely stays."""
        check_number("fraction", fraction, "(0, 1]")
        narrow = copy.copy(self)
        narrow.parts = {name: part.narrowed(fraction) for name, part in self.parts.items()}
        return narrow

    @property
    def mode(self) -> AugmentParams:
        """The likeliest parameters, ``(B,)``; of equally likely ones, the nearest to the identity."""
        return AugmentParams(**{name: field for part in self.parts.values() for name, field in part.mode().items()})

    def identity(self) -> AugmentParams:
        """The parameters that change nothing, ``(B,)``."""
        return AugmentParams.alike(identity_of(self.families), *self.batch_shape, self.device)

    def log_prob(self, params: AugmentParams) -> Tensor:
        """Log density of ``(*sample_shape, B)`` parameters; of a family's fields, those that are left out are the identity.

        Raises:
            InstaAugError: parameters without any field of one of the families, or for another number of images.
        """
        for family in () if torch.compiler.is_compiling() else self.families:
            if not any(name in params for name in family.fields):
                raise InstaAugError(
                    f"params: no field of {family.name}, got {', '.join(params)}; give one of {', '.join(family.fields)}, or "
                    "params.replace(...) with what distribution.identity() has"
                )
        if not torch.compiler.is_compiling() and params.batch_shape[-1] != self.batch_shape[0] != 1:
            raise InstaAugError(
                f"params: expected (B,) or (n, B) for B = {self.batch_shape[0]} images, got {tuple(params.batch_shape)}; of one for all "
                "images, params.repeat_interleave(B)"
            )
        params = complete(self.families, params)
        return sum(part.log_prob(params) for part in self.parts.values())

    def entropies(self) -> dict[str, Tensor]:
        """Entropy of each family, ``(B,)`` nats."""
        return {name: part.entropy() for name, part in self.parts.items()}

    def entropy(self) -> Tensor:
        """Total entropy, ``(B,)`` nats."""
        return sum(self.entropies().values())

    def information(self) -> dict[str, Tensor]:
        """Mutual information of image and candidate over the batch, nats, ``()`` per table of candidates; ranges have none.

        Entropy of the images' mean distribution less their mean entropy: 0 where φ gives every image the same.
        """
        anchors = {name: part for name, part in self.parts.items() if isinstance(part, AnchorDistribution)}
        return {
            name: torch.special.entr(part.categorical.probs.mean(0)).sum() - part.entropy().mean()
            for name, part in anchors.items()
        }


def _likeliest(parts: Sequence[AnchorDistribution], k: int) -> dict[str, Tensor]:
    """Fields ``(k, B)`` of the k likeliest combinations of independent families' candidates.

    Family by family: of the combinations of the first few, no more than the k likeliest can be part of the result.
    """
    first = parts[0].categorical.logits
    scores, picks = first.new_zeros(first.shape[0], 1), []
    for part in parts:
        n = part.family.n_candidates
        scores, column = (
            (scores[:, :, None] + part.categorical.logits[:, None]).flatten(1).topk(min(k, scores.shape[1] * n))
        )
        before = torch.div(column, n, rounding_mode="floor")
        picks = [*(pick.gather(1, before) for pick in picks), column % n]
    times = math.ceil(k / scores.shape[1])
    every = [pick.T.repeat(times, 1)[:k] for pick in picks]
    return {
        name: field for part, index in zip(parts, every, strict=True) for name, field in part.family.take(index).items()
    }


@dataclass(frozen=True)
class AugmentSample:
    """n views of each of B images, with the distribution they came from.

    Attributes:
        params: ``(n, B)`` parameters; those of uniform families carry gradients to φ.
        distribution: p(τ | x) of the B images, differentiable in φ.
        images: ``(B, C, H, W)`` in [0, 1], as φ saw them.
        enumerated: whether the views are every anchor of the transform's one anchor family, in their order (n = A).
    """

    params: AugmentParams
    distribution: AugmentDistribution
    images: Tensor = field(repr=False)
    enumerated: bool = False

    @property
    def n(self) -> int:
        """Views per image."""
        return self.params.batch_shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.params.batch_shape[1]
