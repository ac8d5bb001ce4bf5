"""SimCLR with learned crops: two views per image, both directional losses credited to both crops.

Arms: RandomResizedCrop, learned crops without input, ours. Colour jitter and flips are the same for all. Encoders are judged
by a linear and by a k-NN probe; the probes' regularisation and k are chosen on held-out train images. Features are averages
over ten crops of the arm's own kind.

    python examples/simclr.py --data DIR --image-size 32 --images 10000 --epochs 20

In full, on one GPU (pending, tried on the CPU alone):

    python examples/simclr.py --data DIR --model resnet18 --image-size 64 --images 100000 --epochs 100 --batch-size 512 --amp
"""

import time
from pathlib import Path

import _joint
import _training
import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning import contrastive_losses
from instaaug_transforms.learning.data import LabelledImages, load

ARMS = {"random crop": None, "without input": "global", "ours": "conv"}


class Encoder(nn.Module):
    """A timm backbone and SimCLR's two-layer projection."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = ia.timm.wrap(timm.create_model(name, num_classes=0))
        width = self.body.model.num_features
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))

    def forward(self, views: Tensor) -> Tensor:
        return self.head(self.body(views))


class Run:
    """One arm and seed: pretraining, then features."""

    def __init__(self, arm: str, options, seed: int) -> None:
        torch.manual_seed(seed)
        self.arm, self.options, self.seed, self.device = arm, options, seed, torch.device(options.device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.encoder = Encoder(options.model).to(self.device)
        self.random, self.aug, self.objective = _joint.RandomCrop(tuple(options.area)), None, None
        self.colour = ia.LearnedAugment(["hsv"])  # for its resample-free colour alone; nothing of it is learned
        for module in (self.random.aug, self.colour):
            module.to(self.device)
        modules, parameters = {"encoder": self.encoder}, list(self.encoder.parameters())
        if ARMS[arm] is not None:
            # Two views that chose the same anchor must not be the same crop.
            crop = Crop("paper_64px", jitter=True)
            self.aug = ia.LearnedAugment([crop], predictor=ARMS[arm], image_size=32).to(self.device)
            # A leave-one-out baseline over the two views would be the very loss that they share. λ has few steps to settle in.
            control = {"entropy": {"crop": tuple(options.band)}, "weight_rate": options.weight_rate}
            self.objective = ia.InstaAugObjective(self.aug, estimator="reinforce", **control)
            modules["objective"] = self.objective
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-6)
        if self.objective is not None:
            rate = 1e-3 * (_joint.GLOBAL_RATE if ARMS[arm] == "global" else 1.0)
            self.optimizer.add_param_group({"params": list(self.objective.parameters()), "lr": rate})
        file = options.out / f"{arm.replace(' ', '-')}-{seed}.safetensors"
        self.checkpoint = _training.Checkpoint(file, modules, [self.optimizer], self.generator)

    def jitter(self, views: Tensor) -> Tensor:
        """The same flips and colours for every arm."""
        u = torch.rand(4, len(views), generator=self.generator, device=self.device)
        views = torch.where((u[3] < 0.5)[:, None, None, None], views.flip(-1), views)
        params = {"hue": 0.2 * (u[0] - 0.5), "saturation": 0.2 + 1.6 * u[1], "value": 0.4 + 1.2 * u[2]}
        return self.colour.apply(views, ia.AugmentParams(**params))

    def pretrain(self, data: LabelledImages) -> list[dict]:
        """All epochs, or those that a checkpoint leaves; a history entry per epoch."""
        options = self.options
        first, history = self.checkpoint.load() if options.resume else (0, None)
        history = history or []
        for epoch in tqdm(range(first, options.epochs), desc=self.arm, disable=None):
            start, total = time.perf_counter(), 0.0
            order = torch.randperm(len(data), generator=self.generator, device=self.device).cpu()
            batches = order[: len(order) // options.batch_size * options.batch_size].split(options.batch_size)
            for index in batches:
                images, _ = data.batch(index, self.device)
                if self.aug is None:
                    views = torch.cat([self.random(images, self.generator) for _ in range(2)])
                else:
                    views, sample = self.aug.sample(images, 2, generator=self.generator)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=options.amp):
                    embedded = self.encoder(self.jitter(views))
                per_view = contrastive_losses(*embedded.float().chunk(2), temperature=0.5)
                loss = per_view.mean()
                if self.objective is not None:  # a view has its part in its own direction and in its partner's
                    loss = self.objective(per_view, sample, credit=2 * per_view)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += per_view.mean().item() / len(batches)
            entry = {"epoch": epoch, "loss": total, "seconds": time.perf_counter() - start}
            if self.objective is not None:
                entry |= {"entropy": self.objective.entropies["crop"], "weight": self.objective.weights["crop"]}
            history.append(entry)
            shown = ", ".join(f"{k} {v:.3g}" for k, v in entry.items())
            tqdm.write(f"{self.arm}, seed {self.seed}: {shown}")  # a log file has no bar
            self.checkpoint.save(epoch + 1, history)
        return history

    @torch.no_grad()
    def features(self, data: LabelledImages, crops: int) -> np.ndarray:
        """``(N, D)``: the backbone's features averaged over crops."""
        self.encoder.eval()
        parts = []
        for index in torch.arange(len(data)).split(256):
            images, _ = data.batch(index, self.device)
            total = 0.0
            for _ in range(crops):
                views = self.random(images, self.generator)
                if self.aug is not None:
                    views = self.aug(images, generator=self.generator)
                total = total + self.encoder.body(views)
            parts.append(total / crops)
        self.encoder.train()
        return torch.cat(parts).cpu().numpy()


