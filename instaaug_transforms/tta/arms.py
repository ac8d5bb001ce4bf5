"""What learned views are compared with, at equal numbers of views, each free to draw from anchors × {flip, none}.

An arm gives the views of a batch, best first, so that its first K views are what it would choose for K.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..augment import LearnedAugment
from ..families import create
from ..families.crop import Crop
from ..params import AugmentParams
from .classification import choose_views

# Images (B, C, H, W) to (n, B) parameters, or to finished views (n, B, C, H, W).
Arm = Callable[[Tensor, torch.Generator], AugmentParams | Tensor]

ZOOMS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)
ANGLES = (-45.0, -30.0, -20.0, -10.0, 10.0, 20.0, 30.0, 45.0)


def views_of(boxes: list[tuple[float, float, float, int]]) -> AugmentParams:
    """``(V,)`` parameters from (cx, cy, side, flip) rows."""
    cx, cy, side, flip = torch.tensor(boxes).T
    return AugmentParams(cx=cx, cy=cy, w=side, h=side, flip=flip)


def zoom_candidates() -> AugmentParams:
    """Centre zooms, plain and mirrored; the image itself first."""
    return views_of([(0.5, 0.5, side, flip) for flip in (0, 1) for side in ZOOMS])


def policy_candidates(aug: LearnedAugment) -> AugmentParams:
    """Centre zooms and the transform's anchors, plain and mirrored; where it rotates, rotations too."""
    crop = next((family for family in aug.families if isinstance(family, Crop)), Crop())
    parts = [zoom_candidates()]
    for flip in (0.0, 1.0):
        boxes = [(cx, cy, w, flip) for cx, cy, w, _, f in crop.anchors.tolist() if f == 0 and w < 1]
        parts.append(views_of(boxes) if boxes else zoom_candidates().map(lambda field: field[:0]))
    candidates = AugmentParams.cat(parts)
    if not any(family.name == "rotate" for family in aug.families):
        return candidates
    candidates = candidates.replace(angle=torch.zeros_like(candidates.cx))
    turned = views_of([(0.5, 0.5, 1.0, 0)] * len(ANGLES)).replace(angle=torch.tensor(ANGLES))
    return AugmentParams.cat([candidates, turned])


def greedy(losses: Tensor, k: int) -> list[int]:
    """Greedy policy search (Molchanov et al., UAI 2020) for mean-probability averaging.

    Args:
        losses: ``(N, V)`` −log p(true class) of every candidate view.
        k: views to choose; a view may be chosen again.

    Returns:
        ``k`` columns, each the one that lowers the loss of the average most, given those before it.
    """
    likelihood = (-losses.double()).exp()
    chosen: list[int] = []
    total = torch.zeros(len(likelihood), 1, dtype=torch.float64)
    for _ in range(k):
        score = (total + likelihood).clamp_min(1e-12).log().mean(0)
        chosen.append(int(score.argmax()))
        total = total + likelihood[:, chosen[-1] : chosen[-1] + 1]
    return chosen


def fixed(views: AugmentParams) -> Arm:
    """The same ``(V,)`` views for every image."""
    return lambda images, _: views.map(lambda field: field.to(images.device)[:, None].expand(-1, len(images)))


def random_views(aug: LearnedAugment, n: int) -> Arm:
    """The image itself and n − 1 random anchors × {flip, none}; other families uniform over a quarter of their bounds."""
    crop = next((family for family in aug.families if isinstance(family, Crop)), None)

    def arm(images: Tensor, generator: torch.Generator) -> AugmentParams:
        shape = (n, len(images))
        fields: dict[str, Tensor] = {}
        if crop is not None:
            index = torch.randint(crop.n_anchors, shape, generator=generator)
            index[0] = 0
            flip = torch.randint(2, shape, generator=generator).float()
            flip[0] = 0.0
            fields = {**crop._gather(index), "flip": flip}
        for family in aug.families:
            for name, (low, high) in getattr(family, "_bounds", {}).items():
                centre = family.identity()[name]
                value = centre + (high - low) / 4 * (torch.rand(shape, generator=generator) - 0.5)
                value[0] = centre
                fields[name] = value
        return AugmentParams(**fields).to(images.device)

    return arm


def auto_augment(n: int) -> Arm:
    """The image itself and n − 1 draws from AutoAugment's policy for ImageNet (Cubuk et al. 2019), as torchvision has it."""
    policy = v2.AutoAugment()

    def arm(images: Tensor, generator: torch.Generator) -> Tensor:
        pixels = images.mul(255).round_().clamp_(0, 255).to(torch.uint8)
        seed = int(torch.randint(2**31, (), generator=generator))
        with torch.random.fork_rng([]):  # torchvision draws from the global generator
            torch.manual_seed(seed)
            drawn = [torch.stack([policy(image) for image in pixels]).float() / 255 for _ in range(n - 1)]
        return torch.stack([images, *drawn])

    return arm


def learned(
    aug: LearnedAugment, n: int, select: str = "top", range_fraction: float = 1.0, shuffled: bool = False
) -> Arm:
    """Ours. ``shuffled`` gives every image the distribution of the next image: as strong, but not looking at it."""

    def arm(images: Tensor, generator: torch.Generator) -> AugmentParams:
        with torch.no_grad():
            looked_at = images.roll(1, 0) if shuffled else images
            distribution = aug._distribution(looked_at).narrowed(range_fraction)
            return choose_views(distribution, n, select, generator=generator)

    return arm


def families_for(aug: LearnedAugment) -> list:
    """The families that act on an arm's parameters: crop and rotate for the fixed views, and the transform's own."""
    own = {family.name: family for family in aug.families}
    return create([own.get(name, name) for name in dict.fromkeys(["crop", "rotate", *own])])
