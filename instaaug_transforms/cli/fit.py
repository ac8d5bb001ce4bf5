"""Fit a transform to a frozen classifier, from folders of images, and write its weights."""

import argparse
import itertools
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from ..augment import LearnedAugment
from ..engine.data import hold_out
from ..families import create
from ..families.crop import Crop
from ..learning import FitConfig
from ..learning import fit as fit_transform
from ..learning.config import OBJECTIVES
from ..tta import views_nll
from ..utils import distributed as ranks
from ..utils.errors import InstaAugError
from .datasets import add_data_arguments, count_classes, read
from .models import add_model_arguments, build_classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Classifier, images, what is learned and how, and where it goes."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    defaults = FitConfig()
    group = parser.add_argument_group("fit")
    group.add_argument("--out", type=Path, required=True, help="weights file, .safetensors")
    group.add_argument("--split", default="train", help="folder to fit on, best unseen by the classifier (%(default)s)")
    group.add_argument("--transforms", default="crop,rotate,hsv", help="families, comma-separated (%(default)s)")
    group.add_argument("--scales", type=float, nargs="+", help="sides of the crops of each scale (1 0.8 0.6 0.4)")
    group.add_argument("--grids", type=int, nargs="+", help="centres per axis of each scale (1 2 3 4)")
    group.add_argument("--flips", action="store_true", help="also offer every crop mirrored")
    group.add_argument(
        "--predictor",
        choices=("conv", "features"),
        default="conv",
        help="φ: a small network on a small copy of the image, or heads on the classifier's features (%(default)s)",
    )
    group.add_argument(
        "--phi-size", type=int, help="side of the copy that φ looks at, pixels (64; features: --img-size)"
    )
    group.add_argument("--objective", choices=OBJECTIVES, default=defaults.objective, help="(%(default)s)")
    group.add_argument(
        "--entropy",
        nargs="+",
        default=[],
        metavar="FAMILY=LOW,HIGH",
        help="bands of mean entropy: crop in fractions of log A, others in nats; of several of one family, each is fitted "
        "and the one with the lowest held-out NLL of --choose-views averaged views is kept",
    )
    group.add_argument("--choose-views", type=int, default=4, help="K for the choice among bands (%(default)s)")
    group.add_argument("--epochs", type=int, default=defaults.epochs, help="(%(default)s)")
    group.add_argument(
        "--patience", type=int, default=defaults.patience, help="epochs without a better one (%(default)s)"
    )
    group.add_argument(
        "--batch-size", "-b", type=int, default=defaults.batch_size, help="images per step (%(default)s)"
    )
    group.add_argument("--chunk", type=int, default=defaults.table_batch_size, help="views per forward (%(default)s)")
    group.add_argument(
        "--views", type=int, default=defaults.views, help="sampled views per image and step (%(default)s)"
    )
    group.add_argument("--lr", type=float, default=defaults.lr, help="(%(default)s)")
    group.add_argument("--weight-decay", type=float, default=defaults.weight_decay, help="(%(default)s)")
    group.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    group.add_argument("--workdir", type=Path, help="folder for tables and checkpoints (<out>.work)")
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work folder")
    group.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=defaults.checkpoint_seconds,
        help="between checkpoints (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Fit; every process of torchrun takes its share, the first one writes the weights."""
    if arguments.out.suffix != ".safetensors" or not arguments.out.parent.is_dir():
        raise InstaAugError(f"out: expected a .safetensors file in a folder that exists, got {str(arguments.out)!r}")
    candidates = parse_bands(arguments.entropy)
    with processes(arguments):
        first = ranks.rank() == 0
        progress = None if first else False
        data = read(arguments, arguments.split, progress)
        classifier = build_classifier(arguments, count_classes(arguments, arguments.split))
        train, held = hold_out(data, arguments.seed)
        config = FitConfig(
            objective=arguments.objective,
            epochs=arguments.epochs,
            patience=arguments.patience,
            batch_size=arguments.batch_size,
            table_batch_size=arguments.chunk,
            views=arguments.views,
            lr=arguments.lr,
            weight_decay=arguments.weight_decay,
            amp=arguments.amp,
            seed=arguments.seed,
            checkpoint_seconds=arguments.checkpoint_seconds,
            progress=progress,
        )
        workdir = arguments.workdir or arguments.out.with_suffix(".work")
        fits = []
        for bands in candidates:
            aug = make(arguments, classifier)
            try:
                result = fit_transform(
                    aug,
                    classifier,
                    train,
                    held,
                    replace(config, entropy=bands),
                    workdir=workdir,
                    resume=arguments.resume,
                )
            except KeyboardInterrupt:
                raise InstaAugError(f"stopped; the same command with --resume goes on from {workdir}") from None
            nll = None
            if len(candidates) > 1:
                views = {"n_views": arguments.choose_views, "amp": arguments.amp, "progress": progress}
                nll = views_nll(classifier, aug.eval(), held, **views)
                if first:
                    print(f"{show_bands(bands)}: held-out NLL of {arguments.choose_views} views {nll:.4f}")
            fits.append((nll, aug, result, bands))
        if not first:
            return
        _, aug, result, bands = fits[0] if len(fits) == 1 else min(fits, key=lambda found: found[0])
        notes = {"model": arguments.model, "split": arguments.split, "seed": arguments.seed, "n": len(train)}
        aug.save(arguments.out, **notes, bands=bands)
        best = result.best
        entropies = ", ".join(f"{name} {value:.2f}" for name, value in best["entropy"].items())
        print(f"{arguments.out}: epoch {result.best_epoch + 1} of {len(result.history)}, {len(train)} images")
        print(f"held-out loss {best['val_loss']:.4f} ({len(held)} images); mean entropy in nats: {entropies}")
        if not best["in_band"]:
            print(
                f"its entropy lies {best['outside']:.2f} nats outside the band: fit longer, or choose another --entropy"
            )
        tables, seconds = (sum(getattr(found[2], f"{part}_seconds") for found in fits) for part in ("table", "fit"))
        print(f"{tables:.0f} s for tables, {seconds:.0f} s for {len(fits)} fit{'s' if len(fits) > 1 else ''}")


