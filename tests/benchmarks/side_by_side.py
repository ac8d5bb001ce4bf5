"""The package of another commit against the present one: the same work in two processes that take turns.

    python -m tests.benchmarks.side_by_side e045cd5

The other commit is checked out aside, and taken away again. Ratios are those of the medians (in brackets: of the fastest rounds) of the
present code's time to the other's. What one of them cannot do is left out.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate

ROOT = Path(__file__).parent.parent.parent


def works(threads: int) -> dict:
    """Name to a call, from what both versions have in public."""
    import instaaug_transforms as ia

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    small, large = torch.rand(64, 3, 64, 64), torch.rand(16, 3, 224, 224)
    frozen = lambda families: ia.LearnedAugment(families).eval().requires_grad_(False)  # noqa: E731
    crop, several = frozen(["crop"]), frozen(["crop", "rotate", "hsv"])
    drawn = {name: several.distribution(x).sample() for name, x in (("small", small), ("large", large))}
    params = several.distribution(small).sample()
    names = ("angle", "hue", "saturation", "value")

    def backward():
        leaves = {name: params[name].clone().requires_grad_() for name in names}
        several.apply(small, params.replace(**leaves)).sum().backward()

    model = ia.timm.create_classifier("resnet18", num_classes=200).to(memory_format=torch.channels_last)
    labels, images = torch.randint(200, (64,)), small
    aug = ia.LearnedAugment(["crop"])
    objective = ia.InstaAugObjective(aug)
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], 1e-3)

    def step():
        views, sample = aug.sample(images)
        losses = F.cross_entropy(model(views.contiguous(memory_format=torch.channels_last)), labels, reduction="none")
        optimizer.zero_grad()
        objective(losses, sample).backward()
        optimizer.step()

    classifier = ia.timm.create_classifier("resnet18", num_classes=200).eval()
    tta = ia.TTAModel(classifier, crop, 4)
    return {
        "aug(x), crop, 64×3×64×64": (lambda: crop(small), 40),
        "aug(x), crop + rotate + HSV, 16×3×224×224": (lambda: several(large), 12),
        "apply, crop + rotate + HSV, 64×3×64×64": (lambda: several.apply(small, drawn["small"]), 40),
        "apply, crop + rotate + HSV, 16×3×224×224": (lambda: several.apply(large, drawn["large"]), 12),
        "forward and backward of the same, 64×3×64×64": (backward, 20),
        "one image of 64 px": (lambda: crop(small[0]), 60),
        "joint training step, ResNet-18, 64×3×64×64": (step, 5),
        "TTA, ResNet-18, 32 images, K = 4": (lambda: tta(small[:32]), 5),
    }


def serve(threads: int) -> None:
    """A line in, the seconds that work took out."""
    calls = works(threads)
    print(len(calls), flush=True)
    for name, (_, rounds) in calls.items():
        print(f"{rounds}\t{name}", flush=True)
    for line in sys.stdin:
        call, _ = list(calls.values())[int(line)]
        start = time.perf_counter()
        call()
        print(time.perf_counter() - start, flush=True)


class Side:
    """A process with one version of the package."""

    def __init__(self, root: Path, threads: int) -> None:
        command = [sys.executable, str(Path(__file__)), "--serve", str(threads)]
        environment = os.environ | {"PYTHONPATH": str(root)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
        )
        count = int(self.process.stdout.readline())
        lines = [self.process.stdout.readline().strip().split("\t") for _ in range(count)]
        self.works = [(name, int(rounds)) for rounds, name in lines]

    def seconds(self, work: int) -> float:
        print(work, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", nargs="?", help="what to compare with")
    parser.add_argument("--rounds", type=float, default=1.0, help="times the usual number of rounds")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    rows, order = [], random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run([*git, "add", "--detach", str(other), options.commit], check=True, capture_output=True)
        try:
            for threads in (1, 2):
                sides = [Side(ROOT, threads), Side(other, threads)]
                for work, (name, rounds) in enumerate(sides[0].works):
                    times: tuple[list[float], list[float]] = [], []
                    for i in range(3 + int(rounds * options.rounds)):
                        for side in order.sample((0, 1), 2):
                            seconds = sides[side].seconds(work)
                            if i >= 3:  # the first rounds warm up
                                times[side].append(seconds)
                    ratio, fastest = (of(times[0]) / of(times[1]) for of in (statistics.median, min))
                    rows.append([name, threads, 1000 * statistics.median(times[0]), f"{ratio:.2f} ({fastest:.2f})"])
                for side in sides:
                    side.process.terminate()
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    print(tabulate(rows, ["work", "threads", "ms", f"× {options.commit}"], "github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
