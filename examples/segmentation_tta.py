"""Segmentation test-time augmentation: turned and rescaled views of an image, segmented, put back, averaged.

A small network labels every pixel of a scikit-learn digit — which digit, or background. Which views are worth averaging is
learned through the frozen network, on digits it was not trained on; the test digits are turned, shifted and rescaled (simulated).

    python examples/segmentation_tta.py
"""

import torch
import torch.nn.functional as F
from experiments import harness
from experiments.digits import BACKGROUND, digits, ink_accuracy, nuisance, pixel_labels, soft_labels, train_segmenter
from torch import Tensor, nn
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms.tta import paired_interval


def learn(model: nn.Module, images: Tensor, labels: Tensor, looks: bool, seed: int, steps: int) -> ia.LearnedAugment:
    """Ranges of rotation and scale through the frozen network."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    predictor = ia.ConvPredictor(image_size=32) if looks else "global"
    aug = ia.LearnedAugment(["rotate", "scale"], in_channels=1, predictor=predictor)
    # Half the turns and sizes that any range may have are too many for a digit: bands of 20° to 100°, of 1.2 to 2 times.
    entropy = ia.EntropyConfig({"rotate": (-2.9, -1.3), "scale": (-2.0, -0.7)}, initial_weight=0.03)
    objective = ia.InstaAugObjective(aug, entropy)
    # A predictor that does not look is four numbers and no network: it takes larger steps.
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3 if looks else 2e-2)
    model.eval().requires_grad_(False)
    for _ in tqdm(range(steps), desc="learn the views", disable=None):
        index = torch.randint(len(images), (64,), generator=generator)
        views, sample = aug.sample(images[index], generator=generator)
        truth = soft_labels(labels[index], aug, sample.params.flatten())
        ink = truth[:, :BACKGROUND].sum((1, 2, 3))  # per pixel of ink: most of an image is background
        per_view = F.cross_entropy(model(views), truth, reduction="none").sum((1, 2)) / ink.clamp_min(20)
        optimizer.zero_grad()
        objective(per_view, sample).backward()
        optimizer.step()
    return aug.eval()


own, few = {"views": [4, 10], "steps": 500, "segmenter_steps": 600}, {"steps": 3, "segmenter_steps": 4, "seeds": [0]}
data = ".npz of other digits: images (N, 8, 8), 0 … 16, and target (N,)"
options, reports = harness.parse(None, __doc__, data, smoke=few, optional="seeds", **own), []
for seed in options.seeds:
    parts = digits(seed, options.data)
    model = train_segmenter(parts["classifier"], seed, options.segmenter_steps)
    policy, test = nuisance(parts["policy"], seed + 100), nuisance(parts["test"], seed + 200)
    learned = {
        name: learn(model, policy.images, pixel_labels(policy), looks, seed, options.steps)
        for name, looks in (("ours", True), ("without input", False))
    }

    def flipped(images: Tensor, model: nn.Module = model) -> Tensor:
        return model(images).softmax(1) + model(images.flip(-1)).softmax(1).flip(-1)

    models = {("single view", 1): model, ("horizontal flip", 2): flipped}
    for k in options.views:
        models |= {(name, k): ia.SegmentationTTA(model, aug, k, select="stratified") for name, aug in learned.items()}
    torch.manual_seed(seed)
    scores = {key: ink_accuracy(each, test.images, pixel_labels(test)) for key, each in models.items()}
    rows, headings = [], ("views", "K", "mean IoU of the ink", "over single view [95 %]")
    for (name, k), score in scores.items():
        gain = paired_interval((score - scores["single view", 1]).numpy(), seed)
        rows.append({"arm": name, "K": k, "iou": score.mean().item(), "gain": gain})
    table = harness.show([dict(zip(headings, row.values(), strict=True)) for row in rows], 4)
    print(f"seed {seed}, n = {len(test)}, simulated nuisance\n\n{table}\n")
    ia.viz.save(ia.viz.learned_ranges(learned["ours"], test.images[:6]), options.out / f"learned-{seed}.png")
    reports.append({"seed": seed, "n": len(test), "rows": rows})
harness.write(options, runs=reports)
