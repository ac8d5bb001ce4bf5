"""What every family says of itself, by default, and what it must say."""

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.families.anchors import AnchorFamily
from instaaug_transforms.families.base import Family, FamilyDistribution
from instaaug_transforms.families.boxed import BoxedFamily
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.hsv import HSV
from instaaug_transforms.families.rotate import Rotate

from .test_families_tables import Table

DEFAULTS = {
    "blur": {"scales": (0.5, 0.33), "grids": (3, 4), "initial_identity": 0.9, "sigma": 0.05},
    "crop": {
        "scales": (1.0, 0.8, 0.6, 0.4), "grids": (1, 2, 3, 4), "flips": False, "jitter": False, "initial_identity": 0.9, "zooms": (),
    },
    "erase": {"scales": (0.5, 0.33), "grids": (3, 4), "initial_identity": 0.9, "value": 0.5},
    "hsv": {"hue": (-0.5, 0.5), "saturation": (0.0, 2.0), "value": (0.0, 2.0)},
    "light": {
        "exposures": (0.0, -1.0, 1.0, 2.0, 3.0), "white_balances": (0.0, -0.8, 0.8), "initial_identity": 0.9,
    },
    "local_colour": {"light": (-2.0, 2.0), "warmth": (-2.0, 2.0)},
    "mean_field_crop": {"smallest": 0.3},
    "rotate": {"bounds": (-180.0, 180.0)},
    "scale": {"bounds": (0.5, 2.0)},
    "shear": {"x": (-45.0, 45.0), "y": (-45.0, 45.0)},
    "translate": {"x": (-0.5, 0.5), "y": (-0.5, 0.5)},
    "turn": {"angles": (0.0, 90.0, 180.0, 270.0), "initial_identity": 0.9},
}  # fmt: skip


def test_families_are_by_default_as_the_documentation_has_them_and_made_again_from_what_they_say():
    assert families.available() == sorted(DEFAULTS)
    for name, config in DEFAULTS.items():
        (family,) = families.create([name])
        assert family.config() == config
        (again,) = families.create([name], {name: config})
        assert again.config() == config and type(again) is type(family)
        assert all(f"{key}={value!r}" in repr(family) for key, value in config.items())


def test_the_order_in_which_families_act():
    """Geometry first: a crop, what turns it, what stretches and moves it; then light, colour, and what is drawn over it."""
    geometry = ["crop", "turn", "rotate", "scale", "shear", "translate"]
    colour = ["light", "hsv", "local_colour", "blur", "erase"]
    made = families.create([*reversed(colour), *reversed(geometry)])
    assert [family.name for family in made] == [*geometry, *colour]
    assert [family.stage for family in made] == ["geometry"] * 6 + ["colour"] * 5
    assert [f.name for f in families.create(["rotate", "mean_field_crop", "turn"])] == [
        "mean_field_crop",
        "turn",
        "rotate",
    ]
    inside = {name for name in DEFAULTS if families.create([name])[0].stays_inside}
    assert inside == {"crop", "mean_field_crop"}
    channels = {name: families.create([name])[0].channels for name in DEFAULTS}
    assert {name for name, given in channels.items() if given == (3,)} == {"hsv", "light", "local_colour"}
    assert set(channels.values()) == {None, (3,)}


@pytest.mark.parametrize("name", DEFAULTS)
def test_bands_units_and_numbers_of_numbers(name):
    """Of candidates in fractions of log A, one number a draw; of F ranges in nats, F numbers."""
    (family,) = families.create([name])
    if isinstance(family, AnchorFamily):
        assert family.entropy_band() == ((0.52, 0.61) if name == "crop" else (0.4, 0.6)) and not family.has_rsample
        assert family.max_entropy() == pytest.approx(np.log(family.n_candidates))
        assert family.entropy_unit == (family.max_entropy(), "fractions of log A") and family.n_uniforms == 1
        assert family.index_field == family.fields[-1] and family.acting_fields == (family.fields[:-1] or family.fields)
        assert family.n_disturb == (2 if name == "light" else 1)
    else:
        n = len(family.fields)
        assert family.entropy_band() == pytest.approx((-n, -0.3 * n)) and family.has_rsample
        assert (family.max_entropy(), family.entropy_unit, family.n_uniforms) == (0.0, (1.0, "nats"), n)
        assert family.acting_fields == family.fields and family.n_disturb == n
    assert Crop(jitter=True).n_uniforms == 4 and Crop(jitter=True).n_jitter == 3


