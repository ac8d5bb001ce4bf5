"""Parameters that are made by hand: what they must be."""

import math

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.families import available, create
from instaaug_transforms.families.checks import check_values

IMAGES = torch.rand(2, 3, 16, 16)


def classifier():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5)).eval()


@pytest.mark.parametrize(
    ("family", "field", "bad", "allowed"),
    [
        ("crop", "cx", 112.0, "numbers from -2 to 3, got 112; it is a fraction of the image; divide pixels"),
        ("crop", "cy", math.nan, "numbers from -2 to 3, got nan"),
        ("crop", "w", 224.0, "numbers from 0 to 4, got 224; it is a fraction"),
        ("crop", "h", -0.5, "numbers from 0 to 4, got -0.5"),
        ("crop", "flip", 2.0, "whole numbers from 0 to 1, got 2"),
        ("crop", "flip", 0.5, "whole numbers from 0 to 1, got 0.5"),
        ("erase", "erase_anchor", -1, "whole numbers from 0 to 25, got -1; it says which candidate"),
        ("erase", "erase_anchor", 1.5, "whole numbers from 0 to 25, got 1.5"),
        ("light", "exposure", 200.0, "numbers from -64 to 64, got 200; it is in stops"),
        ("shear", "shear_x", 90.0, "numbers from -89 to 89, got 90"),
        ("mean_field_crop", "crop_x", 8.0, "numbers from 0 to 1, got 8"),
        ("rotate", "angle", math.inf, "any finite number, got inf"),
        ("hsv", "hue", math.nan, "any finite number, got nan"),
    ],
)
def test_values_that_mean_nothing_are_named(family, field, bad, allowed):
    """They gave NaN, a smear of the image's border or another box, or a message about an index."""
    aug, identity = ia.LearnedAugment([family]), create([family])[0].identity()[field]
    params = ia.AugmentParams(**{field: torch.tensor([identity, bad])})
    message = f"{field} of '{family}': expected {allowed}"
    for use in (lambda: aug(IMAGES, params=params), lambda: aug.apply(IMAGES, params)):
        with pytest.raises(ia.InstaAugError, match=f"^params: {message}"):
            use()
    if math.isfinite(bad):
        with pytest.raises(ia.InstaAugError, match=f"^policy: {message}"):
            ia.TTAModel(classifier(), aug, 2, policy={field: [identity, bad]})


@pytest.mark.parametrize("name", available())
def test_all_that_a_family_draws_is_within_its_limits(name):
    family = create([name])[0]
    for uniform, drawn in ((family.n_uniforms, family.widest), (family.n_disturb, family.disturb)):
        try:
            fields = drawn(torch.rand(500, uniform))
        except ia.InstaAugError:  # a table that undoes nothing
            continue
        check_values(fields, [family])
    check_values({field: torch.tensor([value]) for field, value in family.identity().items()}, [family])


def test_what_reaches_outside_of_the_bounds_that_are_learned_is_left_alone():
    """Boxes over the edge of the image, a picture drawn at a quarter of its size, an angle beyond the learned ones."""
    one = torch.ones(2)
    for families, fields in (
        (["crop"], {"cx": 0.1 * one, "w": 0.9 * one}),
        (["crop"], {"w": 1.4 * one, "h": 1.4 * one}),
        (["scale"], {"log2_scale": -2 * one}),
        ([create(["rotate"])[0].__class__(bounds=(-10.0, 10.0))], {"angle": 400 * one}),
        (["turn"], {"turn_angle": -15 * one}),
    ):
        assert ia.LearnedAugment(families).apply(IMAGES, ia.AugmentParams(**fields)).isfinite().all()


def test_a_misspelt_field_beside_others_is_named():
    """It was left aside: the images came back without what it asked for."""
    aug, whole = ia.LearnedAugment(["crop"]), torch.full((2,), 0.5)
    params = ia.AugmentParams(cx=whole, cy=whole, w=whole, h=whole, fliip=torch.ones(2))
    for use in (
        lambda: aug(IMAGES, params=params),
        lambda: aug.apply(IMAGES, params),
        lambda: ia.invert_maps(aug, IMAGES, params, (16, 16)),
    ):
        with pytest.raises(ia.InstaAugError, match="params: .*got 'fliip', which no family has; did you mean 'flip'"):
            use()


def test_a_transform_replays_its_part_of_what_one_with_more_families_did():
    """Depth beside photographs: hsv needs three channels, and its fields are none of the crop's business."""
    crop = ia.LearnedAugment(["crop"], in_channels=1)
    params = ia.LearnedAugment(["crop", "hsv"]).views(IMAGES, 1)[1].index(0)
    assert crop(IMAGES[:, :1], params=params).shape == (2, 1, 16, 16)


def test_densities_are_of_as_many_images_and_of_what_is_left_out_as_identity():
    aug = ia.LearnedAugment(["turn", "hsv"])
    distribution = aug.distribution(torch.rand(4, 3, 16, 16))
    with pytest.raises(ia.InstaAugError, match=r"params: expected .* for B = 4 images, got \(3,\)"):
        distribution.log_prob(ia.LearnedAugment(["turn", "hsv"]).distribution(torch.rand(3, 3, 16, 16)).mode)
    part = ia.AugmentParams(turn_angle=torch.zeros(4), hue=torch.zeros(4))
    whole = part.replace(saturation=torch.ones(4), value=torch.ones(4))
    logits, ranges = distribution.parts["turn"].categorical.logits, distribution.parts["hsv"].fields.values()
    expected = logits[:, 0] - sum(torch.log((u.hi - u.lo) / (u.bounds[1] - u.bounds[0])) for u in ranges)
    for params in (part, whole):
        assert torch.allclose(distribution.log_prob(params), expected, atol=1e-5)
    pooled = aug.distribution(torch.rand(1, 3, 16, 16))  # one for a whole batch
    assert pooled.log_prob(whole).shape == (4,)


@pytest.mark.parametrize("family", ["light", "local_colour", "hsv"])
@pytest.mark.parametrize("channels", [1, 4])
def test_colours_of_other_channels_are_refused(family, channels):
    """One channel came back as three, or torch named sizes of tensors."""
    identity = create([family])[0].identity()
    params = ia.AugmentParams(**{name: torch.full((2,), float(value)) for name, value in identity.items()})
    with pytest.raises(
        ia.InstaAugError, match=rf"images: {family} is defined on \(3,\) channels, got \(2, {channels}, 8"
    ):
        ia.LearnedAugment([family]).apply(torch.rand(2, channels, 8, 8), params)
