"""Learn how far each image of Mario or Iggy may be turned before up becomes down, together with the classifier.

Redraws Figure 5 of the InstaAug paper and measures it, by coverage and spill. With three modes the classes alternate every 60°.
--data: arrays mario and iggy, (1, 3, 32, 32) in [0, 1].

    python examples/experiments/mario_iggy.py --data mario_iggy.npz
"""

import harness
import numpy as np
import torch
from joint import Arm
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import instaaug_transforms as ia
from instaaug_transforms import viz

TURN = ia.LearnedAugment(["rotate"])  # applies the tilts; nothing of it is learned
PER_EPOCH = 250  # steps
# Entropy band in nats, predictor, modes, φ's learning rate. The whole circle is 0 nats; the first band is the family's
# default, and none was chosen for the answer, which is log ½ = −0.69.
ARMS = {
    "ours": ((-1.0, -0.3), "conv", 1, 1e-3),
    "ours, lower band": ((-1.6, -0.9), "conv", 1, 1e-3),
    "ours, higher band": ((-0.6, -0.1), "conv", 1, 1e-3),
    "one symmetric range": ((-1.0, -0.3), "symmetric", 1, 3e-2),  # one free number
    "three modes": ((-1.0, -0.3), "conv", 3, 1e-3),
    "three modes, low band": ((-2.2, -1.5), "conv", 3, 1e-3),
}


def draw(sprites: Tensor, n: int, modes: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """``n`` images masked to the inscribed circle (black corners would give the angle away), classes, tilts in degrees.

    The class is 2·who + phase; the tilt, uniform in ±45°/modes, is measured from the middle of the class's nearest arc.
    """
    who, phase = torch.randint(2, (n,), generator=generator), torch.randint(2, (n,), generator=generator)
    tilt = (2 * torch.rand(n, generator=generator) - 1) * 45 / modes
    turn = torch.randint(modes, (n,), generator=generator)
    angle = tilt + 180 / modes * phase + 360 / modes * turn
    size = sprites.shape[-1]
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    circle = (line[:, None] ** 2 + line**2 < 1).float()
    return TURN.apply(sprites[who], ia.AugmentParams(angle=angle)) * circle, 2 * who + phase, tilt


def coverage_and_spill(lo: Tensor, hi: Tensor, tilt: Tensor, modes: int = 1) -> tuple[Tensor, Tensor]:
    """Per image: share of the label-preserving set inside [lo, hi], −180° ≤ lo < hi ≤ 180°, and share of [lo, hi] outside it.

    The set of an image tilted by α is [−h − α, h − α] and its repeats every 360°/modes, h = 90°/modes: 180° in all.
    """
    half, period = 90 / modes, 360 / modes
    inside = torch.zeros_like(lo)
    for k in range(-modes, modes + 1):
        centre = period * k - tilt
        inside += (torch.minimum(hi, centre + half) - torch.maximum(lo, centre - half)).clamp(min=0)
    return inside / 180, (hi - lo - inside) / (hi - lo)


def network(classes: int = 4) -> nn.Sequential:
    """Three strided convolutions, 0.12 M parameters: position is kept, as orientation is in it."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(4, 64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, classes)),
    )


def experiment(name: str, sprites: Tensor, seed: int, options) -> dict:
    """One run: fresh images at every step, φ averaged over steps; ranges measured on 2,000 others."""
    (band, predictor, modes, rate), file = ARMS[name], harness.name_of(name, seed)
    torch.manual_seed(seed)
    generator, model = torch.Generator().manual_seed(seed), network()
    aug = ia.LearnedAugment(["rotate"], predictor=ia.ConvPredictor(32) if predictor == "conv" else predictor)
    arm = Arm(model, generator, objective=ia.InstaAugObjective(aug, entropy={"rotate": band}))
    groups = [{"params": model.parameters()}, {"params": arm.objective.parameters(), "lr": rate}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    # Between both sides' ranges the classifier's border moves freely; the average of φ does not follow every move.
    average = AveragedModel(aug.predictor, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(aug.predictor))
    history = harness.train(
        lambda _, epoch: arm.loss(*draw(sprites, 64, modes, generator)[:2]),
        lambda epoch: range(min(PER_EPOCH, options.steps - PER_EPOCH * epoch)),
        -(-options.steps // PER_EPOCH),
        [*arm.modules, average],
        [harness.warmup_cosine(optimizer, options.steps, 100)],
        folder=options.out / "stages" / file,
        generator=generator,
        notes=arm.notes,
    )
    aug.predictor.load_state_dict(average.module.state_dict())
    images, _, tilt = draw(sprites, 2000, modes, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        angle = aug.distribution(images).parts["rotate"].fields["angle"]
    coverage, spill = coverage_and_spill(angle.lo, angle.hi, tilt, modes)
    aug.save(options.out / f"augment-{file}.safetensors", seed=seed)
    figures = {"coverage": coverage, "spill": spill, "width": angle.hi - angle.lo, "entropy": angle.entropy()}
    run = {key: values.mean().item() for key, values in figures.items()}
    run |= {"weight": arm.objective.weights["rotate"], "seconds": history[-1]["seconds"], "n": len(images)}
    return run | {"band": band, "predictor": predictor, "modes": modes, "rate": rate, "history": history}


def picture(sprites: Tensor, names: list[str], options) -> Figure:
    """Figure 5: tilted images of each class inside a dial; red is the learned range, the thin ring what keeps the class."""
    figure = Figure(figsize=(9.6, 1.75 * len(names)), dpi=110, layout="constrained")
    for row, name in zip(figure.subplots(len(names), 8, squeeze=False), names, strict=True):
        file, modes = options.out / f"augment-{harness.name_of(name, options.seeds[0])}.safetensors", ARMS[name][2]
        images, labels, tilt = draw(sprites, 400, modes, torch.Generator().manual_seed(0))
        eight = torch.cat([(labels == c).nonzero()[:2, 0] for c in range(4)])
        distribution = ia.LearnedAugment.from_pretrained(file).distribution(images[eight])
        for i, axes in enumerate(row):
            viz.draw_rotation(axes, images[eight[i]], distribution, i)
            for k in range(modes):
                middle, half = 90 + 360 / modes * k - tilt[eight[i]].item(), 90 / modes
                axes.add_patch(Wedge((0, 0), 1.45, middle - half, middle + half, width=0.08, facecolor=viz.INK))
        row[0].text(-0.1, 0.5, name, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Run every arm with every seed."""
    few, choices = {"steps": 8, "seeds": [0]}, {"arms": ARMS}
    options = harness.parse(arguments, __doc__, ".npz", smoke=few, choices=choices, steps=1500, arms=list(ARMS))
    with np.load(options.data) as file:
        sprites = torch.tensor(np.concatenate([file["mario"], file["iggy"]])).float()  # (2, 3, 32, 32)

    arms, columns = [arm for arm in ARMS if arm in options.arms], ("coverage", "spill", "width", "weight", "seconds")
    harness.sweep(options, arms, lambda arm, seed: experiment(arm, sprites, seed, options), columns, digits=3)
    viz.save(picture(sprites, arms, options), options.out / "figure5.png")


if __name__ == "__main__":
    main()
