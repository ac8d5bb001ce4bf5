"""A training step, and test-time views, against the same without learning."""

import kornia.augmentation as K
import pytest
import timm
import torch
import torch.nn.functional as F

import instaaug_transforms as ia
from instaaug_transforms.integrations.timm import wrap

from . import rivals
from .memory import peak_bytes, size_of

LAST = torch.channels_last


def steps(families, device):
    """A step of timm's resnet18 with the learned augmentation, and one with batched random crops, which may take slopes too."""
    images, labels = torch.rand(128, 3, 64, 64, device=device), torch.randint(200, (128,), device=device)

    def model_and_optimizer():
        model = wrap(timm.create_model("resnet18", num_classes=200)).to(device, memory_format=LAST)
        return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    model, optimizer = model_and_optimizer()
    aug = ia.LearnedAugment(families).to(device)
    objective = ia.InstaAugObjective(aug)
    its_optimizer = torch.optim.Adam(objective.parameters(), lr=1e-4)

    def learned() -> None:
        views, sample = aug.sample(images)
        per_view = F.cross_entropy(model(views.contiguous(memory_format=LAST)), labels, reduction="none")
        optimizer.zero_grad(set_to_none=True)
        its_optimizer.zero_grad(set_to_none=True)
        objective(per_view, sample).backward()
        optimizer.step()
        its_optimizer.step()

    other, its = model_and_optimizer()
    crop = K.RandomResizedCrop((64, 64), p=1.0)

    def fixed(slopes: bool = False) -> None:
        views = crop(images).contiguous(memory_format=LAST).requires_grad_(slopes)
        loss = F.cross_entropy(other(views), labels)
        its.zero_grad(set_to_none=True)
        loss.backward()
        its.step()

    return learned, fixed


@pytest.mark.parametrize(("families", "bar"), [(("crop",), 1.04), (("crop", "rotate", "hsv"), 1.12)])
def test_joint_training_step(race, device, families, bar):
    learned, fixed = steps(list(families), device)
    work, against = f"joint training step, resnet18, 128×3×64×64, {' + '.join(families)}", "batched random crops"
    floor = "batched random crops, slopes of their pixels too"
    calls = {work: learned, against: fixed, floor: lambda: fixed(slopes=True)}
    race(calls, 6, [(work, work, against, bar), (f"joint training step, resnet18: {floor}", floor, against, None)])


def views_and_forwards(device, n_views=10, n_images=50):
    """TTA models of both predictors, and as many plain forwards in the same chunks."""
    classifier = wrap(timm.create_model("resnet18", num_classes=200)).eval().to(device)
    images = torch.rand(n_images, 3, 64, 64, device=device)
    on_features = ia.LearnedAugment(["crop"], predictor=ia.FeaturesPredictor(classifier, image_size=64)).to(device)
    models = {
        "TTA, resnet18 at 64 px, K = 10, φ on a copy": ia.TTAModel(
            classifier, rivals.fitted(["crop"], device), n_views
        ),
        "TTA, resnet18 at 64 px, K = 10, φ on features": ia.TTAModel(classifier, on_features.eval(), n_views),
    }
    chunk = max(1, next(iter(models.values())).chunk_size // n_views)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return torch.cat(
            [classifier(part.repeat(n_views, 1, 1, 1).contiguous(memory_format=LAST)) for part in images.split(chunk)]
        )

    return models, images, plain, classifier, chunk * n_views


def test_time_views(race, device):
    models, images, plain, *_ = views_and_forwards(device)
    against = "K plain forwards, same chunks"
    calls = {name: (lambda model=model: model(images)) for name, model in models.items()} | {against: plain}
    race(calls, 6, [(name, name, against, 1.03) for name in models])


def test_memory_of_time_views(benchmark, record, device):
    models, images, _, classifier, views = views_and_forwards(device)
    chunk = torch.rand(views, 3, 64, 64, device=device).contiguous(memory_format=LAST)

    @torch.no_grad()
    def alone():
        return classifier(chunk)

    def measure():
        # The classifier's input is there before it runs; the views of TTA are made inside.
        return peak_bytes(alone, device) + size_of(chunk), {
            n: peak_bytes(lambda m=m: m(images), device) for n, m in models.items()
        }

    own, peaks = benchmark.pedantic(measure, rounds=1)
    for name, peak in peaks.items():
        record(f"peak memory of {name}", "the classifier's own, one chunk", 1.1, peak / own, mebibytes=peak / 2**20)


@pytest.mark.parametrize("shape", [(64, 64), (16, 224), (2, 512)])
@pytest.mark.parametrize("families", [("crop",), ("crop", "rotate", "hsv")])
def test_memory_of_aug(benchmark, record, device, families, shape):
    images = torch.rand(shape[0], 3, shape[1], shape[1], device=device)
    aug = rivals.fitted(list(families), device)
    # The input is there before; the output is among what is allocated.
    peak = size_of(images) + benchmark.pedantic(peak_bytes, args=(lambda: aug(images), device), rounds=1)
    work = f"peak memory of `aug(x)`, {' + '.join(families)}, {shape[0]}×3×{shape[1]}×{shape[1]}"
    record(work, "input + output", 3.0, peak / (2 * size_of(images)), mebibytes=peak / 2**20)
