"""What the experiments share: options, images, the training loop and its checkpoints, what is finished, tables, one JSON."""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

from instaaug_transforms.engine.data import LabelledImages, load
from instaaug_transforms.learning.checkpoint import load_state, save_state
from instaaug_transforms.tta import paired_interval
from instaaug_transforms.utils.files import replace_file
from instaaug_transforms.utils.modes import permutation

# In a run that goes on: stages are named after seed, arm and its strength.
MAY_DIFFER = ("resume", "out", "data", "seeds", "arms", "areas", "bands")


def parse(
    arguments: list[str] | None, description: str, data: str, *, smoke: dict, optional: str = "", choices=(), **options
) -> argparse.Namespace:
    """The command line; --out is made, and cleared of what an earlier run has finished unless --resume is given.

    ``options`` are names and defaults; a type, or a pair of types, stands for None. --smoke sets those of ``smoke``, the flag
    ``optional`` makes --data unnecessary, and ``choices`` has what an option chooses among.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=data)
    parser.add_argument("--out", type=Path, default=Path(f"{Path(parser.prog).stem}-out"), help="(%(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run into --out has finished")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that everything runs")
    for name, default in ({"seeds": [0, 1, 2]} | options).items():
        first = default[0] if isinstance(default, (list, tuple)) else default
        kind, value = (first, None) if isinstance(first, type) else (type(first), default)
        how = {"type": kind, "nargs": {list: "+", tuple: 2}.get(type(default)), "choices": dict(choices).get(name)}
        how = {"action": "store_true"} if first is False else how | {"default": value, "help": "(%(default)s)"}
        parser.add_argument(f"--{name.replace('_', '-')}", **how)
    parsed = parser.parse_args(arguments)
    if parsed.smoke:
        vars(parsed).update(smoke)
    if parsed.data is None and not getattr(parsed, optional, False):
        parser.error(f"--data: expected a {data}")
    settings = {k: str(v) for k, v in vars(parsed).items() if k not in MAY_DIFFER}
    file = parsed.out / "settings.json"
    if not parsed.resume:
        shutil.rmtree(parsed.out / "stages", ignore_errors=True)
    elif file.exists() and json.loads(file.read_text(encoding="utf-8")) != settings:
        parser.error("--resume: the earlier run had other settings; give the same ones or another --out")
    (parsed.out / "stages").mkdir(parents=True, exist_ok=True)
    _write(file, settings)
    parsed.settings = settings
    return parsed


def image_folder(folder: Path, size: int, dtype: torch.dtype = torch.uint8) -> ImageFolder:
    """The middle of each image, ``(3, size, size)`` bytes or floats in [0, 1], read as it is asked for."""
    steps = [v2.Resize(size), v2.CenterCrop(size), v2.ToImage(), v2.ToDtype(dtype, scale=True)]
    return ImageFolder(str(folder), v2.Compose(steps))


def read(
    folder: Path, size: int, *, classes: Sequence[str] = (), per_class: slice = slice(None), most: int | None = None
) -> LabelledImages:
    """The images of an `image_folder` in memory.

    Label k is the k-th of ``classes``, all where empty; ``most`` are drawn at random, the same ones always.
    """
    images = image_folder(folder, size)
    label = {images.class_to_idx.get(name): k for k, name in enumerate(classes or images.classes)}
    members = [np.flatnonzero(np.equal(images.targets, target))[per_class] for target in label]
    index = np.concatenate(members).astype(int)
    if most is not None:
        index = index[permutation(len(index), 0)[:most].numpy()]
    data = load(Subset(images, index.tolist()), str(folder), workers=2).in_memory()
    return LabelledImages(data.images, torch.tensor([label[int(target)] for target in data.targets]))


def noise(sizes: Sequence[int], pixels: int, classes: int) -> list[LabelledImages]:
    """Random images in place of data, for --smoke."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (n, 3, pixels, pixels), generator=generator).byte() for n in sizes]
    return [LabelledImages(each, torch.arange(len(each)) % classes) for each in images]