def probes(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> dict[str, tuple]:
    """Per probe: share of a held-out tenth of the train features that it gets right, and which test images.

    What a probe needs to choose, it chooses by the former.
    """
    (x, y), (tx, ty) = train, test
    held = np.arange(len(x)) % 10 == 0
    candidates = {
        "linear": [
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
            for c in (0.01, 0.1, 1.0, 10.0, 100.0)
        ],
        "knn": [KNeighborsClassifier(k, metric="cosine", weights="distance") for k in (5, 20, 50) if k < 0.9 * len(x)],
    }
    right = {}
    for name, models in candidates.items():
        scores = [model.fit(x[~held], y[~held]).score(x[held], y[held]) for model in models]
        best = models[int(np.argmax(scores))]
        right[name] = max(scores), best.fit(x, y).predict(tx) == ty
    return right


def images_of(options) -> tuple[LabelledImages, LabelledImages]:
    """Train and test images, uint8 in memory."""
    if options.smoke:
        generator = torch.Generator().manual_seed(0)
        made = [torch.randint(256, (n, 3, 32, 32), generator=generator).byte() for n in (64, 32)]
        return tuple(LabelledImages(images, torch.arange(len(images)) % 4) for images in made)
    size, splits = options.image_size, []
    for split, most in (("train", options.images), ("val", None)):
        folder = ImageFolder(
            str(options.data / split), v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()])
        )
        chosen = torch.randperm(len(folder), generator=torch.Generator().manual_seed(0))[:most].tolist()
        splits.append(load(torch.utils.data.Subset(folder, chosen), split))
    return splits[0], splits[1]


def main(arguments: list[str] | None = None) -> None:
    """Pretrain and probe every arm with every seed."""
    parser = _training.parser(__doc__, "simclr-out")
    parser.add_argument("--data", type=Path, help="folder that holds train/ and val/")
    parser.add_argument("--model", default="test_resnet", help="a timm model (%(default)s)")
    parser.add_argument("--image-size", type=int, default=32, help="pixels (%(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="train images (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--probe-images", type=int, default=20_000, help="train images of the probes (%(default)s)")
    parser.add_argument(
        "--band", type=float, nargs=2, default=(0.88, 0.96), help="entropy of learned crops, of log A (%(default)s)"
    )
    parser.add_argument(
        "--area", type=float, nargs=2, default=(0.08, 1.0), help="least and largest of the random crop (%(default)s)"
    )
    parser.add_argument("--weight-rate", type=float, default=0.03, help="how fast log λ moves per step (%(default)s)")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM", help="all")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast in the encoder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        options.epochs, options.batch_size, options.seeds = 1, 32, options.seeds[:1]
    elif options.data is None:
        parser.error("--data: the folder that holds train/ and val/ (or --smoke)")
    train, test = images_of(options)
    crops, runs = 2 if options.smoke else 10, []
    for arm in options.arms:
        for seed in options.seeds:
            run = Run(arm, options, seed)
            history = run.pretrain(train)
            # The images were drawn at random: the first of them are a random choice too.
            probed = train.subset(slice(0, options.probe_images))
            right = probes(*((run.features(part, crops), part.targets.numpy()) for part in (probed, test)))
            (held, linear), (held_knn, knn) = right["linear"], right["knn"]
            row = {"arm": arm, "seed": seed, "n": len(test), "band": options.band, "area": options.area}
            row |= {"top1": 100 * float(linear.mean()), "knn": 100 * float(knn.mean()), "held": 100 * held}
            row |= {"held knn": 100 * held_knn, "correct": linear.astype(int).tolist(), "history": history}
            runs.append(row)
            said = "{arm}, seed {seed}: linear {top1:.2f}, k-NN {knn:.2f}, n = {n}; held-out train images {held:.2f}, {held knn:.2f}"
            print(said.format(**row))
            _training.write_results(options.out, {"summary": _joint.compare(runs), "runs": runs})
            if arm == "ours":
                viz.save(
                    viz.learned_ranges(run.aug, test.batch(torch.arange(8), run.device)[0]), options.out / "learned.png"
                )
    for row in _joint.compare(runs):
        print(_joint.line(row, len(test)))


if __name__ == "__main__":
    main()