def test_a_family_says_what_it_cannot_do():
    rotate, hsv = Rotate(), HSV()
    with pytest.raises(NotImplementedError, match="'rotate' does not change pixel values"):
        rotate.colour(torch.rand(1, 3, 2, 2), ia.AugmentParams(angle=torch.zeros(1)))
    with pytest.raises(NotImplementedError, match="'hsv' is not geometric"):
        hsv.matrix(ia.AugmentParams(hue=torch.zeros(1)), torch.ones(1))
    assert not rotate.swaps_sides(ia.AugmentParams(angle=torch.tensor([90.0]))) and not rotate.keeps_inside(4, 4)
    aspect = torch.tensor([1.5])
    assert rotate.frame_aspect(ia.AugmentParams(angle=torch.zeros(1)), aspect) is aspect
    assert (
        rotate.left_out(ia.AugmentParams(hue=torch.zeros(2)))
        == {}
        == hsv.left_out(ia.AugmentParams(angle=torch.zeros(2)))
    )
    absent = hsv.left_out(ia.AugmentParams(hue=torch.zeros(2), value=torch.zeros(2)))
    assert list(absent) == ["saturation"] and absent["saturation"].tolist() == [1.0, 1.0]
    with pytest.raises(ia.InstaAugError, match="allowed are 'geometry' and 'colour'"):
        ia.register(type("Odd", (Rotate,), {"name": "test_odd", "stage": "sound"}))
    with pytest.raises(ia.InstaAugError, match="families: field angle given more than once"):
        families.create([Rotate(), type("Other", (Rotate,), {"name": "test_other"})()])
    assert families.create("rotate")[0].name == families.create(Rotate())[0].name == "rotate"


REQUIRED = {
    Family: ["identity", "head", "distribution", "n_uniforms", "widest", "entropy_band", "max_entropy"],
    FamilyDistribution: ["from_uniform", "log_prob", "entropy", "mode", "top"],
    BoxedFamily: ["inside"],
}


@pytest.mark.parametrize(("base", "name"), [(base, name) for base, names in REQUIRED.items() for name in names])
def test_a_family_without_what_it_must_have_cannot_be_made(base, name):
    """And what it must have is said all at once, before anything is learned."""
    assert base.__abstractmethods__ == set(REQUIRED[base])
    others = {other: lambda self: None for other in REQUIRED[base] if other != name}
    with pytest.raises(TypeError, match=name):
        type("Unfinished", (base,), {"name": "unfinished", "fields": ("x",), **others})()


def test_what_a_family_need_not_say():
    part = type("Plain", (FamilyDistribution,), dict.fromkeys(REQUIRED[FamilyDistribution], lambda self: None))()
    assert part.narrowed(0.5) is part
    table = Table(3).distribution(torch.zeros(2, 3))
    assert table.narrowed(0.1) is table and not table.has_rsample and table.n_uniforms == 1
    assert (Table(3).stays_inside, Table(3).changes_frame, Table(3).uses_backend, Table(3).order) == (
        False,
        False,
        False,
        50,
    )
    assert Table(3).box(None) is None and Table(3).channels is None and HSV().uses_backend
    fields = {"a": torch.ones(2)}
    assert Table(3).jittered(fields, torch.rand(2, 0)) is fields and (Table(3).n_jitter, Table(3).jitter) == (0, False)
