"""Segmentation test-time augmentation: turned and rescaled views of an image, segmented, put back, averaged.

A small network labels every pixel of a scikit-learn digit — which digit, or background. Which views are worth averaging is
learned through the frozen network, on digits it was not trained on; the test digits are turned, shifted and rescaled (simulated).

    python examples/segmentation_tta.py
"""

import _training
import torch
import torch.nn.functional as F
from _digits import digits, nuisance
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms import functional, viz
from instaaug_transforms.families.rotate import Rotate
from instaaug_transforms.tta import paired_interval
from instaaug_transforms.utils.modes import frozen

BACKGROUND, INK = 10, 0.35


class SmallUNet(nn.Module):
    """One image channel to 11 logits per pixel; three resolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        wide = 2 * width
        self.high, self.middle, self.low = _block(1, width), _block(width, wide), _block(wide, 2 * wide)
        self.up, self.top = _block(3 * wide, wide), _block(wide + width, width)
        self.head = nn.Conv2d(width, BACKGROUND + 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 1, H, W)`` in [0, 1] to logits ``(B, 11, H, W)``."""
        high = self.high(images)
        middle = self.middle(F.max_pool2d(high, 2))
        low = self.low(F.max_pool2d(middle, 2))
        low = low + low.amax((2, 3), keepdim=True)  # what the whole image looks like
        middle = self.up(torch.cat([F.interpolate(low, scale_factor=2.0), middle], 1))
        return self.head(self.top(torch.cat([F.interpolate(middle, scale_factor=2.0), high], 1)))


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def pixel_labels(images: Tensor, targets: Tensor) -> Tensor:
    """``(N, H, W)``: the digit where there is ink, else `BACKGROUND`."""
    return torch.where(images[:, 0] > INK, targets[:, None, None], BACKGROUND)


def train(images: Tensor, labels: Tensor, seed: int, steps: int) -> nn.Module:
    """A segmentation network on digits turned by up to ±60°, labels turned alike."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model, turn = SmallUNet(), ia.families.create([Rotate()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="train the segmenter", disable=None):
        index = torch.randint(len(images), (64,), generator=generator)
        params = ia.AugmentParams(angle=120 * torch.rand(64, generator=generator) - 60)
        batch = functional.apply(images[index], params, turn)
        truth = soft_labels(labels[index], params, turn)
        loss = F.cross_entropy(model(batch), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def soft_labels(labels: Tensor, params: ia.AugmentParams, families: list[ia.Family]) -> Tensor:
    """Labels ``(B, H, W)`` moved as the images are, ``(B, 11, H, W)``; what comes into view is background.

    Bilinear, so that the gradient of a parameter knows that image and labels move together.
    """
    ink = F.one_hot(labels, BACKGROUND + 1).movedim(-1, 1)[:, :BACKGROUND].float()
    moved = functional.apply(ink, params, families, colour=False)
    return torch.cat([moved, 1 - moved.sum(1, keepdim=True)], 1)


def learn(model: nn.Module, images: Tensor, labels: Tensor, predictor: str, seed: int, steps: int) -> ia.LearnedAugment:
    """Ranges of rotation and scale through the frozen network."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(["rotate", "scale"], in_channels=1, image_size=32, predictor=predictor)
    # Half the turns and sizes that any range may have are too many for a digit: bands of 20° to 100°, of 1.2 to 2 times.
    objective = ia.InstaAugObjective(aug, entropy={"rotate": (-2.9, -1.3), "scale": (-2.0, -0.7)}, initial_weight=0.03)
    # A predictor that does not look is four numbers and no network: it takes larger steps.
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3 if predictor == "conv" else 2e-2)
    with frozen(model):
        for _ in tqdm(range(steps), desc=f"learn the views ({predictor})", disable=None):
            index = torch.randint(len(images), (64,), generator=generator)
            views, sample = aug.sample(images[index], generator=generator)
            truth = soft_labels(labels[index], sample.params.flatten(), aug.families)
            ink = truth[:, :BACKGROUND].sum((1, 2, 3))  # per pixel of ink: most of an image is background
            per_view = F.cross_entropy(model(views), truth, reduction="none").sum((1, 2)) / ink.clamp_min(20)
            optimizer.zero_grad()
            objective(per_view, sample).backward()
            optimizer.step()
    return aug.eval()


class Flipped(nn.Module):
    """The mean over an image and its mirror image, mirrored back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images to log-probabilities."""
        both = self.model(images).softmax(1), self.model(images.flip(-1)).softmax(1).flip(-1)
        return ((both[0] + both[1]) / 2).log()


@torch.no_grad()
def ink_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """``(N,)``: intersection over union of each image's ink and the pixels that are called its digit."""
    said = torch.cat([model(part).argmax(1) for part in images.split(100)])
    ink = labels != BACKGROUND
    hit = ((said == labels) & ink).sum((1, 2))
    return hit / (ink | (said != BACKGROUND)).sum((1, 2))


def run(seed: int, views: list[int], smoke: bool) -> dict:
    """Every arm at every number of views, and the learned transform."""
    parts = digits(seed)
    labels = {name: pixel_labels(data.images, data.targets) for name, data in parts.items()}
    model = train(parts["classifier"].images, labels["classifier"], seed, 4 if smoke else 600)
    policy = nuisance(parts["policy"], seed + 100)
    policy_labels = pixel_labels(policy.images, policy.targets)
    steps = 3 if smoke else 500
    augs = {
        name: learn(model, policy.images, policy_labels, kind, seed, steps)
        for name, kind in (("ours", "conv"), ("without input", "global"))
    }
    test = nuisance(parts["test"], seed + 200)
    truth = pixel_labels(test.images, test.targets)
    arms = {("single view", 1): model, ("horizontal flip", 2): Flipped(model)}
    for k in views:
        for name, aug in augs.items():
            arms[name, k] = ia.SegmentationTTA(model, aug, k, select="stratified")
    torch.manual_seed(seed)
    scores = {arm: ink_accuracy(m, test.images, truth) for arm, m in arms.items()}
    rows = []
    for (name, k), score in scores.items():
        gain = paired_interval((score - scores["single view", 1]).numpy(), seed)
        rows.append({"arm": name, "K": k, "iou": score.mean().item(), "gain": gain})
    return {"seed": seed, "n": len(truth), "rows": rows, "aug": augs["ours"], "images": test.images[:6]}


def main(arguments: list[str] | None = None) -> None:
    """Print a table per seed; write results.json and a picture of what was learned."""
    parser = _training.parser(__doc__, "segmentation-out")
    parser.add_argument("--views", type=int, nargs="+", default=[4, 10], help="numbers of views K (4 10)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    made = []
    for seed in options.seeds[:1] if options.smoke else options.seeds:
        result = run(seed, options.views, options.smoke)
        viz.save(viz.learned_ranges(result.pop("aug"), result.pop("images")), options.out / f"learned-{seed}.png")
        lines = [
            [r["arm"], r["K"], f"{r['iou']:.4f}", "{:+.4f} [{:+.4f}, {:+.4f}]".format(*r["gain"]) if r["K"] > 1 else ""]
            for r in result["rows"]
        ]
        print(f"seed {seed}, n = {result['n']}, simulated nuisance\n")
        print(
            tabulate(
                lines,
                ["views", "K", "mean IoU of the ink", "over single view [95 %]"],
                tablefmt="github",
                disable_numparse=True,
            )
            + "\n"
        )
        made.append(result)
    _training.write_results(options.out, made)


if __name__ == "__main__":
    main()