def warmup_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int) -> LambdaLR:
    """A linear climb, then a cosine to zero."""
    climb = lambda step: min(1.0, (step + 1) / max(warmup, 1))  # noqa: E731
    return LambdaLR(optimizer, lambda step: climb(step) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(
    loss: Callable[[Any, int], Tensor],
    order: Callable[[int], Sequence],
    epochs: int,
    modules: Sequence[nn.Module],
    schedules: Sequence[LRScheduler],
    folder: Path | None = None,
    generator: torch.Generator | None = None,
    notes: Callable[[int], dict] = lambda epoch: {},
    clip: float = math.inf,
) -> list[dict]:
    """Train; a history entry per epoch: epoch, mean objective, seconds so far, and ``notes(epoch)``.

    ``order(epoch)`` gives the batches in the form that ``loss(batch, epoch)`` takes; schedules, one per optimiser, move after
    every step; ``clip`` is the largest norm of the gradient. With a ``folder`` there is a checkpoint after every epoch, from
    which training goes on to the same weights: ``generator`` must be the only source of randomness besides ``order``.
    """
    optimizers = [schedule.optimizer for schedule in schedules]
    parts, history = [*modules, *optimizers, *schedules], []
    generator = generator or torch.Generator()
    if folder is not None and (state := load_state(folder, {})) is not None:
        history = state[0]["history"]
        for part, its_state in zip(parts, state[1]["parts"], strict=True):
            part.load_state_dict(its_state)
        generator.set_state(state[1]["generator"])
    start = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    for epoch in range(len(history), epochs):
        total, batches = 0.0, order(epoch)
        for batch in tqdm(batches, desc=f"epoch {epoch + 1}/{epochs}", disable=None, leave=False):
            objective = loss(batch, epoch)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            objective.backward()
            if clip < math.inf:
                nn.utils.clip_grad_norm_([p for module in modules for p in module.parameters()], clip)
            for part in (*optimizers, *schedules):
                part.step()
            total = total + objective.detach()
        entry = {"epoch": epoch, "objective": float(total / len(batches)), "seconds": time.perf_counter() - start}
        history.append(entry | notes(epoch))
        if folder is not None:
            tqdm.write(f"{folder.name}: {scalars(history[-1])}")  # a log file has no bar
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {"parts": [part.state_dict() for part in parts], "generator": generator.get_state()}
            save_state(folder, {}, {"history": history}, tensors)
    return history


def right(model: Callable[[Tensor], Tensor], data: LabelledImages) -> Tensor:
    """Which images, ``(N,)``, a model in eval mode is right about."""
    with torch.inference_mode():
        batches = (data.batch(part, data.images.device) for part in torch.arange(len(data)).split(256))
        return torch.cat([model(images).argmax(1) == labels for images, labels in batches]).cpu()


def name_of(*parts: Any) -> str:
    """A file's name: ``ours, lower band`` and 0 to ``ours-lower-band-0``."""
    return "-".join(map(str, parts)).replace(", ", "-").replace(",", "-").replace(" ", "-")


def stage(options: argparse.Namespace, name: str, make: Callable[[], dict]) -> dict:
    """What ``make`` gives; kept in a file, and read from there the next time, by this run or one that goes on from it."""
    path = options.out / "stages" / f"{name}.json"
    if not path.exists():
        start = time.perf_counter()
        made = make()
        _write(path, {"seconds": time.perf_counter() - start, **made})
    return json.loads(path.read_text(encoding="utf-8"))


def sweep(
    options, arms: Collection, run: Callable[..., dict], columns: Sequence[str], against=None, digits=2, table=None
) -> list[dict]:
    """``run(arm, seed)`` of every arm and seed, each a stage; results.json after each one, `seed_table` at the end."""
    runs, table = [], table or seed_table
    for arm in arms:
        for seed in options.seeds:
            result = stage(options, name_of(arm, seed), lambda arm=arm, seed=seed: run(arm, seed))
            runs.append({"arm": arm, "seed": seed, **result})
            print(f"{arm}, seed {seed}: {scalars(result)}", flush=True)
            # A job that is cut short still reports what it has.
            write(options, summary=table(runs, columns, against), runs=runs)
    print(f"\n{show(table(runs, columns, against), digits)}")
    return runs


def seed_table(runs: list[dict], columns: Sequence[str], against: str | None = None) -> list[dict]:
    """A row per arm: every column's [mean, least, most] over its seeds, and what it gains over the arm ``against``.

    The gain is in points, with its 95 % interval: images (``run["correct"]``) are drawn again, seeds are not.
    """
    rows = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = {run["seed"]: run for run in runs if run["arm"] == arm}
        other = {run["seed"]: run for run in runs if run["arm"] == against and run["seed"] in own}
        row = {"arm": arm, "seeds": len(own)}
        for column in columns:
            values = [run[column] for run in own.values()]
            row[column] = [float(np.mean(values)), min(values), max(values)]
        if other and arm != against:
            each = [np.subtract(own[seed]["correct"], other[seed]["correct"]) for seed in other]
            row[f"over {against}"] = list(paired_interval(100 * np.mean(each, axis=0)))
        rows.append(row)
    return rows


def show(rows: list[dict], digits: int = 2) -> str:
    """Rows as a table: numbers with so many digits, lists of three as ``mean [low, high]``, gains with their sign."""

    def text(key: str, value: Any) -> Any:
        form = f"{{:{'+' if key.startswith('over') else ''}.{digits}f}}"
        if isinstance(value, (list, tuple)):
            return f"{form} [{form}, {form}]".format(*value)
        return form.format(value) if isinstance(value, float) else value

    cells = [{key: text(key, value) for key, value in row.items()} for row in rows]
    return tabulate(cells, headers="keys", tablefmt="github", disable_numparse=True)


def scalars(values: dict) -> str:
    """The numbers of a dictionary, for one line."""
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, (int, float)))


def write(options: argparse.Namespace, **results: Any) -> None:
    """results.json in --out, with the settings."""
    _write(options.out / "results.json", {"settings": options.settings, **results})


def _write(path: Path, values: Any) -> None:
    replace_file(path, (json.dumps(values, indent=1) + "\n").encode())
