"""Runs that are killed or run out of disk: ``python -m tests.campaign.interrupted --cases 50``.

Fits by the command line (crop; turn × light with a nuisance) and joint training are killed at random moments by SIGKILL,
or meet a limit on the size of files, and go on. What they end with must be bit for bit what an undisturbed run ends with,
and no file may ever be half written. Images that vanish or cannot be read are named, or skipped and counted.
"""

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch._dynamo  # before a process is forked: modules imported in each child would take longer than the fits
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

import instaaug_transforms as ia
import instaaug_transforms.cli.fit
import instaaug_transforms.tta.compare
import instaaug_transforms.tta.segmentation
from instaaug_transforms.cli.__main__ import main as command
from instaaug_transforms.utils import weights
from instaaug_transforms.utils.files import replace_file

from .tally import Tally, main

FITS = {
    "crop": "--transforms crop --scales 1 0.5 --grids 1 2 --entropy crop=0.3,0.8",
    "turn and light": "--transforms turn,light --nuisance turn,light",
}


def colours() -> nn.Module:
    """Images to logits of three classes, by their colour."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))


def write_images(folder: Path) -> None:
    """Eight small images of each of three classes."""
    rng = np.random.default_rng(0)
    for label in range(3):
        (folder / "train" / f"n{label}").mkdir(parents=True)
        for k in range(8):
            pixels = rng.integers(0, 120, (12, 12, 3), dtype=np.uint8)
            pixels[..., label] += 120
            PIL.Image.fromarray(pixels).save(folder / "train" / f"n{label}" / f"{k}.png")


def fit(data: Path, out: Path, options: str, more: str = "--resume") -> int:
    """`instaaug fit` in this process."""
    base = f"fit --model tests.campaign.interrupted:colours --data {data} --out {out} --img-size 12 --workers 0 -b 8"
    return command(f"{base} --epochs 3 --phi-size 16 --chunk 8 --checkpoint-seconds 0.001 {options} {more}".split())


def train(folder: Path) -> int:
    """Joint training with a checkpoint every third step; goes on from the one that is there."""
    torch.manual_seed(0)
    images, labels = torch.rand(24, 3, 12, 12), torch.arange(24) % 3
    aug = ia.LearnedAugment(["crop", "rotate"], predictor=ia.ConvPredictor(16, 8))
    model, objective = colours(), ia.InstaAugObjective(aug, estimator="critic")
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-2)
    path, first = folder / "joint.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        for part, name in ((model, "model"), (objective, "objective"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        first = state["step"]
    for step in range(first, 30):
        index = torch.randint(24, (8,))
        views, sample = aug.sample(images[index], n=2)
        loss = objective(F.cross_entropy(model(views), labels[index].repeat(2), reduction="none"), sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 2:
            state = {"model": model.state_dict(), "objective": objective.state_dict(), "step": step + 1}
            state |= {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
            data = io.BytesIO()
            torch.save(state, data)
            replace_file(path, data.getvalue())
    final = {**model.state_dict(), **{f"aug.{name}": value for name, value in aug.state_dict().items()}}
    replace_file(folder / "out.safetensors", save({name: value.clone() for name, value in final.items()}))
    return 0


class Child:
    """A process of its own that runs ``job``, whose return value is its exit status; what it prints is kept."""

    def __init__(self, job: Callable[[], int], log: Path, largest: int | None = None) -> None:
        self.log, self.status = log, None
        self.pid = os.fork()
        if self.pid == 0:
            status = 3
            try:
                with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                    if largest is not None:  # bytes of a file: as on a disk that is full
                        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
                    status = job()
            except BaseException as error:
                log.with_suffix(".error").write_text(repr(error))
            os._exit(status)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, waiting so long at most."""
        end = None if seconds is None else time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif end is not None and time.monotonic() > end:
                return False
            else:
                time.sleep(0.001)
        return True

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


def half_written(folder: Path) -> list[str]:
    """Files under their final names that cannot be read."""
    bad = []
    for path in folder.rglob("*"):
        try:
            if path.suffix == ".safetensors" and not path.name.startswith("."):
                data = path.read_bytes()
                load(data) if path.name == "out.safetensors" else weights.read(path)
            elif path.suffix == ".pt":
                torch.load(path, weights_only=True)
        except Exception as error:
            bad.append(f"{path.name}: {error}")
    return bad


