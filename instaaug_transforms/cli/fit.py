"""Fit a transform to a frozen classifier, from folders of images, and write its weights."""

import argparse
import itertools
import os
import re
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from ..augment import LearnedAugment
from ..engine import Images, hold_out
from ..engine.alike import grouped_if_alike
from ..families import create
from ..learning import EntropyController, FitConfig, FitResult
from ..learning import fit as fit_transform
from ..learning.config import OBJECTIVES
from ..learning.losses import PerViewLoss, binary_cross_entropy, cross_entropy, squared_error
from ..predictors import ConvPredictor, EquivariantPredictor, FeaturesPredictor, PatchPredictor
from ..tta import views_nll
from ..utils import distributed
from ..utils.errors import InstaAugError
from .arguments import finite, fraction, not_negative, positive, positive_int
from .datasets import add_data_arguments, add_reading_arguments, count_classes, find_split, read
from .held_out import pack_names
from .image_files import ImageFiles
from .loss import add_loss_argument, judged_folder, loss_of
from .models import add_model_arguments, build_classifier, check_answers
from .nuisance import add_nuisance_arguments, check_nuisance, nuisance_of
from .outputs import check_file, check_folder

Bands = dict[str, tuple[float, float]]
# What looks at a copy, of a size that may be chosen.
COPIES = {"patches": PatchPredictor, "conv": ConvPredictor, "equivariant": EquivariantPredictor}


class Fitted(NamedTuple):
    """One candidate: its bands, what was learned in them, and the NLL that it is chosen by."""

    bands: Bands
    aug: LearnedAugment
    result: FitResult
    nll: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Classifier, images, what is learned and how, and where it goes."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    defaults = FitConfig()
    group = parser.add_argument_group("fit")
    add_reading_arguments(group, batch_size=defaults.batch_size, per="step")
    group.add_argument("--out", type=Path, required=True, help="weights file, .safetensors")
    group.add_argument(
        "--split",
        help="folder to fit on, best unseen by the classifier (train; where there is none, --data itself if it holds images)",
    )
    group.add_argument(
        "--no-labels",
        action="store_true",
        help="take all images, in whatever folders, without labels: the classifier's own answers are the target (so it is, too, "
        "where images lie in no class folders)",
    )
    group.add_argument("--transforms", default="crop,rotate,hsv", help="families, comma-separated (%(default)s)")
    group.add_argument("--scales", type=fraction, nargs="+", help="sides of the crops of each scale (1 0.8 0.6 0.4)")
    group.add_argument("--grids", type=positive_int, nargs="+", help="centres per axis of each scale (1 2 3 4)")
    group.add_argument("--zooms", type=fraction, nargs="+", help="sides of further crops in the middle of the image")
    group.add_argument("--flips", action="store_true", help="also offer every crop mirrored")
    add_nuisance_arguments(group)
    group.add_argument(
        "--predictor",
        default="patches",
        help="φ: patches or conv, a small and a larger network on a small copy of the image, features, heads on the classifier's "
        "features, or another by name (%(default)s)",
    )
    group.add_argument(
        "--phi-size",
        type=positive_int,
        help="side of the copy that φ looks at, pixels (patches: 32; conv: 64; features: --img-size)",
    )
    add_loss_argument(group)
    group.add_argument(
        "--entropy",
        nargs="+",
        default=[],
        metavar="FAMILY=LOW,HIGH",
        help="bands of mean entropy: tables of candidates in fractions of log A, ranges in nats; of several of one family, each is fitted "
        "and the one with the lowest held-out NLL of --choose-views averaged views is kept",
    )
    group.add_argument(
        "--choose-views", type=positive_int, default=4, help="K for the choice among bands (%(default)s)"
    )
    group.add_argument("--objective", choices=OBJECTIVES, default=defaults.objective, help="(%(default)s)")
    for option, name, kind, what in (
        ("--epochs", "epochs", positive_int, ""),
        ("--patience", "patience", positive_int, "epochs without a better one "),
        ("--chunk", "table_batch_size", positive_int, "views per forward "),
        ("--views", "views", positive_int, "sampled views per image and step "),
        ("--lr", "lr", positive, ""),
        ("--weight-decay", "weight_decay", not_negative, ""),
        ("--checkpoint-seconds", "checkpoint_seconds", positive, "between checkpoints "),
        ("--max-columns", "max_columns", positive_int, "of a table of candidates "),
    ):
        default = getattr(defaults, name)
        group.add_argument(option, dest=name, type=kind, default=default, help=f"{what}(%(default)s)")
    group.add_argument(
        "--held-out",
        type=fraction,
        help="share of the images to choose on (a tenth; of fewer than 1,000 images, 100 or half of them)",
    )
    group.add_argument(
        "--groups",
        metavar="REGEX",
        help="what it matches in an image's path (its parenthesis, if it has one) names its group: a video, a scene, a patient; whole "
        "groups are held out, and each counts as one image in the report",
    )
    group.add_argument("--workdir", type=Path, help="folder for tables and checkpoints (<out>.work)")
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work folder")