def make(arguments: argparse.Namespace, classifier: torch.nn.Module) -> LearnedAugment:
    """The transform that the options describe, initialised by the seed."""
    names = arguments.transforms.split(",")
    table = {"scales": arguments.scales, "grids": arguments.grids, "flips": arguments.flips or None}
    table = {name: value for name, value in table.items() if value is not None}
    if table and "crop" not in names:
        raise InstaAugError(
            f"{', '.join(table)}: these are options of crop, but --transforms is {arguments.transforms}"
        )
    families = [Crop(**table) if name == "crop" else family for name, family in zip(names, create(names), strict=True)]
    features = arguments.predictor == "features"
    torch.manual_seed(arguments.seed)
    aug = LearnedAugment(
        families,
        in_channels=arguments.in_chans,
        image_size=arguments.phi_size or (arguments.img_size if features else 64),
        predictor=arguments.predictor,
        classifier=classifier if features else None,
    )
    return aug.to(arguments.device)


def parse_bands(given: list[str]) -> list[dict[str, tuple[float, float]]]:
    """``["crop=0.6,0.7"]`` to ``[{"crop": (0.6, 0.7)}]``; every combination where a family is given several bands."""
    options: dict[str, list[tuple[float, float]]] = {}
    for text in given:
        name, _, numbers = text.partition("=")
        try:
            low, high = (float(number) for number in numbers.split(","))
        except ValueError:
            raise InstaAugError(f"entropy: expected FAMILY=LOW,HIGH as in crop=0.6,0.7, got {text!r}") from None
        options.setdefault(name, []).append((low, high))
    return [dict(zip(options, bands, strict=True)) for bands in itertools.product(*options.values())]


def show_bands(bands: dict[str, tuple[float, float]]) -> str:
    """As `parse_bands` takes them."""
    return " ".join(f"{name}={low:g},{high:g}" for name, (low, high) in bands.items())


@contextmanager
def processes(arguments: argparse.Namespace):
    """Inside, what torchrun started works together; each process on a GPU of its own where there are GPUs."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_gpu = arguments.device.startswith("cuda")
    if on_gpu:
        arguments.device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(arguments.device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
