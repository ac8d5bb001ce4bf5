"""Fit a LearnedAugment to any frozen timm classifier on a folder of images, and see what its views are worth.

    python examples/fit_folder.py --data DIR --model resnet18 --checkpoint resnet18.safetensors --image-size 64

DIR holds two ImageFolders: `--fit-split` to fit on, best of images that the classifier has not seen, and `--test-split` to report on.
A tenth of the former is held out: the epoch, the use of the views and temperatures are chosen on it.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.utils.data import Subset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.tta import evaluate, tune

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True, help="folder that holds the two splits")
parser.add_argument("--fit-split", default="train", help="folder to fit on (%(default)s)")
parser.add_argument("--test-split", default="val", help="folder to report on (%(default)s)")
parser.add_argument("--model", default="resnet18", help="a timm model (%(default)s)")
parser.add_argument("--checkpoint", type=Path, required=True, help="its weights, .safetensors")
parser.add_argument("--image-size", type=int, default=224, help="pixels (%(default)s)")
parser.add_argument("--transforms", nargs="+", default=["crop"], help="families (%(default)s)")
parser.add_argument("--views", type=int, nargs="+", default=[2, 4, 10], help="numbers of views K (%(default)s)")
parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
parser.add_argument("--out", type=Path, default=Path("fit-out"), help="folder for results (%(default)s)")
parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(%(default)s)")
parser.add_argument("--smoke", action="store_true", help="a hundred images and one epoch, to see that everything runs")
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

resize = v2.Compose([v2.Resize(options.image_size), v2.CenterCrop(options.image_size), v2.ToImage()])
images, test = (ImageFolder(str(options.data / s), resize) for s in (options.fit_split, options.test_split))
if images.classes != test.classes:
    raise SystemExit("--data: the two splits hold different classes")
classifier = ia.timm.create_classifier(options.model, options.checkpoint, len(test.classes)).eval()
if options.smoke:
    images, test = (Subset(each, range(0, len(each), max(1, len(each) // 100))) for each in (images, test))

reports = []
for seed in options.seeds:
    policy, choice = random_split(images, [0.9, 0.1], torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    aug, common = ia.LearnedAugment(options.transforms), {"amp": options.amp, "seed": seed}
    config = ia.FitConfig(epochs=1 if options.smoke else 30, **common)
    result = ia.fit(aug, classifier, policy, choice, config)
    print(result.report)  # on `choice`; ia.TTAModel.recommended(classifier, aug, result) is the model to use

    setting = tune(classifier, aug, choice, **common)
    found = evaluate(classifier, aug, test, choice, options.views, **setting, **common)
    print(f"{options.test_split}, n = {len(test)}, seed {seed}, {setting}\n\n{found.table()}\n")
    print(*found.against_input_free(), "", sep="\n")

    aug.save(options.out / f"augment-{seed}.safetensors", seed=seed)
    ten = torch.stack([test[i][0] for i in range(0, len(test), max(1, len(test) // 10))][:10]).float() / 255
    ia.viz.save(ia.viz.learned_ranges(aug, ten), options.out / f"learned-{seed}.png")
    reports.append({"seed": seed, "setting": setting, "history": result.history, "rows": found.rows()})
(options.out / "results.json").write_text(json.dumps(reports, indent=1))
