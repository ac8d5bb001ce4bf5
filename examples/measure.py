"""What is a classifier invariant to, how far, for which classes — and do learned ranges end where its answers do?

    python examples/measure.py --data DIR --model resnet18 --checkpoint resnet18.safetensors

DIR is an ImageFolder, of images that the classifier was not trained on; each seed draws 256 of them.
"""

import argparse
import json
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia

SIZE, WEIGHTS = 64, "crop_rotate_hsv_tinyimagenet"  # pixels; learned ranges

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of class folders")
parser.add_argument("--model", default="test_resnet", help="a timm model (%(default)s)")
parser.add_argument("--checkpoint", type=Path, help="its weights, .safetensors; untrained where left out")
parser.add_argument("--out", type=Path, default=Path("measure-out"), help="folder for results (%(default)s)")
parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(%(default)s)")
parser.add_argument("--smoke", action="store_true", help="one transformation of random images, without --data")
options = parser.parse_args()
if not (options.data or options.smoke):
    parser.error("--data: a folder of class folders (or --smoke)")
options.out.mkdir(parents=True, exist_ok=True)
if options.smoke:
    data, classes, names = (torch.rand(8, 3, SIZE, SIZE), torch.arange(8) % 2), 2, ["rotate"]
else:
    data = ImageFolder(str(options.data), v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.ToImage()]))
    classes, names = len(data.classes), None  # all transformations
model = ia.timm.create_classifier(options.model, options.checkpoint, classes).eval()
aug = ia.LearnedAugment.from_pretrained(WEIGHTS)

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
(options.out / "results.json").write_text(json.dumps(reports, indent=1))
