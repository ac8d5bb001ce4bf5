import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance


def test_the_same_image_suffers_the_same_whatever_its_batch():
    images, rows = torch.rand(12, 3, 16, 16), torch.arange(12)
    nuisance = Nuisance(["turn", "light"], 0.5, seed=3)
    together = nuisance(images, rows)
    alone = torch.cat([nuisance(images[k : k + 1], rows[k : k + 1]) for k in range(12)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.equal(together, Nuisance(["turn", "light"], 0.5, seed=4)(images, rows))
    assert not torch.equal(together, nuisance(images, rows, draw=1))


def test_half_of_the_images_stay_as_they_are():
    images = torch.rand(400, 3, 4, 4)
    out = Nuisance(v2.Lambda(lambda image: 1 - image), 0.5)(images, torch.arange(400))
    same = (out == images).flatten(1).all(1)
    assert 160 < int(same.sum()) < 240 and torch.allclose(out[~same], 1 - images[~same])


def test_of_two_draws_one_is_disturbed_where_the_chance_is_a_half():
    images, rows = torch.rand(200, 3, 4, 4), torch.arange(200)
    for probability, both in ((0.5, 0), (0.3, 18)):  # 200 · 0.3² on average
        nuisance = Nuisance(v2.Lambda(lambda image: 1 - image), probability, seed=2)
        for draw in (0, 2):
            pair = [(nuisance(images, rows, draw + k) != images).flatten(1).any(1) for k in (0, 1)]
            assert abs(int((pair[0] & pair[1]).sum()) - both) <= (0 if probability == 0.5 else 12)
            assert int((pair[0] ^ pair[1]).sum()) == 200 if probability == 0.5 else True
    half = Nuisance("turn", 0.5)
    assert not torch.equal(half.chosen(rows, 0), half.chosen(rows, 2))


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
def test_what_a_transform_draws_has_nothing_to_do_with_whether_it_acts(probability):
    """Of the images that are disturbed, half are mirrored, and two transforms draw numbers of their own."""
    images = torch.rand(1, 3, 4, 4).expand(1200, -1, -1, -1)
    fade = v2.Lambda(lambda image: image * torch.rand(()))
    nuisance = Nuisance([v2.RandomHorizontalFlip(0.5), fade, fade], probability)
    chosen = nuisance.chosen(torch.arange(1200))
    out = nuisance(images, torch.arange(1200))[chosen]
    scale = out.sum((1, 2, 3)) / images[chosen].sum((1, 2, 3))  # of both fades
    mirrored = (out - scale[:, None, None, None] * images[chosen]).abs().flatten(1).amax(1) > 1e-5
    assert abs(mirrored.float().mean() - 0.5) < 0.1
    assert (
        abs(scale.mean() - 0.25) < 0.05 and abs((scale**2).mean() - 1 / 9) < 0.04
    )  # not the square of one number: 1/3, 1/5


def test_turns_are_all_equally_likely():
    image = torch.rand(1, 3, 8, 8)
    out = Nuisance("turn", 1.0)(image.expand(800, -1, -1, -1), torch.arange(800))
    counts = torch.tensor(
        [(out - torch.rot90(image, k, (-2, -1))).abs().flatten(1).amax(1).lt(1e-4).sum() for k in range(4)]
    )
    assert counts.sum() == 800 and (counts - 200).abs().max() < 60  # about five standard deviations


def test_torchvision_transforms_are_seeded_and_leave_the_global_generator_alone():
    images, nuisance = torch.rand(6, 3, 16, 16), Nuisance(v2.RandomResizedCrop(16), 1.0, seed=1)
    before = torch.get_rng_state()
    first = nuisance(images, torch.arange(6))
    torch.rand(7)
    assert torch.equal(first, nuisance(images, torch.arange(6)))
    torch.set_rng_state(before)
    nuisance(images, torch.arange(6))
    assert torch.equal(before, torch.get_rng_state())


def test_errors():
    with pytest.raises(
        ia.InstaAugError, match=r"nuisance: family 'light' is defined on \(3,\) channels, the images have 1"
    ):
        Nuisance(["turn", "light"])(torch.rand(2, 1, 8, 8), torch.arange(2))
    with pytest.raises(ia.InstaAugError, match=r"nuisance_probability.*\(0, 1\], got 0"):
        Nuisance("turn", 0)
    with pytest.raises(ia.InstaAugError, match="nuisance: expected names"):
        Nuisance([3])
    with pytest.raises(ia.InstaAugError, match="at least one"):
        Nuisance([])
    with pytest.raises(ia.InstaAugError, match="nuisance: unknown family 'tilt'; known are .*turn"):
        Nuisance("tilt")


def of_bytes(image):
    if image.dtype != torch.uint8:
        raise RuntimeError("bytes, please.")
    return 255 - image


def of_none(image):
    raise TypeError


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: None, "made a NoneType; it must give an image"),
        (lambda image: image[None], r"made a tensor \(1, 3, 16, 16\)"),
        (v2.Grayscale(1), r"made a tensor \(1, 16, 16\)"),
        (v2.Normalize([0.5] * 3, [0.5] * 3), "gave values from -1 to 1; images stay in"),
        (lambda image: image * 255, "gave values from 0 to 255"),
        (lambda image: image * float("nan"), "gave values that are not finite"),
        (
            of_bytes,
            r"of_bytes fails on an image \(3, 16, 16\), torch.float32 .*: bytes, please; it takes bytes: .*\(torch.uint8, scale=True\)",
        ),
        (of_none, r"of_none fails on an image \(3, 16, 16\), torch.float32 in \[0, 1\]: TypeError$"),
    ],
)
def test_a_transform_that_gives_no_image_is_refused(transform, message):
    images = torch.rand(2, 3, 16, 16).sub(0.5).sign().clamp_min(0)  # black and white
    with pytest.raises(ia.InstaAugError, match=f"nuisance: .*{message}"):
        Nuisance(transform, 1.0)(images, torch.arange(2))


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_a_transform_that_works_in_place_leaves_the_images_as_they_are(probability):
    images, rows = torch.rand(40, 3, 8, 8), torch.arange(40)
    before, nuisance = images.clone(), Nuisance(v2.Lambda(lambda image: image.mul_(0.5)), probability)
    out = nuisance(images, rows)
    assert torch.equal(images, before)
    halved = nuisance.chosen(rows)[:, None, None, None]
    assert torch.equal(out, torch.where(halved, before / 2, before))