def run(arguments: argparse.Namespace) -> None:
    """Fit; every process of torchrun takes its share, the first one writes the weights."""
    arguments.workdir = arguments.workdir or arguments.out.with_suffix(".work")
    check_file(arguments.out, "out", ".safetensors")
    check_folder(arguments.workdir, "workdir")
    candidates = parse_bands(arguments.entropy)
    with processes(arguments):
        progress = distributed.rank() == 0
        folder, classifier, loss = checked(arguments, candidates)
        data = read(arguments, folder, progress)
        train, held = hold_out(grouped(arguments, data), arguments.seed, arguments.held_out)
        several = len(candidates) > 1
        fits = [fit_band(arguments, bands, classifier, train, held, loss, progress, several) for bands in candidates]
        if distributed.rank() == 0:
            best = min(fits, key=lambda fitted: fitted.nll)
            notes = {"model": arguments.model, "split": arguments.split, "seed": arguments.seed, "n": len(train)}
            best.aug.save(arguments.out, **notes, bands=best.bands, held_out=pack_names(held.identities))
            say(arguments, best, fits, len(train), len(held))


def grouped(arguments: argparse.Namespace, data: Images) -> Images:
    """The images; what belongs together says ``--groups``, and without it their looks, as in `fit`."""
    if arguments.groups is None:
        return grouped_if_alike(data)
    found = [re.search(arguments.groups, name) for name in data.identities]
    # Of several parentheses, in alternatives say, the first that matched something.
    names = [next(filter(None, match.groups() or [match.group()]), None) if match else None for match in found]
    if None in names:
        raise InstaAugError(
            f"groups: {arguments.groups!r} matches nothing in {data.identities[names.index(None)]!r}; each image needs a group"
        )
    return data.grouped(names)


def checked(arguments: argparse.Namespace, candidates: list[Bands]) -> tuple[ImageFiles, torch.nn.Module, PerViewLoss]:
    """Images, classifier and loss; all that can be wrong with the options is said here, before the first image is read."""
    try:
        re.compile(arguments.groups or "")
    except re.error as error:
        raise InstaAugError(f"groups: {arguments.groups!r} is no regular expression ({error})") from None
    nuisance = check_nuisance(arguments)
    labels = "none" if arguments.no_labels else "auto"
    arguments.split = find_split(arguments, "train", labels)
    loss = loss_of(arguments)
    folder = judged_folder(arguments, loss, labels)
    classifier = build_classifier(arguments, count_classes(folder))
    check_answers(classifier, arguments, folder, by_classes=loss is cross_entropy)
    aug = make(arguments, classifier)
    families = aug.families
    if nuisance is not None or folder.classes is None:
        ranges = [family.name for family in families if family.has_rsample]
        if ranges:
            raise InstaAugError(
                f"transforms: a fit to disturbed images, or without labels, is made from a table, and {', '.join(ranges)} have "
                "none; choose among crop, turn, light, erase, blur"
            )
    if len(candidates) > 1 and loss in (squared_error, binary_cross_entropy):
        raise InstaAugError(
            f"entropy: of several bands the one is kept whose views have the lowest NLL of classes, and {arguments.loss} knows none; give "
            "one band per family"
        )
    if len(candidates) > 1 and folder.classes is None:
        raise InstaAugError(
            "entropy: of several bands the one is kept whose views are best by held-out labels, and these images have none; "
            "give one band per family"
        )
    for bands in candidates:
        EntropyController(families, bands)
        configure(arguments, bands)
    return folder, classifier, loss


def configure(arguments: argparse.Namespace, bands: Bands, progress: bool | None = None) -> FitConfig:
    """The options that `FitConfig` has by the same name."""
    given = {field.name: getattr(arguments, field.name) for field in fields(FitConfig) if field.name in arguments}
    return FitConfig(**{**given, "entropy": bands, "progress": progress})