def kills(cases: int, rng: random.Random, tally: Tally, scratch: Path) -> None:
    """``cases`` runs killed at random moments or out of disk, until each kind of run has come through to its end."""
    data = scratch / "data"
    write_images(data)
    kinds: dict[str, Callable[[Path], int]] = {
        name: lambda folder, options=options: fit(data, folder / "out.safetensors", options)
        for name, options in FITS.items()
    }
    kinds["joint"] = train
    for number, (name, job) in enumerate(kinds.items()):
        (clean := scratch / f"clean-{number}").mkdir()
        start = time.monotonic()
        child = Child(lambda job=job, clean=clean: job(clean), scratch / "log")
        child.wait()
        whole = time.monotonic() - start
        tally.expect(
            child.status == 0,
            f"{name}: an undisturbed run ends with {child.status}: {(scratch / 'log').read_text()[-300:]}",
        )
        expected = (clean / "out.safetensors").read_bytes() if child.status == 0 else b""
        left = cases // len(kinds) + (number < cases % len(kinds))
        while left > 0:
            (folder := scratch / "run").mkdir()
            for _ in range(rng.randint(1, 4)):
                full = name != "joint" and rng.random() < 0.25
                largest = rng.choice([100, 1000, 5000, 20_000]) if full else None
                child = Child(lambda job=job, folder=folder: job(folder), scratch / "log", largest)
                tally.cases, tally.faults, left = tally.cases + 1, tally.faults + 1, left - 1
                if full:
                    child.wait()
                    shown = (scratch / "log").read_text(errors="replace")
                    cut = (scratch / "log").stat().st_size >= largest  # the log, too, is limited
                    named = child.status == 2 and ("File too large" in shown or cut)
                    tally.expect(
                        named or child.status == 0, f"{name}: a full disk ends it with {child.status}: {shown[-300:]}"
                    )
                    tally.note("full disks")
                elif child.wait(rng.uniform(0, whole)):
                    tally.note("finished before the kill")
                else:
                    child.kill()
                    tally.note("kills")
                for bad in half_written(folder):
                    tally.lost.append(f"{name}: half written: {bad}")
            child = Child(lambda job=job, folder=folder: job(folder), scratch / "log")
            child.wait()
            tally.expect(
                child.status == 0, f"{name}: cannot go on: {child.status} {(scratch / 'log').read_text()[-300:]}"
            )
            out = folder / "out.safetensors"
            tally.expect(out.exists() and out.read_bytes() == expected, f"{name}: resumed, it ends with other weights")
            shutil.rmtree(folder)


# -- images -----------------------------------------------------------------------------------------------------------


def odd_images() -> dict[str, tuple[bytes, bool]]:
    """Files of unusual kinds: contents, and whether they can be read."""

    def encoded(image: PIL.Image.Image, kind: str, **options) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    rgb = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    header = b"IHDR" + size
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    deep = PIL.Image.fromarray((np.arange(1200).reshape(30, 40) * 50).astype(np.uint16))
    return {
        "empty.png": (b"", False),
        "text.jpg": (b"no image", False),
        "truncated.jpg": (encoded(rgb, "JPEG")[:-300], False),
        "huge.png": (huge, False),
        "cmyk.jpg": (encoded(rgb.convert("CMYK"), "JPEG"), True),
        "deep.png": (encoded(deep, "PNG"), True),
        "moving.gif": (encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)] * 3), True),
    }


def images(tally: Tally, scratch: Path) -> None:
    """Odd files among good ones: stopped at and named, or skipped and counted; what can be read is read. Data that vanish."""
    for name, (content, readable) in odd_images().items():
        for skip in (False, True):
            data = scratch / "odd"
            write_images(data)
            (data / "train" / "n1" / name).write_bytes(content)
            more = "--skip-unreadable" if skip else ""
            child = Child(
                lambda data=data, more=more: fit(data, data / "out.safetensors", FITS["crop"], more), scratch / "log"
            )
            child.wait()
            shown = (scratch / "log").read_text(errors="replace")
            if readable or skip:
                right = child.status == 0 and (
                    readable or f"skipped 1 of 25 files that cannot be read: n1/{name}" in shown
                )
            else:
                right = child.status == 2 and name in shown and not (data / "out.safetensors").exists()
            tally.cases, tally.faults = tally.cases + 1, tally.faults + 1
            tally.expect(right, f"{name}, skip={skip}: {child.status} {shown[-300:]}")
            shutil.rmtree(data)
    for share in (0.1, 0.5):  # of the time, then the images are gone
        data = scratch / "gone"
        write_images(data)
        child = Child(
            lambda data=data: fit(data, scratch / "gone.safetensors", FITS["turn and light"], ""), scratch / "log"
        )
        child.wait(share)
        shutil.rmtree(data)
        child.wait()
        shown = (scratch / "log").read_text(errors="replace")
        named = child.status == 2 and ".png" in shown
        tally.cases, tally.faults = tally.cases + 1, tally.faults + 1
        tally.expect(
            named or child.status == 0 or "is no folder" in shown, f"vanished data: {child.status} {shown[-300:]}"
        )
    if Path("/proc/self").is_dir():
        data = scratch / "readonly"
        write_images(data)
        child = Child(lambda: fit(data, Path("/proc/self/out.safetensors"), FITS["crop"]), scratch / "log")
        child.wait()
        tally.cases, tally.faults = tally.cases + 1, tally.faults + 1
        tally.expect(
            child.status == 2 and "out: cannot write" in (scratch / "log").read_text(), "a folder that is read-only"
        )
        shutil.rmtree(data)


def campaign(cases: int, seed: int, with_images: bool = True) -> Tally:
    """``cases`` kills and full disks, and the odd images."""
    tally = Tally(seed)
    torch.set_num_threads(1)  # a forked process has no other threads to wait for
    with tempfile.TemporaryDirectory() as scratch:
        kills(cases, random.Random(seed), tally, Path(scratch))
        if with_images:
            images(tally, Path(scratch))
    return tally


if __name__ == "__main__":
    sys.exit(main(campaign, 50, __doc__))
