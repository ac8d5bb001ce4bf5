"""The paper's Table 1 in full, for one data-centre GPU: PreActResNet-18, all of Tiny-ImageNet resident on the device, bf16.

    python examples/experiments/gpu_tinyimagenet.py --data DIR --arms none "random crop" "without input" ours

DIR holds ``train/`` and ``val/``; nothing is chosen on the latter. --bands: low,high in nats, as in Table E.1, a run of ours for each.
"""

from functools import partial

import harness
import joint
import timm
import torch
from torch import nn

import instaaug_transforms as ia


def preact_resnet18(num_classes: int) -> nn.Module:
    """PreActResNet-18 with a stem for 64 px: timm's ``resnetv2_18`` begins with a 7×7 of stride 2 and a pool instead."""
    model = timm.create_model("resnetv2_18", num_classes=num_classes)
    model.stem = nn.Conv2d(3, model.stem.conv.out_channels, 3, padding=1, bias=False)
    return ia.timm.wrap(model)


def main(arguments: list[str] | None = None) -> None:
    """Run every arm, band and seed; report against the random crop."""
    own = joint.OPTIONS | {"epochs": 100, "plain_epochs": int, "lr": 0.2, "predictor_lr": 3e-4, "table": "paper_64px"}
    own |= {"weight_rate": 0.004, "views": 50, "bands": ["3,3.5"]}  # a thousand steps an epoch are enough for λ
    few = {"epochs": 2, "plain_epochs": 1, "batch_size": 32, "lr": 0.02, "views": 2, "seeds": [0]}
    own |= {"smoke": few, "optional": "smoke", "choices": joint.CHOICES}
    options = harness.parse(arguments, __doc__, "folder that holds train/ and val/", **own)
    if not options.smoke and not torch.cuda.is_available():
        raise SystemExit("no GPU: the full run takes one; --smoke runs anywhere")
    options.amp, device = not options.smoke, "cpu" if options.smoke else "cuda"
    options.plain_epochs = options.epochs // 10 if options.plain_epochs is None else options.plain_epochs
    make, splits = partial(ia.timm.create_classifier, "test_resnet"), harness.noise((64, 32), 64, 5)
    if not options.smoke:
        make, splits = preact_resnet18, [harness.read(options.data / split, 64) for split in ("train", "val")]
    data = (harness.LabelledImages(part.images.to(device), part.targets.to(device)) for part in splits)
    joint.sweep(options, make, *data, joint.jobs_of(options.arms, bands=options.bands))


if __name__ == "__main__":
    main()
