"""`torch.distributions` building blocks, each sampled by its inverse CDF.

Everything is sampled by pushing uniform numbers through ``icdf``: one `torch.rand` call draws for all families, a
seed fixes all of them, and stratified sampling is the same code with stratified uniforms.

Both densities are taken with respect to the *widest* distribution: mass one on each crop anchor, the uniform
distribution on the whole of the bounds. Entropies are therefore comparable: log A and 0 nats at most.
"""

import math
from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import lazy_property


class AnchorCategorical(Distribution):
    """Which of ``A`` crop anchors is taken.

    Args:
        logits: ``(*batch_shape, A)``, unnormalised log-probabilities.
    """

    arg_constraints = {"logits": constraints.real_vector}
    has_rsample = False
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        # fp32 whatever autocast is on: log-probabilities of 30 anchors do not fit bfloat16's 8 bits.
        # Finite, for 0·log 0 is not a number: candidates may be ruled out by −∞.
        self._scores = logits.float().clamp(-1e30, 1e30)
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """``(*batch_shape, A)`` log-probabilities; samples alone need none."""
        return torch.log_softmax(self._scores, dim=-1)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.n_candidates - 1)

    @property
    def n_candidates(self) -> int:
        """A."""
        return self._scores.shape[-1]

    @property
    def probs(self) -> Tensor:
        """``(*batch_shape, A)``, summing to 1."""
        return self.logits.exp()

    def icdf(self, value: Tensor) -> Tensor:
        """Uniform numbers ``(*sample_shape, *batch_shape)`` in [0, 1) to anchor indices of the same shape."""
        one = self._scores.numel() == self.n_candidates and value.numel() == 1
        if one and self._scores.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._of_one(value)
        cdf = torch.softmax(self._scores.detach(), dim=-1).cumsum(-1)
        cdf = cdf / cdf[..., -1:]
        if value.ndim == len(self.batch_shape):
            index = torch.searchsorted(cdf, value.unsqueeze(-1).contiguous(), right=True).squeeze(-1)
            return index.clamp_(max=self.n_candidates - 1)
        samples = value.shape[: value.ndim - len(self.batch_shape)].numel()  # there may be no images
        flat = value.reshape(samples, *self.batch_shape).movedim(0, -1).contiguous()
        index = torch.searchsorted(cdf, flat, right=True).clamp_(max=self.n_candidates - 1)
        # Contiguous: the compiler takes what is looked up by transposed indices to lie otherwise than it does (torch 2.15).
        return index.movedim(-1, 0).reshape(value.shape).contiguous()

    def _of_one(self, value: Tensor) -> Tensor:
        """`icdf` of one number for one image, without a dozen calls of tensors."""
        scores = self._scores.flatten().tolist()
        highest = max(scores)
        cdf = list(accumulate(math.exp(score - highest) for score in scores))
        return torch.full_like(value, min(bisect_right(cdf, value.item() * cdf[-1]), len(cdf) - 1), dtype=torch.long)

    def sample(self, sample_shape: torch.Size = torch.Size(), generator: torch.Generator | None = None) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, generator=generator, device=self._scores.device))

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits.expand(*value.shape, self.n_candidates)
        return logits.gather(-1, value.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """``(*batch_shape)`` nats, 0 … log A."""
        return -(self.probs * self.logits).sum(-1)

    @property
    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def top(self, k: int) -> Tensor:
        """The ``k`` likeliest anchors, ``(k, *batch_shape)``, likeliest first; they repeat in order if ``k`` > A."""
        order = self.logits.topk(min(k, self.n_candidates), dim=-1).indices.movedim(-1, 0)
        return order.repeat(math.ceil(k / order.shape[0]), *([1] * (order.ndim - 1)))[:k]


class BoundedUniform(Distribution):
    """Uniform on [lo, hi] inside fixed bounds; its density is relative to the uniform one on all of the bounds.

    Args:
        lo, hi: ``batch_shape``, lower < hi.
        bounds: the widest range allowed, so that ``entropy`` is log(width / widest): 0 at most, −∞ for a point.
    """

    arg_constraints = {"lo": constraints.real, "hi": constraints.real}
    has_rsample = True

    def __init__(self, lo: Tensor, hi: Tensor, bounds: tuple[float, float], validate_args: bool | None = None) -> None:
        self.lo, self.hi, self.bounds = lo, hi, bounds
        super().__init__(lo.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.lo, self.hi)

    def icdf(self, value: Tensor) -> Tensor:
        """Uniform numbers in [0, 1] to [lo, hi]; differentiable in lo and hi (the reparameterisation)."""
        return self.lo + (self.hi - self.lo) * value

    def rsample(self, sample_shape: torch.Size = torch.Size(), generator: torch.Generator | None = None) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, generator=generator, device=self.lo.device))

    def log_prob(self, value: Tensor) -> Tensor:
        # A sample may leave [lo, hi] by one rounding of lo + (hi − lo)·u.
        slack = 1e-5 * (self.bounds[1] - self.bounds[0])
        inside = (value >= self.lo - slack) & (value <= self.hi + slack)
        return torch.where(inside, -self.entropy(), -math.inf)

    def entropy(self) -> Tensor:
        """``batch_shape`` nats: log(width / widest allowed width)."""
        return torch.log((self.hi - self.lo) / (self.bounds[1] - self.bounds[0]))