def fit_band(
    arguments: argparse.Namespace,
    bands: Bands,
    classifier: torch.nn.Module,
    train: Images,
    held: Images,
    loss: PerViewLoss,
    progress: bool | None,
    with_nll: bool,
) -> Fitted:
    """A fresh transform, fitted, and the held-out NLL of its averaged views where several are to be compared."""
    aug, workdir = make(arguments, classifier), arguments.workdir
    try:
        result = fit_transform(
            aug,
            classifier,
            train,
            held,
            configure(arguments, bands, progress),
            loss=loss,
            nuisance=nuisance_of(arguments),
            labels=True if arguments.use_labels else None,
            workdir=workdir,
            resume=arguments.resume,
        )
    except KeyboardInterrupt:
        raise InstaAugError(f"stopped; the same command with --resume goes on from {workdir}") from None
    if not with_nll:
        return Fitted(bands, aug, result)
    nll = views_nll(
        classifier,
        aug.eval(),
        held,
        n_views=arguments.choose_views,
        nuisance=nuisance_of(arguments),
        nuisance_probability=arguments.nuisance_probability,
        amp=arguments.amp,
        seed=arguments.seed,
        progress=progress,
    )
    if distributed.rank() == 0:
        print(f"{show_bands(bands)}: held-out NLL of {arguments.choose_views} views {nll:.4f}")
    return Fitted(bands, aug, result, nll)


def say(arguments: argparse.Namespace, kept: Fitted, fits: list[Fitted], n: int, n_held: int) -> None:
    """What came of the fit that is kept, and what all of them took."""
    result, best = kept.result, kept.result.best
    entropies = ", ".join(f"{name} {value:.2f}" for name, value in best["entropy"].items())
    print(f"{arguments.out}: epoch {result.best_epoch + 1} of {len(result.history)}, {n} images")
    print(f"held-out loss {best['val_loss']:.4f} ({n_held} images); mean entropy in nats: {entropies}")
    if not best["in_band"]:
        print(f"its entropy lies {best['outside']:.2f} nats outside the band: fit longer, or choose another --entropy")
    if result.report is not None:
        print(f"\n{result.report}\n")
    tables, seconds = (sum(getattr(fitted.result, f"{part}_seconds") for fitted in fits) for part in ("table", "fit"))
    print(f"{tables:.0f} s for tables, {seconds:.0f} s for {len(fits)} fit{'s' if len(fits) > 1 else ''}")


def make(arguments: argparse.Namespace, classifier: torch.nn.Module) -> LearnedAugment:
    """The transform that the options describe, initialised by the seed."""
    names = [name.strip() for name in arguments.transforms.split(",")]
    table = {"scales": arguments.scales, "grids": arguments.grids, "flips": arguments.flips or None}
    table |= {"zooms": arguments.zooms}
    table = {name: value for name, value in table.items() if value is not None}
    if table and "crop" not in names:
        raise InstaAugError(
            f"{', '.join(table)}: these are options of crop, but --transforms is {arguments.transforms}"
        )
    families = create(names, {"crop": table})
    torch.manual_seed(arguments.seed)
    predictor = arguments.predictor
    if predictor == "features":
        predictor = FeaturesPredictor(classifier, arguments.phi_size or arguments.img_size)
    elif arguments.phi_size:
        if predictor not in COPIES:
            raise InstaAugError(
                f"phi-size: {predictor!r} looks at no copy of the image; leave it out, or choose of {', '.join(['features', *COPIES])}"
            )
        predictor = COPIES[predictor](arguments.phi_size)
    return LearnedAugment(families, in_channels=arguments.in_chans, predictor=predictor).to(arguments.device)


def parse_bands(given: list[str]) -> list[Bands]:
    """``["crop=0.6,0.7"]`` to ``[{"crop": (0.6, 0.7)}]``; every combination where a family is given several bands."""
    options: dict[str, list[tuple[float, float]]] = {}
    for text in given:
        name, _, numbers = text.partition("=")
        try:
            low, high = (finite(number) for number in numbers.split(","))
        except (ValueError, argparse.ArgumentTypeError):
            raise InstaAugError(f"entropy: expected FAMILY=LOW,HIGH as in crop=0.6,0.7, got {text!r}") from None
        options.setdefault(name, []).append((low, high))
    return [dict(zip(options, bands, strict=True)) for bands in itertools.product(*options.values())]


def show_bands(bands: Bands) -> str:
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
