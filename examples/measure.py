"""What is a classifier invariant to, how far, for which classes — and do learned ranges end where its answers do?

    python examples/measure.py --data DIR --model resnet18 --checkpoint resnet18.safetensors

DIR is an ImageFolder, of images that the classifier was not trained on; each seed draws 256 of them.
"""

from pathlib import Path

import torch
from experiments import harness

import instaaug_transforms as ia

own = {"model": "test_resnet", "checkpoint": Path, "image_size": 64, "seeds": [0]}  # untrained without a checkpoint
options = harness.parse(None, __doc__, "folder of class folders", smoke={}, optional="smoke", **own)
size = options.image_size
if options.smoke:
    data, classes, names = (torch.rand(8, 3, size, size), torch.arange(8) % 2), 2, ["rotate"]
else:
    data = harness.image_folder(options.data, size)
    classes, names = len(data.classes), None  # all transformations
model = ia.timm.create_classifier(options.model, options.checkpoint, classes).eval()
aug = ia.LearnedAugment.from_pretrained("crop_rotate_hsv_tinyimagenet")

reports = []
for seed in options.seeds:
    probe = ia.measure.Probe(model, data, 256, transformations=names, seed=seed)
    report, agreement = probe.invariance(), probe.learned(aug)
    print(report.summary())
    report.plot(options.out / f"invariance-{seed}.png")
    worst = sorted(report.per_class(), key=lambda row: row["relative_cosine"])[:5]
    print("least invariant:", *(f"class {row['class']} to {row['transformation']}" for row in worst), sep="\n- ")
    print(f"\n{agreement.summary()}")
    agreement.plot(options.out / f"learned-against-measured-{seed}.png")
    reports.append({"seed": seed, "invariance": report.rows(), "agreement": agreement.rows()})
harness.write(options, runs=reports)
