"""Fit a LearnedAugment to any frozen timm classifier on a folder of images, and see what its views are worth.

    python examples/fit_folder.py --data DIR --model resnet18 --checkpoint resnet18.safetensors --image-size 64

DIR holds two ImageFolders: `--fit-split` to fit on, best of images that the classifier has not seen, and `--test-split` to report on.
A tenth of the former is held out: the epoch, the use of the views and temperatures are chosen on it.
"""

from pathlib import Path

import torch
from experiments import harness
from torch.utils.data import Subset, random_split

import instaaug_transforms as ia
from instaaug_transforms.tta import evaluate, tune

own = {"fit_split": "train", "test_split": "val", "model": "resnet18", "checkpoint": Path, "image_size": 224}
own |= {"transforms": ["crop"], "views": [2, 4, 10], "epochs": 30, "amp": False, "seeds": [0]}
options = harness.parse(None, __doc__, "folder that holds the two splits", smoke={"epochs": 1}, **own)
if options.checkpoint is None:
    raise SystemExit("--checkpoint: expected the model's weights, .safetensors")
splits = (options.fit_split, options.test_split)
images, test = (harness.image_folder(options.data / split, options.image_size) for split in splits)
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
    config = ia.FitConfig(epochs=options.epochs, **common)
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
harness.write(options, runs=reports)
