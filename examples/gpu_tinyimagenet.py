"""The paper's Table 1 in full, for one data-centre GPU: PreActResNet-18, all of Tiny-ImageNet resident on the device, bf16.

    python examples/gpu_tinyimagenet.py --data DIR --arms none "random crop" "without input" ours

DIR holds ``train/`` and ``val/`` (an ImageFolder each; val is reported, nothing is chosen on it). Further arms: mean-field,
class-specific, augerino, "fixed weight"; the bands of Table E.1 by --bands. A checkpoint every five minutes; --resume goes
on from it. --smoke runs every arm for a few steps on random images, on the CPU too, and needs no data.
"""

from dataclasses import replace

import _joint
import _training
import timm
import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.learning.data import LabelledImages, load


def preact_resnet18(classes: int, smoke: bool) -> nn.Module:
    """PreActResNet-18 with a stem for 64 px: timm's ``resnetv2_18`` begins with a 7×7 of stride 2 and a pool instead."""
    if smoke:
        return ia.timm.wrap(timm.create_model("test_resnet", num_classes=classes))
    model = timm.create_model("resnetv2_18", num_classes=classes)
    model.stem = nn.Conv2d(3, model.stem.conv.out_channels, 3, padding=1, bias=False)
    return ia.timm.wrap(model)


def resident(options, device: torch.device) -> tuple[LabelledImages, LabelledImages]:
    """Train and test images, uint8 on the device."""
    if options.smoke:
        generator = torch.Generator().manual_seed(0)
        splits = [
            (torch.randint(256, (n, 3, 64, 64), generator=generator).byte(), torch.arange(n) % 5) for n in (64, 32)
        ]
    else:
        if options.data is None:
            raise SystemExit("--data: the folder that holds train/ and val/ (or --smoke)")
        both = [ImageFolder(str(options.data / split), v2.ToImage()) for split in ("train", "val")]
        loaded = [load(images, name, workers=8) for images, name in zip(both, ("train", "val"), strict=True)]
        splits = [(part.images, part.targets) for part in loaded]
    made = [LabelledImages(images.to(device), labels.to(device)) for images, labels in splits]
    return made[0], made[1]


def main(arguments: list[str] | None = None) -> None:
    """Run every arm, band and seed; report against the random crop."""
    parser = _training.parser(__doc__, "gpu-out")
    parser.add_argument("--data", type=_training.Path, help="folder that holds train/ and val/")
    parser.add_argument("--arms", nargs="+", default=["none", "random crop", "without input", "ours"], metavar="ARM")
    parser.add_argument(
        "--bands", nargs="+", default=["3,3.5"], help="crop entropy, nats: one run of ours per low,high (3,3.5)"
    )
    parser.add_argument("--epochs", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--lr", type=float, default=0.2, help="(%(default)s)")
    parser.add_argument("--predictor-lr", type=float, default=3e-4, help="(%(default)s)")
    parser.add_argument("--estimator", default="rloo", choices=["rloo", "reinforce", "critic"])
    options = parser.parse_args(arguments)
    if unknown := set(options.arms) - set(_joint.ARMS):
        parser.error(f"--arms: unknown {sorted(unknown)}; known are {list(_joint.ARMS)}")
    if not options.smoke and not torch.cuda.is_available():
        parser.error("no GPU: the full run takes one; --smoke runs anywhere")
    device = torch.device("cuda" if torch.cuda.is_available() and not options.smoke else "cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    train, test = resident(options, device)
    base = _joint.Settings(
        epochs=2 if options.smoke else options.epochs,
        plain_epochs=1 if options.smoke else options.epochs // 10,
        batch_size=32 if options.smoke else 100,
        lr=0.02 if options.smoke else options.lr,
        predictor_lr=options.predictor_lr,
        weight_rate=0.004,  # a thousand steps an epoch are enough for λ
        estimator=options.estimator,
        views=2 if options.smoke else 50,
        amp=device.type == "cuda",
    )
    jobs = [(arm, band) for arm in options.arms for band in (options.bands if arm == "ours" else options.bands[:1])]
    runs = []
    for arm, band in jobs:
        settings = replace(base, band=tuple(map(float, band.split(","))))
        for seed in options.seeds[: 1 if options.smoke else None]:
            torch.manual_seed(seed)
            name = f"{arm} {band}" if arm == "ours" and len(options.bands) > 1 else arm
            file = options.out / f"{name.replace(' ', '-').replace(',', '-')}-{seed}.safetensors"
            model = preact_resnet18(int(train.targets.max()) + 1, options.smoke)
            run = _joint.Run(arm, model, train, settings, seed, file)
            run.train(options.resume)
            runs.append(run.result(test) | {"arm": name})
            print(
                "{arm}, seed {seed}: top-1 {top1:.2f} ({views} views), {seconds:.0f} s".format(**runs[-1]), flush=True
            )
            if run.aug is not None:
                shown = test.batch(torch.arange(8, device=device))[0].to(device)
                viz.save(viz.learned_ranges(run.aug.eval(), shown), file.with_suffix(".png"))
            # After every run: a job that is cut short still reports what it has.
            _training.write_results(options.out, {"summary": _joint.compare(runs), "runs": runs})
    for row in _joint.compare(runs):
        print(_joint.line(row, len(test)))


if __name__ == "__main__":
    main()
