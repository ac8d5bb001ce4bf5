"""``aug(x)`` and its parts against fixed augmentations."""

import kornia.augmentation as K
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import functional

from . import rivals


def test_crop_of_small_images(race, device):
    images = torch.rand(64, 3, 64, 64, device=device)
    aug, larger = rivals.fitted(["crop"], device), rivals.fitted(["crop"], device, predictor=ia.ConvPredictor())
    params = aug.distribution(images).sample()
    work = "`aug(x)`, crop, 64×3×64×64"
    tv, batched = "torchvision RandomResizedCrop per sample", "kornia RandomResizedCrop, batch"
    race(
        {
            work: lambda: aug(images),
            "larger": lambda: larger(images),
            "its predictor alone": lambda: aug.predictor(images),
            "its apply alone": lambda: aug.apply(images, params),
            tv: rivals.per_sample(v2.RandomResizedCrop(64, antialias=True), images),
            batched: lambda crop=K.RandomResizedCrop((64, 64), p=1.0): crop(images),
        },
        100,
        [
            (work, work, tv, 0.8),
            (work, work, batched, 1.2),
            (work + ", φ of convolutions", "larger", tv, None),
            (work + ": the predictor", "its predictor alone", tv, None),
            (work + ": apply", "its apply alone", tv, None),
        ],
    )


def test_crop_of_a_hundred(race, device):
    images = torch.rand(100, 3, 64, 64, device=device)
    aug = rivals.fitted(["crop"], device)
    work, against = "`aug(x)`, crop, 100×3×64×64", "affine_grid + grid_sample"
    race({work: lambda: aug(images), against: rivals.grid_sample(images)}, 100, [(work, work, against, 3.0)])


def test_crop_rotate_and_colour_of_large_images(race, device):
    images = torch.rand(16, 3, 224, 224, device=device)
    aug = rivals.fitted(rivals.ALL, device)
    params = aug.distribution(images).sample()
    compiled = rivals.fitted(rivals.ALL, device, compile=True)
    work = "`aug(x)`, crop + rotate + HSV, 16×3×224×224"
    fast = work + ", colour compiled"
    tv, batched = "torchvision RRC + Rotation + ColorJitter per sample", "kornia RRC + Rotation + ColorJiggle, batch"
    race(
        {
            work: lambda: aug(images),
            fast: lambda: compiled(images),
            "its predictor alone": lambda: aug.predictor(images),
            "its apply alone": lambda: aug.apply(images, params),
            tv: rivals.per_sample(rivals.torchvision_chain(224), images),
            batched: lambda chain=rivals.kornia_chain(224): chain(images),
        },
        30,
        [
            (fast, fast, tv, 0.3),
            (fast, fast, batched, 0.6),
            (work, work, tv, 0.3),
            (work, work, batched, 0.6),
            (work + ": the predictor", "its predictor alone", tv, None),
            (work + ": apply", "its apply alone", tv, None),
        ],
    )


@pytest.mark.parametrize(("shape", "side", "bar"), [((300, 260), 224, 2.0), ((32, 32), 32, 5.0)])
def test_crop_of_one_pil_image(race, device, shape, side, bar):
    if device.type != "cpu":
        pytest.skip("PIL images are on the CPU")
    image = rivals.photograph(*shape)
    aug = rivals.fitted(["crop"], device, output_size=side)
    larger = rivals.fitted(["crop"], device, output_size=side, predictor=ia.ConvPredictor())
    pixels = functional.pictures.pixels(image, 3)
    work, against = f"one PIL image, crop, {shape[0]}×{shape[1]} to {side} px", "torchvision RandomResizedCrop"
    convolutions, alone = work + ", φ of convolutions", work + ": the predictor"
    calls = {
        work: lambda: aug(image),
        convolutions: lambda: larger(image),
        alone: torch.inference_mode()(lambda: aug.predictor(pixels)),
        against: lambda crop=v2.RandomResizedCrop(side, antialias=True): crop(image),
    }
    race(calls, 200, [(work, work, against, bar), *((name, name, against, None) for name in (convolutions, alone))])


def test_data_loader(race, device, tmp_path):
    """A whole pipeline: JPEGs decoded, cropped to 224 px, normalised, in batches, by two processes."""
    if device.type != "cpu":
        pytest.skip("workers are on the CPU")
    (tmp_path / "class").mkdir()
    for i in range(128):
        rivals.photograph(375, 500, seed=i).save(tmp_path / "class" / f"{i}.jpg", quality=90)
    rest = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    work, against = "DataLoader, 2 workers, JPEGs of 500×375 to 224 px, crop", "torchvision RandomResizedCrop"
    crops = {work: rivals.fitted(["crop"], device, output_size=224)}
    crops[against] = v2.RandomResizedCrop(224, antialias=True)
    loaders = {
        name: DataLoader(ImageFolder(str(tmp_path), v2.Compose([crop, *rest])), 16, num_workers=2)
        for name, crop in crops.items()
    }
    race({name: lambda each=each: list(each) for name, each in loaders.items()}, 7, [(work, work, against, 1.18)])


@pytest.mark.parametrize("shape", [(128, 32), (64, 64), (16, 224), (2, 512)])
def test_apply_of_crop_and_rotate(race, device, shape):
    batch, side = shape
    images = torch.rand(batch, 3, side, side, device=device)
    aug = rivals.fitted(["crop", "rotate"], device)
    params = aug.distribution(images).sample()
    work, against = f"apply, crop + rotate, {batch}×3×{side}×{side}", "affine_grid + grid_sample"
    calls = {work: lambda: aug.apply(images, params), against: rivals.grid_sample(images)}
    race(calls, 50, [(work, work, against, 1.1)])


@pytest.mark.parametrize("shape", [(64, 64), (16, 224)])
def test_forward_and_backward_of_crop_rotate_and_colour(race, device, shape):
    batch, side = shape
    images = torch.rand(batch, 3, side, side, device=device)
    aug = rivals.fitted(rivals.ALL, device)
    params = aug.distribution(images).sample()
    weight = torch.rand_like(images)

    def through(transform):
        def call():
            # What φ learns from: the slopes of angle, hue, saturation and value.
            leaves = {name: params[name].clone().requires_grad_() for name in ("angle", "hue", "saturation", "value")}
            (transform(images, params.replace(**leaves)) * weight).sum().backward()

        return call

    work, against = f"forward + backward of crop + rotate + HSV, {batch}×3×{side}×{side}", "the same through kornia"
    by_kornia = work + ', backend="kornia"'
    calls = {
        work: through(aug.apply),
        by_kornia: through(lambda images, params: functional.apply(images, params, aug.families, backend="kornia")),
        against: through(rivals.kornia_functions),
    }
    race(calls, 20, [(work, work, against, 0.5), (by_kornia, by_kornia, against, None)])


@pytest.mark.parametrize("shape", [(64, 64), (16, 224)])
def test_backends(race, device, shape):
    batch, side = shape
    images = torch.rand(batch, 3, side, side, device=device)
    aug = rivals.fitted(rivals.ALL, device)
    params = aug.distribution(images).sample()
    work, against = f"apply, crop + rotate + HSV, {batch}×3×{side}×{side}, backend=", "affine_grid + grid_sample"
    calls = {
        f'{work}"{name}"': lambda name=name: functional.apply(images, params, aug.families, backend=name)
        for name in ("torch", "kornia")
    }
    race(calls | {against: rivals.grid_sample(images)}, 30, [(name, name, against, None) for name in calls])
