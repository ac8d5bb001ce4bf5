"""What learned views are compared with, at equal numbers of views, each free to draw from candidates × {flip, none}.

An arm gives the views of a batch, best first, so that its first K views are what it would choose for K.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..families import CandidateProduct, Family, identity_of
from ..functional.inputs import as_bytes
from ..params import AugmentParams
from ..utils.modes import seed_generators
from .views import choose_views, families_beside

# Images (B, C, H, W) to (n, B) parameters, or to the image itself and then finished views (n - 1, B, C, H, W).
Arm = Callable[[Tensor, torch.Generator], AugmentParams | Tensor]

ZOOMS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)
ANGLES = (-45.0, -30.0, -20.0, -10.0, 10.0, 20.0, 30.0, 45.0)
LARGEST = 256  # columns of a product; above, each family's candidates alone


def boxes(rows: list[tuple[float, float, float, int]]) -> AugmentParams:
    """``(V,)`` crops from (cx, cy, side, flip) rows."""
    cx, cy, side, flip = torch.tensor(rows).T
    return AugmentParams(cx=cx, cy=cy, w=side, h=side, flip=flip)


def zoom_candidates() -> AugmentParams:
    """Centre zooms, plain and mirrored; the image itself first."""
    return boxes([(0.5, 0.5, side, flip) for flip in (0, 1) for side in ZOOMS])


def families_for(aug: LearnedAugment) -> list[Family]:
    """The families that act on an arm's parameters: crop and rotate for the fixed views, and the transform's own."""
    return families_beside(aug, "crop", "rotate")


def union(families: Sequence[Family], parts: Sequence[AugmentParams]) -> AugmentParams:
    """All views of ``parts``, ``(V_k,)`` each; a field that a part leaves out is the identity there."""
    used = [name for family in families for name in family.fields if any(name in part for part in parts)]
    identity = identity_of(families)

    def column(part: AugmentParams, name: str) -> Tensor:
        return part[name].float() if name in part else torch.full(part.batch_shape, float(identity[name]))

    # Indices of candidates say nothing of views from elsewhere, and views are applied by their other fields where they can.
    return AugmentParams(**{name: torch.cat([column(part, name) for part in parts]) for name in used})


def own_candidates(aug: LearnedAugment) -> list[AugmentParams]:
    """The candidates of the transform's anchor families: every combination, or each family's where they are many."""
    families = aug.anchor_families
    if not families:
        return []
    try:
        return [CandidateProduct(families, LARGEST).candidates()]
    except ValueError:
        return [family.candidates() for family in families]


def mirrored(views: AugmentParams) -> AugmentParams:
    """The mirror images of crops, none of which is one; that of the whole image is among the zooms."""
    plain = views.index(views.w < 1)
    return plain.replace(flip=torch.ones_like(plain.flip))


def policy_candidates(aug: LearnedAugment) -> AugmentParams:
    """Centre zooms and the transform's candidates, crops mirrored too; where it rotates, rotations as well."""
    own = own_candidates(aug)
    crops = [mirrored(part) for part in own if "flip" in part and not bool(part.flip.any())]
    parts = [zoom_candidates(), *(part.index(slice(1, None)) for part in own), *crops]
    if any("angle" in family.fields for family in aug.families):
        parts.append(AugmentParams(angle=torch.tensor(ANGLES)))
    return union(families_for(aug), parts)


def with_extras(aug: LearnedAugment, views: AugmentParams) -> AugmentParams:
    """``views`` first, then centre zooms and mirror images, which cost nothing to learn."""
    return union(families_for(aug), [views, zoom_candidates().index(slice(1, None))])


def greedy(losses: Tensor, k: int, again: bool = True, weights: Tensor | None = None) -> list[int]:
    """Greedy policy search (Molchanov et al., UAI 2020) for mean-probability averaging.

    Args:
        losses: ``(N, V)`` −log p(true class) of every candidate view.
        k: views to choose.
        again: whether a view may be chosen more than once.
        weights: ``(N,)`` of the images.

    Returns:
        ``k`` columns, each the one that lowers the loss of the average most, given those before it.
    """
    likelihood = (-losses.double()).exp()
    chosen: list[int] = []
    total = torch.zeros(len(likelihood), 1, dtype=torch.float64)
    weights = torch.ones(len(likelihood)) if weights is None else weights
    for _ in range(k):
        score = (total + likelihood).clamp_min(1e-12).log().mul(weights[:, None]).mean(0)
        if not again:
            score[chosen] = -math.inf
        chosen.append(int(score.argmax()))
        total = total + likelihood[:, chosen[-1] : chosen[-1] + 1]
    return chosen


def fixed(views: AugmentParams) -> Arm:
    """The same ``(V,)`` views for every image."""
    return lambda images, _: views.to(images.device).for_each(len(images))


def random_views(aug: LearnedAugment, n: int) -> Arm:
    """The image itself and n − 1 random candidates, crops flipped half of the time; ranges over a quarter of their bounds."""

    def arm(images: Tensor, generator: torch.Generator) -> AugmentParams:
        shape = (n, len(images))
        fields: dict[str, Tensor] = {}
        for family in aug.families:
            uniform = torch.rand((*shape, family.n_uniforms), generator=generator)
            drawn = family.widest(uniform, 0.25)
            if "flip" in drawn:
                drawn["flip"] = torch.randint(2, shape, generator=generator).float()
            for name, value in family.identity().items():
                drawn[name][0] = value
            fields |= drawn
        return AugmentParams(**fields).to(images.device)

    return arm


def auto_augment(n: int) -> Arm:
    """The image itself and n − 1 draws from AutoAugment's policy for ImageNet (Cubuk et al. 2019), as torchvision has it."""
    policy = v2.AutoAugment()

    def arm(images: Tensor, generator: torch.Generator) -> Tensor:
        pixels = as_bytes(images)
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng([]):  # torchvision draws from the global generator
            seed_generators(seed, torch.device("cpu"))
            return torch.stack([torch.stack([policy(image) for image in pixels]) for _ in range(n - 1)]).float() / 255

    return arm


def learned(
    aug: LearnedAugment,
    n: int,
    select: str = "top",
    range_fraction: float = 1.0,
    shuffled: bool = False,
    include_identity: bool = True,
    predict: Callable[[Tensor], AugmentDistribution] | None = None,
) -> Arm:
    """Ours. ``shuffled`` gives every image the views of the image before it in the batch, the first those of the last: as
    strong, but not looking at it. ``predict`` takes the place of ``aug.predict``, to look once for several arms."""

    def arm(images: Tensor, generator: torch.Generator) -> AugmentParams:
        with torch.no_grad():
            distribution = (predict or aug.predict)(images).narrowed(range_fraction)
            views = choose_views(distribution, n, select, include_identity, generator=generator)
            return views.map(lambda field: field.roll(1, 1)) if shuffled else views

    return arm


def most_confident(logits: Tensor) -> Tensor:
    """Of views ``(n, B, K)`` the logits ``(B, K)`` of the one that the classifier is surest of."""
    best = logits.float().log_softmax(-1).amax(-1).argmax(0)  # (B,)
    return logits[best, torch.arange(logits.shape[1], device=logits.device)]
