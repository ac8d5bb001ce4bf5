"""Nothing grows: ``python -m tests.campaign.soak --cases 20000``.

As many calls of `TTAModel`, steps of joint training and epochs of a loader without growth of memory, threads, hooks,
open files or what Python's garbage collector counts.
"""

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import instaaug_transforms as ia

from .tally import Tally, main

WARM = 200  # calls before anything is counted
GROWTH = 24 * 2**20  # bytes
OBJECTS = 300  # that Python may hold more at the end: caches of sizes, say


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.stem(x).relu().mean((2, 3)))


def resident() -> int:
    """Bytes in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def counts(*modules: nn.Module) -> dict[str, int]:
    """What must not grow, besides memory."""
    gc.collect()
    hooks = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for top in modules
        for m in top.modules()
    )
    files = len(list(Path("/proc/self/fd").iterdir()))
    return {
        "threads": threading.active_count(),
        "tasks": len(list(Path("/proc/self/task").iterdir())),
        "hooks": hooks,
        "files": files,
        "objects": len(gc.get_objects()),
    }


def workloads() -> dict[str, tuple[Callable[[int], None], list[nn.Module]]]:
    """Calls to repeat, and the modules they use."""
    torch.manual_seed(0)
    classifier = Classifier().eval()
    reads = ia.LearnedAugment(["crop", "rotate"], predictor=ia.FeaturesPredictor(classifier, 16))
    average = ia.TTAModel(classifier, reads, 3)
    images = torch.rand(2, 3, 16, 16)

    def look(step: int) -> None:
        average(images[:, :, : 14 + step % 3])  # sizes change

    aug = ia.LearnedAugment(["crop", "rotate", "turn"], predictor=ia.ConvPredictor(16, 4))
    model, objective = Classifier(), ia.InstaAugObjective(aug, estimator="critic")
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-3)

    def step(_: int) -> None:
        views, sample = aug.sample(images, n=2)
        loss = objective(F.cross_entropy(model(views), torch.tensor([0, 1, 0, 1]), reduction="none"), sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"TTAModel": (look, [classifier, reads]), "training": (step, [model, aug, objective])}


def campaign(cases: int, seed: int) -> Tally:
    """``cases`` calls of each workload."""
    tally = Tally(seed)
    for name, (call, modules) in workloads().items():
        for step in range(min(WARM, cases)):
            call(step)
        before, memory = counts(*modules), resident()
        for step in range(cases):
            call(step)
        after, grown = counts(*modules), resident() - memory
        tally.cases += cases
        tally.expect(grown < GROWTH, f"{name}: memory grew by {grown / 2**20:.1f} MiB in {cases} calls")
        for what, allowed in (("threads", 0), ("tasks", 0), ("hooks", 0), ("files", 0), ("objects", OBJECTS)):
            tally.expect(
                after[what] - before[what] <= allowed, f"{name}: {what} went from {before[what]} to {after[what]}"
            )
        tally.notes[f"KiB more after {name}:"] = grown // 1024
    return tally


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(campaign, 20_000, __doc__))
