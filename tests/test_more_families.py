"""Families beyond the paper's three, against torchvision, Kornia and closed forms."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as TF

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.families.blur import Blur
from instaaug_transforms.families.boxes import box_windows
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.erase import Erase
from instaaug_transforms.families.local_colour import LocalColour
from instaaug_transforms.families.mean_field_crop import MeanFieldCrop
from instaaug_transforms.families.scale import Scale
from instaaug_transforms.families.shear import Shear
from instaaug_transforms.families.translate import Translate

from .conftest import make_lively

NEW = ["translate", "scale", "shear", "mean_field_crop", "erase", "blur", "local_colour"]


def apply(family, images, **fields):
    params = ia.AugmentParams(**{name: torch.as_tensor(value).expand(len(images)) for name, value in fields.items()})
    return functional.apply(images, params, [family])


@pytest.mark.parametrize("name", NEW)
def test_registered_near_the_identity_at_first_and_moving_once_lively(name, images):
    assert name in families.available()
    torch.manual_seed(0)
    fresh = ia.LearnedAugment([name])
    unchanged = fresh(images, params=fresh.distribution(images).identity())
    assert torch.equal(unchanged, images)
    aug = make_lively([name])
    assert (aug(images) - images).abs().mean() > 0.01


@pytest.mark.parametrize("name", NEW)
def test_learnt_from_saved_and_loaded(name, images, tmp_path):
    aug = make_lively([name])
    objective = ia.InstaAugObjective(aug)
    views, sample = aug.sample(images, 2)
    objective(views.square().mean((1, 2, 3)), sample).backward()
    assert all(p.grad.abs().sum() > 0 for p in aug.predictor.heads.parameters())
    aug.save(tmp_path / "a.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors")
    params = sample.params.index(0).detach()
    assert torch.equal(again(images, params=params), aug(images, params=params).detach())


@pytest.mark.parametrize("size", [(24, 24), (20, 36)])
@pytest.mark.parametrize(
    ("family", "fields", "affine"),
    [
        (Translate(), {"shift_x": 0.25, "shift_y": -0.25}, {"translate": (0.25, -0.25)}),
        (Scale(), {"log2_scale": 0.5}, {"scale": 2**0.5}),
        (Shear(), {"shear_x": 20.0, "shear_y": 0.0}, {"shear": [20.0, 0.0]}),
        (Shear(), {"shear_x": 0.0, "shear_y": -15.0}, {"shear": [0.0, -15.0]}),
        (Shear(), {"shear_x": 12.0, "shear_y": 25.0}, {"shear": [12.0, 25.0]}),
    ],
)
def test_geometry_is_that_of_torchvision(family, fields, affine, size):
    image = F.interpolate(torch.rand(1, 3, 5, 5), size=size, mode="bicubic").clamp(0, 1)
    shift = [round(s * n) for s, n in zip(affine.get("translate", (0, 0)), (size[1], size[0]), strict=True)]
    arguments = {"angle": 0.0, "scale": 1.0, "shear": [0.0, 0.0]} | affine | {"translate": shift}
    expected = TF.affine(image, **arguments, interpolation=TF.InterpolationMode.BILINEAR)
    assert torch.allclose(apply(family, image, **fields), expected, atol=2e-3)


@pytest.mark.parametrize("size", [(24, 24), (20, 36)])
def test_what_is_drawn_smaller_is_close_to_torchvisions_antialiased_copy(size):
    """Of noise, the hardest: half as far from it as a copy without antialiasing, inside the border."""
    half = [n // 2 for n in size]
    image = torch.rand(64, 3, *size)
    expected, plain = TF.resize(image, half, antialias=True), TF.resize(image, half, antialias=False)
    shown = TF.center_crop(apply(Scale(), image, log2_scale=torch.full((64,), -1.0)), half)
    ours, aliased = ((each - expected)[..., 1:-1, 1:-1].square().mean().sqrt() for each in (shown, plain))
    assert ours < aliased / 2


def test_scale_is_uniform_in_the_logarithm():
    family = Scale(bounds=(0.25, 2.0))
    assert family.bounds["log2_scale"] == (-2.0, 1.0) and family.config() == {"bounds": (0.25, 2.0)}


def test_mean_field_box_is_the_crop_of_the_same_box(images):
    side, x, y = 0.6, 0.25, 1.0
    ours = apply(MeanFieldCrop(), images, crop_side=side, crop_x=x, crop_y=y)
    box = {"cx": side / 2 + (1 - side) * x, "cy": side / 2 + (1 - side) * y, "w": side, "h": side}
    assert torch.allclose(ours, apply(Crop(), images, **box), atol=1e-5)


def test_erase_replaces_its_box_and_nothing_else(images):
    family = Erase(scales=(0.5,), grids=(2,), value=0.25)
    out = apply(family, images, erase_anchor=2)  # top right
    expected = images.clone()
    expected[:, :, :16, 16:] = 0.25
    assert torch.equal(out, expected)
    assert torch.equal(apply(family, images, erase_anchor=0), images)


def test_blur_is_torchvisions_inside_its_box(images):
    family = Blur(scales=(0.5,), grids=(2,), sigma=1.5 / 32)
    out = apply(family, images, blur_anchor=3)  # bottom left
    blurred = TF.gaussian_blur(images, [9, 9], [1.5, 1.5])
    assert torch.allclose(out[:, :, 16:, :16], blurred[:, :, 16:, :16], atol=1e-5)
    assert torch.equal(out[:, :, :16], images[:, :, :16])


def test_local_light_at_the_corners_and_between():
    grey = torch.full((1, 3, 9, 9), 0.25)
    field = dict.fromkeys(LocalColour.fields, 0.0)
    out = apply(LocalColour(), grey, **(field | {"light_tl": 1.0, "warmth_br": 2.0}))[0]
    assert out[:, 0, 0].tolist() == pytest.approx([0.5] * 3)
    assert out[:, 8, 8].tolist() == pytest.approx([0.5, 0.25, 0.125])
    assert out[:, 0, 4].tolist() == pytest.approx([0.25 * 2**0.5] * 3)  # halfway, half a stop
    assert out[:, 0, 8].tolist() == pytest.approx([0.25] * 3)


def test_equal_corners_are_a_constant_gain(images):
    field = {name: 0.5 if name.startswith("light") else 0.0 for name in LocalColour.fields}
    assert torch.allclose(apply(LocalColour(), images, **field), (images * 2**0.5).clamp(max=1), atol=1e-6)


def test_boxed_entropy_and_frequencies():
    part = Erase().distribution(torch.randn(1, 26))
    assert Erase().n_candidates == 1 + 9 + 16 and Erase().entropy_unit[0] == pytest.approx(math.log(26))
    index = part.from_uniform(torch.rand(60_000, 1, 1))["erase_anchor"]
    share = torch.bincount(index.flatten(), minlength=26) / 60_000
    assert torch.allclose(share, part.categorical.probs[0], atol=0.01)
    assert part.entropy().item() == pytest.approx(
        torch.distributions.Categorical(part.categorical.probs).entropy().item(), abs=1e-4
    )
    assert part.mode()["erase_anchor"] == part.categorical.probs.argmax() == part.top(3)["erase_anchor"][0]


def test_flips_of_one_are_those_of_true():
    """They were those of the middle alone."""
    assert (
        Crop(flips=1).n_candidates == 60
        and Crop(flips=0).n_candidates == 30
        and Crop(flips=1).config()["flips"] is True
    )


def test_tables_of_the_paper_by_name():
    small, large = Crop("paper_64px"), Crop("paper_224px")
    assert (small.n_candidates, large.n_candidates) == (321, 30)
    assert torch.equal(large.anchors, Crop().anchors)
    assert Crop(**small.config()).n_candidates == 321


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(initial_identity="x"), r"crop: initial_identity: expected a number in \(0, 1\), got 'x'"),
        (lambda: Erase(initial_identity="x"), "erase: initial_identity: expected a number"),
        (lambda: Scale((0.0, 2.0)), "factors, 0 < low < high"),
        (lambda: Scale(2), "bounds of family 'scale' must be factors, 0 < low < high, got 2"),
        (lambda: MeanFieldCrop(1.0), "smallest: expected a number in"),
        (lambda: Erase(value=2.0), "value: expected a number in"),
        (lambda: Blur(sigma=0.0), "sigma, .*: expected a number in"),
        (lambda: Shear(x=(-90.0, 45.0)), r"shear: x and y must lie inside ±80 degrees, got \(-90.0, 45.0\)"),
        (lambda: Shear(y=(0.0, 81.0)), "inside ±80 degrees"),
        (lambda: Erase(scales=(0.5,)), "one entry per scale"),
        (lambda: Crop("paper_32px"), "one of paper_64px, paper_224px"),
        (lambda: ia.LearnedAugment(["local_colour"], in_channels=1), "defined on .3,. channels"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ia.InstaAugError, match=message):
        make()


@pytest.mark.parametrize("name", ["erase", "blur"])
def test_boxes_by_default_are_nine_halves_and_sixteen_thirds(name):
    (family,) = families.create([name])
    halves = [(0.25 + 0.25 * i, 0.25 + 0.25 * j, 0.5, 0.5) for j in range(3) for i in range(3)]
    third = [0.165 + (1 - 0.33) * i / 3 for i in range(4)]
    thirds = [(x, y, 0.33, 0.33) for y in third for x in third]
    assert family.boxes[0, 2:].tolist() == [0, 0]
    found = sorted(map(tuple, family.boxes[1:].round(decimals=4).tolist()))
    assert np.allclose(found, sorted([*halves, *thirds]), atol=1e-3)


def test_a_box_reads_the_units_under_it_by_a_window_that_falls_off_as_a_cosine_squared():
    """Each unit weighs what SciPy integrates over it; of two axes the product; all together one."""
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.3, 0.6, 0.5, 0.4], [0.875, 0.125, 0.25, 0.25]])
    found = box_windows(boxes, (4, 8)).T.unflatten(1, (4, 8)).numpy()

    def along(centre, side, n):
        def weight(x):
            return np.cos(np.pi * (x - centre) / side) ** 2 if abs(x - centre) < side / 2 else 0.0

        ends = [centre - side / 2, centre + side / 2]
        return [scipy.integrate.quad(weight, k / n, (k + 1) / n, points=ends)[0] for k in range(n)]

    for window, (cx, cy, w, h) in zip(found, boxes.tolist(), strict=True):
        expected = np.outer(along(cy, h, 4), along(cx, w, 8))
        assert np.allclose(window, expected / expected.sum(), atol=2e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 5), (40, 30)])
def test_a_blur_reaches_three_deviations_or_as_far_as_reflection_allows(size):
    image = torch.rand(1, 3, *size)
    short = min(size)
    sigma, radius = 0.1 * short, max(1, min(round(0.3 * short), short - 1))
    out = Blur(sigma=0.1).inside(image)
    if short > 1:
        expected = TF.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)
    else:  # one row is repeated
        padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
        expected = TF.gaussian_blur(padded, [3, 3], [sigma] * 2)[..., 1:-1, 1:-1]
        expected[..., [0, -1]] = out[..., [0, -1]]  # where torchvision reflects the padding
    assert torch.allclose(out, expected, atol=1e-5)


def test_edges_of_what_is_allowed():
    assert Blur(sigma=0.25).sigma == 0.25 and Erase(value=0.0).value == 0.0 and Erase(value=1.0).value == 1.0
    for make in (lambda: Blur(sigma=0.26), lambda: Erase(value=-0.01), lambda: Erase(value=1.01), lambda: MeanFieldCrop(0.0),
                 lambda: Scale((1.0, 1.0)), lambda: Scale((2.0, 1.0)), lambda: Scale((1.0,)), lambda: Scale((-1.0, 2.0)),
                 lambda: Erase(scales=(0.0,), grids=(1,)), lambda: Erase(scales=(0.5,), grids=(0,))):  # fmt: skip
        with pytest.raises(ia.InstaAugError):
            make()


@pytest.mark.parametrize("size", [(7, 10), (8, 8)])
def test_a_box_holds_the_pixels_whose_centres_lie_in_it(size):
    """Every box of the table, by NumPy; nothing where there is none."""
    family, (height, width) = Erase(scales=(0.5, 0.25), grids=(2, 3), value=1.0), size
    out = functional.apply(torch.zeros(family.n_candidates, 1, *size), family.candidates(), [family])[:, 0].numpy()
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    for shown, (cx, cy, w, h) in zip(out, family.boxes.double().numpy(), strict=True):
        assert np.array_equal(shown, np.outer(np.abs(y - cy) < h / 2, np.abs(x - cx) < w / 2))
    assert out[0].sum() == 0 and out[1:].sum() > 0


def test_every_corner_has_its_own_light_and_warmth():
    """A stop of light doubles all channels; a stop of warmth is half a stop of red up and of blue down."""
    grey = torch.full((1, 3, 5, 5), 0.2)
    for corner, (row, column) in {"tl": (0, 0), "tr": (0, 4), "bl": (4, 0), "br": (4, 4)}.items():
        for what, factors in (("light", [2, 2, 2]), ("warmth", [2**0.5, 1, 2**-0.5])):
            field = dict.fromkeys(LocalColour.fields, 0.0) | {f"{what}_{corner}": 1.0}
            out = apply(LocalColour(), grey, **field)[0] / 0.2
            assert out[:, row, column].tolist() == pytest.approx(factors)
            assert out[:, 4 - row, 4 - column].tolist() == pytest.approx([1, 1, 1])
            assert out[:, 2, 2].tolist() == pytest.approx([f**0.25 for f in factors])
    assert LocalColour(light=(-1, 1), warmth=(-0.5, 0.5)).bounds["warmth_br"] == (-0.5, 0.5)
