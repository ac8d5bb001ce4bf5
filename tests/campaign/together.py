"""Threads, workers, processes and ranks at once: ``python -m tests.campaign.together``.

On one module they give what each alone gives; on one folder of rows, too; a rank that dies ends the job and leaves what it
had; ranks may have no image at all, or other numbers of them.
"""

import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # before a process is forked
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import instaaug_transforms as ia
import instaaug_transforms.learning.fit
import instaaug_transforms.tta.compare

from .interrupted import FITS, Child, fit, write_images
from .soak import Classifier
from .tally import Tally, main

THREADS, TIMEOUT = 8, 60  # seconds


def threads(tally: Tally, rng: random.Random) -> None:
    """Eight threads, each with images and randomness of its own, on one transform and one average."""
    torch.manual_seed(rng.randrange(2**31))
    classifier = Classifier().eval()
    aug = ia.LearnedAugment(["crop", "rotate"], predictor=ia.FeaturesPredictor(classifier, 16)).eval()
    average = ia.TTAModel(classifier, aug, 3)
    batches = torch.rand(THREADS, 2, 3, 16, 16)
    found: dict[int, list[Tensor]] = {}

    def work(number: int, times: int) -> list[Tensor]:
        out = []
        for k in range(times):
            generator = torch.Generator().manual_seed(1000 * number + k)
            with torch.no_grad():
                out += [aug(batches[number], generator=generator), average(batches[number])]
        return out

    running = [threading.Thread(target=lambda n=n: found.update({n: work(n, 10)})) for n in range(THREADS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for number in range(THREADS):
        tally.cases += 1
        same = all(torch.equal(a, b) for a, b in zip(found.get(number, ()), work(number, 10), strict=True))
        tally.expect(same, f"thread {number} gets something else than alone")


class Augmented(Dataset):
    """Images through a transform, each with randomness of its own."""

    def __init__(self, aug: ia.LearnedAugment) -> None:
        self.aug, self.images = aug, torch.rand(12, 3, 16, 16)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(1)
        return self.aug(self.images[index], generator=torch.Generator().manual_seed(index))


def workers(tally: Tally, rng: random.Random, contexts: tuple[str, ...]) -> None:
    """Workers of a loader, forked and spawned, on one transform."""
    torch.manual_seed(rng.randrange(2**31))
    data = Augmented(ia.LearnedAugment(["crop", "rotate", "turn"], predictor=ia.ConvPredictor(16, 4)))
    alone = torch.stack([data[i] for i in range(len(data))]).detach()
    for context in contexts:
        tally.cases += 1
        loader = DataLoader(data, 4, num_workers=2, multiprocessing_context=context)
        tally.expect(torch.equal(torch.cat(list(loader)), alone), f"workers that were {context}ed give something else")


def one_folder(tally: Tally, scratch: Path) -> None:
    """Two fits at once on one work folder, each ending as one alone."""
    data = scratch / "data"
    write_images(data)
    alone = Child(lambda: fit(data, scratch / "alone.safetensors", FITS["crop"], ""), scratch / "log-alone")
    alone.wait()
    both = [
        Child(
            lambda k=k: fit(data, scratch / f"{k}.safetensors", FITS["crop"], f"--workdir {scratch / 'work'} --resume"),
            scratch / f"log-{k}",
        )
        for k in range(2)
    ]
    for k, child in enumerate(both):
        child.wait()
        tally.cases += 1
        path = scratch / f"{k}.safetensors"
        same = path.exists() and path.read_bytes() == (scratch / "alone.safetensors").read_bytes()
        tally.expect(same, f"two on one folder: {child.status} {(scratch / f'log-{k}').read_text()[-300:]}")


def ranked(rank: int, world: int, folder: Path, images: int, dies: bool) -> int:
    """One rank of a fit; the last one dies in the middle of its rows where it should."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
    torch.manual_seed(0)
    classifier, pixels, labels = Classifier(), torch.rand(40, 3, 16, 16), torch.arange(40) % 3
    aug = ia.LearnedAugment(["crop"], predictor=ia.ConvPredictor(16, 4))
    calls = 0

    def die(*_) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            os._exit(9)

    if dies and rank == world - 1:
        classifier.register_forward_hook(die)
    config = ia.FitConfig(epochs=2, batch_size=4, table_batch_size=2, max_steps=10, progress=False)
    train, val = (pixels[:images], labels[:images]), (pixels[-3:], labels[-3:])
    ia.fit(aug, classifier, train, val, config, workdir=folder / "work" if dies else None)
    aug.save(folder / f"{rank}.safetensors")
    return 0


def ranks(tally: Tally, scratch: Path, world: int, images: int, dies: bool) -> None:
    """All ranks end with the weights of a single process; where one dies, the others end with an error, and soon."""

    def together(world: int, folder: Path) -> list[int | None]:
        folder.mkdir()
        children = [
            Child(lambda rank=rank: ranked(rank, world, folder, images, dies and world > 1), folder / f"log-{rank}")
            for rank in range(world)
        ]
        end = time.monotonic() + TIMEOUT
        for child in children:
            if not child.wait(max(0.0, end - time.monotonic())):
                child.kill()
        return [child.status for child in children]

    tally.cases += 1
    about = f"{world} ranks, {images} images"
    statuses = together(world, many := scratch / f"many-{world}-{images}-{dies}")
    if dies:
        tally.faults += 1
        ended = statuses[-1] == 9 and all(status not in (0, -9) for status in statuses[:-1])
        tally.expect(ended, f"{about}, one dies: they end with {statuses}")
        kept = [path for path in (many / "work").rglob("rows.npy") if "0of" in path.parent.name]
        tally.expect(bool(kept), f"{about}, one dies: nothing is left to go on from")
        return
    tally.expect(statuses == [0] * world, f"{about}: they end with {statuses}: {errors(many)}")
    if together(1, alone := scratch / f"alone-{world}-{images}") != [0] or statuses != [0] * world:
        return
    expected = (alone / "0.safetensors").read_bytes()
    for rank in range(world):
        tally.expect((many / f"{rank}.safetensors").read_bytes() == expected, f"{about}: rank {rank} has other weights")


def errors(folder: Path) -> str:
    return " ".join(path.read_text()[:300] for path in sorted(folder.glob("*.error")))


def campaign(cases: int, seed: int, contexts: tuple[str, ...] = ("fork", "spawn")) -> Tally:
    """``cases`` rounds of all of it."""
    tally, rng = Tally(seed), random.Random(seed)
    torch.set_num_threads(1)
    for _ in range(cases):
        jobs: list[Callable[[Path], None]] = [
            lambda scratch: one_folder(tally, scratch),
            lambda scratch: ranks(tally, scratch, 3, 2, False),  # more ranks than images
            lambda scratch: ranks(tally, scratch, 2, rng.randint(5, 9), False),  # uneven shards
            lambda scratch: ranks(tally, scratch, 2, 30, True),
        ]
        for job in jobs:
            with tempfile.TemporaryDirectory() as scratch:
                job(Path(scratch))
        threads(tally, rng)
        workers(tally, rng, contexts)
    return tally


if __name__ == "__main__":
    sys.exit(main(campaign, 3, __doc__))
