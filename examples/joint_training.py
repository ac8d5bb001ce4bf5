"""Train any timm model on an ImageFolder together with its augmentation, beside the augmentations it must beat.

    python examples/joint_training.py --data DIR --model resnet18 --image-size 64 --classes 40

DIR holds ``train/`` and ``val/`` folders of class folders. Every arm has the same budget, flips and number of views at
test time; differences to the random crop come with a paired bootstrap interval over the images. --planted needs no data:
digits in one corner of a cluttered canvas, where a crop that does not look cuts the object away.
"""

from pathlib import Path

import _joint
import _training
import timm
import torch
from _planted import object_kept, planted
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.learning.data import LabelledImages, load

MINIATURE = ("none", "random crop", "without input", "ours")


def folders(options) -> tuple[LabelledImages, LabelledImages]:
    """Train and test images of the first ``--classes`` classes, uint8 in memory."""
    size, splits = options.image_size, []
    for split, most in (("train", options.per_class), ("val", None)):
        folder = options.data / split
        if not folder.is_dir():
            raise SystemExit(f"--data: {folder} does not exist; it must hold class folders")
        images = ImageFolder(str(folder), v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()]))
        chosen, counts = [], {}
        for i, (_, label) in enumerate(images.samples):
            if (options.classes is None or label < options.classes) and counts.get(label, 0) < (most or 10**9):
                chosen.append(i)
                counts[label] = counts.get(label, 0) + 1
        splits.append(load(torch.utils.data.Subset(images, chosen), split))
    return splits[0], splits[1]


def main(arguments: list[str] | None = None) -> None:
    """Run every arm with every seed, report, draw what the last learned arm learned."""
    parser = _training.parser(__doc__, "joint-out")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder that holds train/ and val/")
    source.add_argument("--planted", action="store_true", help="digits in a corner of a cluttered canvas instead")
    parser.add_argument("--model", default="resnet18", help="a timm model (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--classes", type=int, help="the first so many classes; all where left out")
    parser.add_argument("--per-class", type=int, help="train images per class; all where left out")
    parser.add_argument("--arms", nargs="+", default=list(MINIATURE), choices=list(_joint.ARMS), metavar="ARM")
    parser.add_argument(
        "--area", type=float, nargs=2, default=(0.1, 1.0), help="least and largest area of the random crop (0.1 1)"
    )
    parser.add_argument("--epochs", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=0.05, help="of the model (%(default)s)")
    parser.add_argument("--table", default="paper_224px", help="crop anchors: paper_64px or paper_224px (%(default)s)")
    parser.add_argument(
        "--band", type=float, nargs=2, help="entropy of the crop, nats; 0.52 … 0.61 of log A if left out"
    )
    parser.add_argument("--predictor-lr", type=float, default=5e-4, help="of φ (%(default)s)")
    parser.add_argument("--weight-rate", type=float, default=0.03, help="how fast log λ moves per step (%(default)s)")
    parser.add_argument("--lookahead", type=float, default=50.0, help="of the entropy control, steps (%(default)s)")
    parser.add_argument("--estimator", default="rloo", choices=["rloo", "reinforce", "critic"])
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    seed = options.seeds[0]
    if options.planted:
        train, test, boxes = planted(seed, smoke=options.smoke)
    else:
        train, test = folders(options)
    if options.smoke:
        options.epochs, options.seeds = 2, [seed]
        few = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:64]
        shown = torch.arange(0, len(test), max(1, len(test) // 64))
        train, test = train.subset(few), test.subset(shown)
        boxes = boxes[shown] if options.planted else None
    settings = _joint.Settings(
        epochs=options.epochs,
        batch_size=32 if options.smoke or options.planted else 100,
        lr=options.lr,
        predictor_lr=options.predictor_lr,
        weight_rate=options.weight_rate,
        lookahead=options.lookahead,
        band=tuple(options.band) if options.band else None,
        table=options.table,
        area=tuple(options.area),
        estimator=options.estimator,
        amp=options.amp,
        views=2 if options.smoke else 10,
    )
    runs = []
    for arm in options.arms:
        for seed in options.seeds:
            torch.manual_seed(seed)
            classes = int(train.targets.max()) + 1
            model = ia.timm.wrap(timm.create_model(options.model, num_classes=classes))
            file = options.out / f"{arm.replace(' ', '-')}-{seed}.safetensors"
            run = _joint.Run(arm, model, train, settings, seed, file)
            run.train(options.resume)
            runs.append(run.result(test))
            if options.planted and arm in ("ours", "without input"):
                runs[-1] |= object_kept(run.aug.eval(), test, boxes)
                print(*(f"{k} {v[0]:.1f} % [{v[1]:.1f}, {v[2]:.1f}]" for k, v in list(runs[-1].items())[-2:]), sep="; ")
            print(
                "{arm}, seed {seed}: top-1 {top1:.2f} ({views} views), {single:.2f} (one), {seconds:.0f} s".format(
                    **runs[-1]
                )
            )
            if arm == options.arms[-1] and run.aug is not None:
                shown = test.batch(torch.arange(0, len(test), max(1, len(test) // 8))[:8], run.device)[0]
                viz.save(viz.learned_ranges(run.aug.eval(), shown), options.out / "learned.png")
                run.aug.save(options.out / "augment.safetensors", seed=seed)
            # After every run: a job that is cut short still reports what it has.
            _training.write_results(options.out, {"summary": _joint.compare(runs), "runs": runs})
    for row in _joint.compare(runs):
        print(_joint.line(row, len(test)))


if __name__ == "__main__":
    main()
