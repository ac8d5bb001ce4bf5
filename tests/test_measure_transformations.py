import pytest
import torch
import torch.nn.functional as F
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torchvision.transforms.v2 import functional as TF

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.families.hsv import HSV
from instaaug_transforms.measure.transformations import STANDARD, Transformation, choose

pytestmark = pytest.mark.usefixtures("one_thread")

SMOOTH = F.interpolate(
    torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), size=(40, 40), mode="bicubic"
)
SMOOTH = SMOOTH.clamp(0, 1)


def affine(**changes):
    arguments = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | changes
    return TF.affine(SMOOTH, **arguments, interpolation=TF.InterpolationMode.BILINEAR)


@pytest.mark.parametrize("t", STANDARD.values(), ids=STANDARD)
def test_every_sweep_holds_an_exact_identity(t):
    assert t.magnitudes.count(t.identity) == 1
    assert t.apply(SMOOTH, t.identity) is SMOOTH
    moved = t.apply(SMOOTH, t.magnitudes[-1])
    assert moved.shape == SMOOTH.shape and (moved - SMOOTH).abs().max() > 0.02


def test_nine_for_any_image_four_for_one_or_three_channels_and_two_for_colour():
    assert len(choose(None, 1)) == 13 and len(choose(None, 3)) == 15
    assert [len(t.magnitudes) for t in choose(None, 3)].count(11) == 14  # posterize has eight


@pytest.mark.parametrize(
    ("name", "magnitude", "oracle"),
    [
        ("rotate", 30.0, {"angle": -30.0}),  # torchvision's affine turns clockwise
        ("translate_x", 0.2, {"translate": [8, 0]}),
        ("translate_y", -0.3, {"translate": [0, -12]}),
        ("zoom_in", 1.5, {"scale": 1.5}),
        ("zoom_out", 0.8, {"scale": 0.8}),
        ("shear_x", 20.0, {"shear": [20.0, 0.0]}),
        ("shear_y", -12.0, {"shear": [0.0, -12.0]}),
    ],
)
def test_geometry_is_torchvisions(name, magnitude, oracle):
    t = STANDARD[name]
    difference = t.apply(SMOOTH, magnitude) - affine(**oracle)
    if t.uses_fill:  # the border blends into what lies outside
        inside = t.apply(torch.ones(1, 1, 40, 40), magnitude) > 0.999
        difference = difference * inside
    tolerance = 0.02 if name == "zoom_out" else 2e-3  # antialiased here
    assert difference[..., 4:-4, 4:-4].abs().max() < tolerance


@pytest.mark.parametrize("sign", [-1, 1])
def test_shears_slide_rows_and_columns(sign):
    marked = torch.zeros(1, 1, 41, 41)
    marked[..., 10, 20] = 1  # ten rows above the centre
    rows = STANDARD["shear_x"].apply(marked, sign * 45.0)
    assert rows[0, 0].argmax() == 10 * 41 + 20 + sign * 10  # as torchvision's affine and the family shear
    columns = STANDARD["shear_y"].apply(marked.mT, sign * 45.0)
    assert torch.allclose(columns, rows.mT, atol=1e-5)


def test_colours_are_the_libraries():
    assert torch.equal(STANDARD["brightness_down"].apply(SMOOTH, 0.4), TF.adjust_brightness(SMOOTH, 0.4))
    assert torch.equal(STANDARD["posterize"].apply(SMOOTH, 2.0), TF.posterize(SMOOTH, 2))
    assert torch.allclose(STANDARD["hue"].apply(SMOOTH, 0.25), TF.adjust_hue(SMOOTH, 0.25), atol=1e-4)
    grey = STANDARD["saturation"].apply(SMOOTH, 0.0)
    assert torch.allclose(grey, SMOOTH.amax(1, keepdim=True).expand_as(grey), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [("rotate", "angle", 25.0), ("shear", "shear_y", 10.0), ("hsv", "value", 0.4), ("translate", "shift_x", 0.25)],
)
def test_any_field_of_a_family_is_a_transformation(family, field, value):
    (family,) = families.create([family])
    t = Transformation.of_family(family, field, [family.identity()[field], value])
    assert (t.name, t.kind) == (field, "geometry" if family.stage == "geometry" else "appearance")
    assert t.channels == family.channels and t.uses_fill == (family.stage == "geometry")
    params = {name: torch.full((2,), at) for name, at in {**family.identity(), field: value}.items()}
    assert torch.allclose(
        t.apply(SMOOTH, value), functional.apply(SMOOTH, ia.AugmentParams(**params), [family]), atol=1e-4
    )


def test_the_index_of_a_candidate_stands_for_what_the_candidate_does():
    """The third turn is by 180 degrees; the fourth light is one stop less."""
    turn, light = families.create(["turn", "light"])
    turned = Transformation.of_family(turn, "turn", range(4)).apply(SMOOTH, 2.0)
    assert torch.allclose(turned, SMOOTH.rot90(2, (-2, -1)), atol=1e-5)
    darker = Transformation.of_family(light, "light", range(4)).apply(SMOOTH, 3.0)
    assert torch.allclose(darker, linear_rgb_to_rgb(rgb_to_linear_rgb(SMOOTH) / 2), atol=1e-5)


def test_own_magnitudes_and_own_transformations():
    finer = STANDARD["rotate"].with_magnitudes([-2, 0, 2])
    assert finer.magnitudes == (-2.0, 0.0, 2.0)
    gamma = Transformation("gamma", (1.0, 2.0), 1.0, "exponent", colour=lambda x, m: x**m)
    assert [t.name for t in choose([gamma, "rotate"], 3)] == ["gamma", "rotate"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STANDARD["rotate"].with_magnitudes([1, 2]), "hold the identity 0 once"),
        (lambda: STANDARD["rotate"].with_magnitudes([0, 2, 1]), "ascending or descending"),
        (lambda: choose(["rotat"], 3), "unknown 'rotat'; known are rotate"),
        (lambda: choose(["rotate", "rotate"], 3), "each once"),
        (lambda: choose(["hue"], 1), "'hue' is defined on"),
        (lambda: choose([STANDARD["rotate"].with_magnitudes([0])], 3), "'rotate' has no magnitude but the identity"),
        (
            lambda: Transformation.of_family(HSV(), "tint", (0, 1)),
            "field: 'hsv' has hue, saturation, value, got 'tint'",
        ),
        (lambda: choose([3], 1), "unknown 3; known are rotate"),
        (lambda: Transformation("a", (0.0,), 0.0, ""), "exactly one of matrix= and colour="),
        (lambda: Transformation("a", (0.0,), 0.0, "", abs, colour=abs), "exactly one of matrix= and colour="),
    ],
)
def test_errors(make, message):
    with pytest.raises(ia.InstaAugError, match=message):
        make()