def test_what_takes_bytes_has_them_made_before_it():
    image = torch.rand(1, 3, 16, 16)
    out = Nuisance(v2.Compose([v2.ToDtype(torch.uint8, scale=True), v2.Lambda(of_bytes)]), 1.0)(image, torch.arange(1))
    torch.testing.assert_close(out, 1 - image, atol=1 / 255, rtol=0)


def test_bytes_and_pil_images_are_images():
    images = torch.randint(256, (2, 3, 16, 16)) / 255
    for transform in (v2.ToDtype(torch.uint8, scale=True), v2.Compose([v2.ToPILImage(), v2.RandomVerticalFlip(1)])):
        out = Nuisance(transform, 1.0)(images, torch.arange(2))
        expected = images.flip(-2) if isinstance(transform, v2.Compose) else images
        torch.testing.assert_close(out, expected, atol=1 / 255, rtol=0)
    out = Nuisance(lambda image: image * 1.005, 1.0)(images, torch.arange(2))
    torch.testing.assert_close(out, (images * 1.005).clamp(max=1))
    with pytest.raises(ia.InstaAugError, match="changes the size"):
        Nuisance(v2.Resize(8), 0.5)(torch.rand(40, 3, 16, 16), torch.arange(40))


def test_a_transform_that_draws_from_numpy_or_python_is_seeded_and_leaves_them_alone():
    def step(image):
        return image.rot90(np.random.randint(4), (-2, -1)).roll(random.randrange(8), -1)  # noqa: NPY002

    images, made = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        made.append(Nuisance(step, 1.0, 3)(images, torch.arange(20)))
        after = np.random.rand(), random.random()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        assert after == (np.random.rand(), random.random())  # noqa: NPY002
    assert torch.equal(*made) and not torch.equal(made[0], images)
    assert (
        len(
            {
                tuple(copy.flatten().tolist())
                for copy in Nuisance(step, 1.0, 3)(images[:1].expand(20, -1, -1, -1), torch.arange(20))
            }
        )
        > 10
    )


def test_another_size_is_refused_whatever_is_drawn():
    """Also of a batch all of whose images are disturbed."""
    step = v2.Resize(6)
    images = torch.rand(1, 3, 8, 8)
    rows = torch.arange(50)
    some = rows[Nuisance(step, 0.5, 0).chosen(rows)][:1]
    with pytest.raises(ia.InstaAugError, match="changes the size of images"):
        Nuisance(step, 0.5, 0)(images, some)
    assert Nuisance(step, 1.0, 0)(images, some).shape == (1, 3, 6, 6)
