import math

import numpy as np
import pytest
import scipy.special
import torch
from scipy.stats import qmc
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.families.anchors import AnchorFamily
from instaaug_transforms.families.base import Family, FamilyDistribution, Features, FeatureSpec
from instaaug_transforms.families.boxed import BoxedFamily
from instaaug_transforms.families.crop import Crop, crop_within
from instaaug_transforms.families.hsv import HSV
from instaaug_transforms.families.rotate import Rotate
from instaaug_transforms.families.uniform import UniformFamily, quantile_orders
from instaaug_transforms.functional.compose import geometry_matrix

from .conftest import make_lively


def test_all_three_families_are_built_and_move_images(images):
    """None fails at construction, and hue and saturation have ranges."""
    for name in ("crop", "rotate", "hsv"):
        aug = make_lively([name])
        assert (aug(images) - images).abs().mean() > 0.01
    fields = make_lively(["hsv"]).distribution(images).parts["hsv"].fields
    assert all((u.hi - u.lo).min() > 0.01 for u in fields.values())


def test_anchors_lie_inside_the_image():
    """Crops that hang over the border are up to a third black."""
    for crop in (Crop(), Crop(jitter=True), Crop(scales=(1.0, 0.375, 0.75), grids=(1, 16, 8))):
        noise = torch.rand(4000, 1, crop.distribution(torch.zeros(1, crop.n_candidates)).n_uniforms)
        fields = crop.distribution(torch.zeros(1, crop.n_candidates)).from_uniform(noise)
        for centre, side in (("cx", "w"), ("cy", "h")):
            assert (fields[centre] - fields[side] / 2).min() >= -1e-6
            assert (fields[centre] + fields[side] / 2).max() <= 1 + 1e-6


def test_a_white_image_stays_white_under_every_crop():
    crop = Crop()
    white = torch.ones(crop.n_candidates, 3, 20, 20)
    assert functional.apply(white, crop.candidates(), [crop]).min() > 1 - 1e-6


@pytest.mark.parametrize("flips", [False, True, "centre"])
def test_a_crop_starts_as_the_whole_image(flips, images):
    """p(whole image) is 0.9 before any fit, and what is left is spread evenly over the other scales, mirrored ones too."""
    aug = ia.LearnedAugment([Crop(scales=(1.0, 0.5), grids=(1, 2), flips=flips)])
    with torch.no_grad():
        aug.predictor.heads["crop"].weight.zero_()
        p = aug.distribution(images).parts["crop"].categorical.probs
    others = {False: [1], True: [1, 1, 1], "centre": [1, 1]}[flips]  # scales, and mirror images of them
    counts = {False: [4], True: [4, 1, 4], "centre": [4, 1]}[flips]
    expected = [0.9] + [0.1 / len(others) / n for n in counts for _ in range(n)]
    assert p.shape == (len(images), len(expected)) and Crop(flips=flips).n_uniforms == 1
    torch.testing.assert_close(p, torch.tensor(expected).expand_as(p), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [0, -1, 1.0])
def test_no_views_are_refused(n, images):
    with pytest.raises(ia.InstaAugError, match="n: expected at least one view"):
        ia.LearnedAugment(["crop"]).views(images, n)


def test_anchor_table_of_the_paper():
    assert Crop().n_candidates == 30
    assert Crop(scales=(1.0, 0.75, 0.375), grids=(1, 8, 16)).n_candidates == 321
    assert Crop(flips=True).n_candidates == 60


def test_jitter_stays_in_its_own_cell_and_keeps_the_area():
    crop = Crop(jitter=True)
    part = crop.distribution(torch.zeros(1, 30))
    fields = part.from_uniform(torch.rand(5000, 1, 4))
    assert (fields["w"] * fields["h"]).allclose(crop.anchors[fields["anchor"]][..., 2] ** 2, atol=1e-5)
    ratio = fields["w"] / fields["h"]
    assert ratio.min() > 0.74 and ratio.max() < 1.34 and ratio.std() > 0.05
    whole = fields["anchor"] == 0
    assert (fields["w"][whole] == 1).all() and (fields["cx"][whole] == 0.5).all()
    moved = (fields["cx"] - crop.anchors[fields["anchor"]][..., 0]).abs()
    slack = (fields["w"] - crop.anchors[fields["anchor"]][..., 2]).clamp(min=0) / 2
    assert (moved <= crop.half_cell[fields["anchor"]] + slack + 1e-5).all()


def test_nearest_finds_every_anchor_from_its_box():
    crop = Crop(flips=True)
    params = crop.candidates()
    assert torch.equal(crop.nearest(params), torch.arange(60))


def test_mirrored_image_sees_mirrored_anchors(images):
    crop = Crop(flips=True)
    params, image = crop.candidates(), images[:1].expand(60, -1, -1, -1)
    direct = functional.apply(image.flip(-1), params, [crop])
    table = functional.apply(image, params, [crop])[crop.mirror_index()]
    assert torch.allclose(direct, table, atol=1e-5)


def test_uniform_entropy_is_the_log_of_the_width_not_the_width():
    part = Rotate().distribution(torch.tensor([[0.0, 0.0], [-2.0, 0.5]]))
    widths = part.fields["angle"].hi - part.fields["angle"].lo
    assert torch.allclose(part.entropy(), (widths / 360).log(), atol=1e-5)


def test_ranges_start_narrow_around_the_identity():
    for family in (Rotate(), HSV(), Rotate(bounds=(0.0, 90.0))):
        part = family.distribution(family._initial_raw()[None])
        for name, u in part.fields.items():
            low, high = family.bounds[name]
            assert ((u.hi - u.lo) / (high - low)).item() == pytest.approx(0.02, abs=1e-4)
            assert abs((u.lo + u.hi).item() / 2 - family.identity()[name]) <= 0.02 * (high - low)


def test_ranges_reach_any_interval_inside_the_bounds():
    raw = torch.tensor([[2.0, -4.0], [-3.0, 6.0], [10.0, 0.0]])
    u = Rotate().distribution(raw).fields["angle"]
    assert (u.lo >= -180).all() and (u.hi <= 180 + 1e-3).all() and (u.lo < u.hi).all()
    assert u.lo[1] > 0  # it need not hold the identity


@pytest.mark.parametrize("make", [Rotate, HSV, lambda: Crop(jitter=True), Crop, lambda: Crop(flips=True)])
def test_log_prob_matches_frequency_and_entropy(make):
    """Monte-Carlo: E[−log p] is the entropy (relative measure), and every sample has a density."""
    family = make()
    torch.manual_seed(3)
    size = family.n_candidates if isinstance(family, Crop) else 2 * len(family.fields)
    part = family.distribution(torch.randn(2, size))
    fields = part.from_uniform(torch.rand(40_000, 2, part.n_uniforms))
    log_p = part.log_prob(ia.AugmentParams(**fields))
    assert log_p.isfinite().all()
    assert torch.allclose(-log_p.mean(0), part.entropy(), atol=0.02)


def test_top_quantiles_of_uniform_fields_are_spread():
    part = HSV().distribution(torch.zeros(3, 6))
    fields = part.top(8)
    hue = fields["hue"][:, 0].sort().values
    assert torch.allclose(hue.diff(), hue.diff().mean().expand(7), atol=1e-5)
    assert fields["saturation"][:, 0].argsort().tolist() != fields["hue"][:, 0].argsort().tolist()


class Solarize(UniformFamily):
    """A fourth family, as a user would write it: one class, nothing edited elsewhere."""

    name = "test_solarize"
    fields = ("threshold",)
    stage = "colour"

    def __init__(self, bounds=(0.0, 1.0)):
        super().__init__({"threshold": bounds})

    def identity(self):
        return {"threshold": 1.0}

    def colour(self, images, params):
        threshold = params.threshold.reshape(-1, 1, 1, 1)
        return images + (1 - 2 * images) * ((images - threshold) * 50).sigmoid()


class Translate(UniformFamily):
    """A fifth one, geometric."""

    name = "test_translate"
    fields = ("shift_x",)
    stage = "geometry"
    order = 60

    def __init__(self, bounds=(-0.5, 0.5)):
        super().__init__({"shift_x": bounds})

    def identity(self):
        return {"shift_x": 0.0}

    def matrix(self, params, aspect):
        eye = torch.eye(3).expand(len(aspect), 3, 3)
        return eye + torch.nn.functional.pad(2 * params.shift_x.reshape(-1, 1, 1), (2, 0, 0, 2))


@pytest.fixture
def registered():
    for cls in (Solarize, Translate):
        ia.register(cls)
    yield
    for cls in (Solarize, Translate):
        families._REGISTRY.pop(cls.name)


def test_a_new_family_is_one_class(images, registered, tmp_path):
    aug = make_lively(["crop", "rotate", "hsv", "test_solarize", "test_translate"])
    out, params = aug.views(images, 3)
    assert out.shape == (3, *images.shape) and {"threshold", "shift_x"} <= set(params)
    out.mean().backward()
    for name in ("test_solarize", "test_translate"):
        assert aug.predictor.heads[name].out.weight.grad.abs().sum() > 0
    aug.save(tmp_path / "four.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "four.safetensors")
    assert torch.equal(again(images, params=params.index(0)), aug(images, params=params.index(0)))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    config = ia.FitConfig(epochs=1, batch_size=4, progress=False)
    ia.fit(aug, model, (images, torch.tensor([0, 1, 2] * 2)), config=config)


def test_shift_moves_the_right_way(registered):
    image = torch.zeros(1, 1, 8, 8)
    image[..., 6] = 1
    aug = ia.LearnedAugment(["test_translate"], in_channels=1)
    out = aug(image, params=ia.AugmentParams(shift_x=torch.tensor([0.25])))
    assert out[0, 0, 0].argmax() == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["crop", "fog"], "unknown family 'fog'; known are .*crop, .*hsv, .*rotate"),
        (["crop", "crop"], "crop.* given more than once"),
        ([], "got none"),
        ([3], "got int"),
    ],
)
def test_bad_families(given, message):
    with pytest.raises(ia.InstaAugError, match=message):
        families.create(given)


def test_bad_bounds():
    with pytest.raises(ia.InstaAugError, match="bounds of 'angle'"):
        Rotate(bounds=(10.0, 20.0))
    with pytest.raises(ia.InstaAugError, match="start with the whole image"):
        Crop(scales=(0.8, 1.0), grids=(2, 1))
    with pytest.raises(ia.InstaAugError, match="is taken by"):
        ia.register(type("Other", (Rotate,), {}))


def test_top_pairs_no_two_fields_of_any_families():
    aug = make_lively(["rotate", "hsv", "scale", "shear", "translate"])
    params = aug.distribution(torch.rand(1, 3, 32, 32)).top(10)
    orders = [tuple(field[:, 0].argsort().tolist()) for field in params.values()]
    assert len(set(orders)) == len(orders) == 9


def test_jitter_goes_to_both_sides():
    """From the centre by half the distance to the next one, to either side; the aspect from 3/4 to 4/3."""
    crop = families.create(["crop"], {"crop": {"jitter": True}})[0]
    fields = crop.take(torch.arange(crop.n_candidates))
    half = torch.tensor(
        [
            (1 - s) / max(g - 1, 1) / 2 * (g > 1)
            for s, g in zip(crop.scales, crop.grids, strict=True)
            for _ in range(g * g)
        ]
    )
    inner = (half > 0) & ((fields["cx"] - 0.5).abs() + half <= (1 - fields["w"]) / 2 + 1e-6)
    assert inner.any()
    for uniform, side in ((0.0, -1), (1.0, 1)):
        moved = crop.jittered(fields, torch.tensor([uniform, 0.5, 0.5]).expand(len(half), 3))
        assert torch.allclose((moved["cx"] - fields["cx"])[inner], side * half[inner], atol=1e-6)
        stretched = crop.jittered(fields, torch.tensor([0.5, 0.5, uniform]).expand(len(half), 3))
        aspect = (stretched["w"] / stretched["h"])[fields["w"] < 1]
        assert torch.allclose(aspect, torch.full_like(aspect, 0.75 if side < 0 else 4 / 3), atol=1e-4)


@pytest.mark.parametrize("size", [(60, 100), (64, 64)])
def test_what_a_stretched_crop_shows_is_turned_rigidly(size):
    """In pixels of the crop, turning neither stretches nor shears: a rotation matrix, whatever the box's sides."""
    height, width = size
    box = {"cx": 0.5, "cy": 0.5, "w": 0.5, "h": 0.9, "flip": 0.0, "angle": 30.0}
    params = ia.AugmentParams(**{name: torch.tensor([value]) for name, value in box.items()})
    matrix = geometry_matrix(families.create(["crop", "rotate"]), params, height, width)[0, :2, :2]
    image, frame = torch.tensor([width, height]), torch.tensor([0.5 * width, 0.9 * height])
    rotation = image[:, None] * matrix / frame
    assert torch.allclose(rotation @ rotation.T, torch.eye(2), atol=1e-5)
    assert torch.allclose(rotation[0, 0], torch.tensor(30.0).deg2rad().cos(), atol=1e-5)


def test_a_crop_says_which_box_it_shows():
    params = ia.AugmentParams(
        **{name: torch.tensor([v]) for name, v in {"cx": 0.3, "cy": 0.6, "w": 0.4, "h": 0.5, "flip": 1.0}.items()}
    )
    *corners, mirrored = Crop().box(params)
    assert corners == pytest.approx([0.1, 0.35, 0.5, 0.85]) and mirrored
    assert not Crop().box(params.replace(flip=torch.zeros(1)))[-1]
    assert ia.LearnedAugment(["rotate"]).families[0].box(params) is None


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_the_widest_part_lies_around_the_identity_and_ends_at_the_bounds(fraction):
    """A fraction of the whole range, half of it to either side; where the identity is nearer to an edge, up to the edge."""
    ends = torch.tensor([0.0, 1.0])
    turns = Rotate(bounds=(-180.0, 180.0)).widest(ends[:, None], fraction)["angle"]
    assert turns.tolist() == pytest.approx([-180 * fraction, 180 * fraction])
    low, high = HSV(value=(0.9, 3.9)).widest(ends[:, None].expand(2, 3), fraction)["value"].tolist()
    assert (low, high) == pytest.approx((0.9, min(3.9, 1 + 3 * fraction / 2)))


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"cx": torch.zeros(2)},
        {"cx": torch.zeros(2), "cy": torch.zeros(3)},
        {"cx": torch.zeros(0), "cy": torch.zeros(0)},
    ],
)
def test_tables_whose_columns_do_not_go_with_the_fields_are_refused(columns):
    class Moved(AnchorFamily):
        name, stage = "moved", "geometry"
        fields = ("cx", "cy", "moved")

    with pytest.raises(ia.InstaAugError, match="moved: candidates must be columns of equal length for cx, cy"):
        Moved(columns)


def test_a_crop_of_a_crop_is_the_product_of_their_matrices():
    torch.manual_seed(0)
    fields = ("cx", "cy", "w", "h")
    first, then = (
        ia.AugmentParams(**{name: torch.rand(50) for name in fields}, flip=torch.randint(2, (50,)).float())
        for _ in range(2)
    )
    crop = Crop()
    one, other, both = (crop.matrix(params, torch.ones(50)) for params in (first, then, crop_within(first, then)))
    torch.testing.assert_close(both, one @ other)


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


class Table(AnchorFamily):
    """Candidates without a place."""

    name, stage, fields = "test_table", "colour", ("a", "b", "test_table")

    def __init__(self, size=3, initial_identity=0.9):
        columns = {"a": torch.arange(size), "b": 10 * torch.arange(size)}
        super().__init__(columns, initial_identity)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("p", [0.9, 0.4])
def test_before_a_fit_the_other_candidates_share_what_the_identity_leaves(size, p):
    family = Table(size, p)
    expected = [p] + [(1 - p) / max(size - 1, 1)] * (size - 1)
    assert torch.allclose(family.log_prior().exp(), torch.tensor(expected)) and family.log_prior().shape == (size,)
    assert (
        family.max_entropy() == pytest.approx(np.log(size)) and family.mirror_index() is family.compose_index() is None
    )


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 1.1])
def test_the_identity_is_neither_certain_nor_ruled_out_before_a_fit(p):
    with pytest.raises(ia.InstaAugError, match=r"test_table: initial_identity must lie in \(0, 1\)"):
        Table(initial_identity=p)


def test_candidates_are_rows_of_a_table():
    family = Table(4)
    taken = family.take(torch.tensor([[3, 0], [1, 1]]))
    assert taken["a"].tolist() == [[3, 0], [1, 1]] and taken["b"].tolist() == [[30, 0], [10, 10]]
    assert torch.equal(family.candidates()["test_table"], torch.arange(4)) and family.identity() == {
        "a": 0,
        "b": 0,
        "test_table": 0,
    }
    near = ia.AugmentParams(a=torch.tensor([0.4, 2.9, 3.0]), b=torch.tensor([5.4, 20.0, 4.0]))
    assert family.nearest(near).tolist() == [1, 2, 0]  # |a − k| + |b − 10 k|: 5.2, not 5.8; 0.9; 7, not 8
    widest = family.widest(torch.tensor([[0.0], [0.2499], [0.25], [0.74], [0.76], [1.0]]))
    assert widest["test_table"].tolist() == [0, 0, 1, 2, 3, 3]
    left_out = family.left_out(ia.AugmentParams(test_table=torch.tensor([2.0])))
    assert {name: field.tolist() for name, field in left_out.items()} == {"a": [2.0], "b": [20.0]}
    assert {n: f.tolist() for n, f in family.left_out(ia.AugmentParams(b=torch.tensor([7.0]))).items()} == {"a": [0.0]}
    with pytest.raises(ia.InstaAugError, match="family 'test_table' has no candidates that undo each other"):
        family.undoing({})


SPEC = FeatureSpec(6, (3, 4), 5)


def features(n=7):
    return Features(torch.randn(n, 6, 3, 4), torch.randn(n, 5))


def heads():
    crop, small = Crop(), Crop(scales=(1.0, 0.5), grids=(1, 2), flips=True)
    return {"anchors": Table(3), "boxes": crop, "mirrored": small, "ranges": HSV()}


def perturbed(family):
    """A head as after a fit."""
    head = family.head(SPEC)
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return head


def gelu(x):
    return x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2


@pytest.mark.parametrize("name", heads())
def test_heads_in_numpy(name):
    """What weights files mean: weights of the last layer count three times."""
    family, given = heads()[name], features()
    head = perturbed(family)
    w = {key: value.detach().double().numpy() for key, value in head.state_dict(keep_vars=True).items()}
    maps, vector = (part.double().numpy() for part in given)
    if name == "ranges":
        hidden = np.maximum(vector @ w["hidden.weight"].T + w["hidden.bias"], 0)
        expected = 3 * hidden @ w["out.weight"].T + w["out.bias"]
    elif name == "anchors":
        reduced = gelu(
            np.einsum("oc,bchw->bohw", w["reduce.weight"][:, :, 0, 0], maps) + w["reduce.bias"][:, None, None]
        )
        hidden = gelu(reduced.reshape(7, -1) @ w["local.weight"].T + w["local.bias"] + vector @ w["context.weight"].T)
        expected = 3 * hidden @ w["out.weight"].T + w["out.bias"] + vector @ w["direct.weight"].T
    else:
        windows, anchors = head.windows.double().numpy(), family.anchors.numpy()
        sides = list(family.scales)
        expected = np.zeros((7, len(anchors)))
        plain = [row for row in range(len(anchors)) if anchors[row, 4] == 0]
        for a, (*box, flip) in enumerate(anchors):
            place = next(i for i in plain if np.array_equal(anchors[i, :4], box))
            scale = np.argmin(np.abs(np.array(sides) - box[2]))
            pooled = maps.reshape(7, 6, 12) @ windows[:, place]
            hidden = np.maximum(pooled @ w["local.weight"].T + w["local.bias"] + vector @ w["context.weight"].T, 0)
            alike = sum(np.isclose(other[2], box[2]) and other[4] == flip for other in anchors)
            constant = w["bias"][int(flip), scale] - np.log(alike) + w["offset"][a]
            expected[:, a] = constant + 3 * hidden @ w["weight"][int(flip), scale]
    assert np.allclose(head(given).detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", heads())
@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_a_shrunk_head_says_less_about_the_mean(name, strength):
    head, given = perturbed(heads()[name]), features(40)
    before = head(given).detach()
    head.shrink_(strength, before.mean(0))
    expected = before.mean(0) + strength * (before - before.mean(0))
    assert torch.allclose(head(given), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["anchors", "boxes", "mirrored"])
def test_a_head_for_losses_starts_at_nothing(name):
    """But for what the image says, which is small."""
    head = heads()[name].head(SPEC)
    head.zero_()
    assert head(features()).abs().max() < 0.3
    with torch.no_grad():
        for key, weight in head.named_parameters():
            if "bias" not in key or key.startswith("reduce"):
                weight.zero_()
    assert head(features()).abs().max() < 1e-5


@pytest.mark.parametrize("name", heads())
def test_fresh_heads_say_nearly_the_same_of_all_images(name):
    """The likeliest candidate has p = 0.9 at first, a range is 2 % wide, whatever the image; but not to the bit."""
    torch.manual_seed(0)
    family = heads()[name]
    with torch.no_grad():
        said = family.head(SPEC)(features(200))
    part = family.distribution(said)
    if name == "ranges":
        widths = torch.stack([(u.hi - u.lo) / (u.bounds[1] - u.bounds[0]) for u in part.fields.values()])
        assert (widths - 0.02).abs().max() < 0.004 and widths.std(1).min() > 1e-6
    else:
        p = part.categorical.probs
        assert (p[:, 0] - 0.9).abs().max() < 0.05 and p.std(0).min() > 1e-6


def test_quantiles_go_by_halves_and_then_as_torch_shuffles():
    """The first order is that of van der Corput's sequence, SciPy's; the others those of `randperm`, seeded by their number."""
    for k in (2, 3, 4, 7, 10, 33):
        orders = quantile_orders(k, min(4, math.factorial(k)))
        halves = qmc.Halton(1, scramble=False).random(k + 1)[1:, 0]
        assert orders[0] == tuple(halves.argsort().argsort().tolist())
        assert len(set(orders)) == len(orders) and all(sorted(order) == list(range(k)) for order in orders)
    generator = torch.Generator().manual_seed(10)
    shuffled = [tuple(torch.randperm(10, generator=generator).tolist()) for _ in range(100)]
    assert quantile_orders(10, 2)[1] == shuffled[0]
    assert (
        quantile_orders(1, 3) == [(0,)] * 3
        and len(quantile_orders(2, 5)) == 5
        and quantile_orders(2, 2) == [(1, 0), (0, 1)]
    )
    assert quantile_orders(5, 0) == []


def test_quantiles_are_in_the_middle_of_their_parts():
    part = Rotate(bounds=(-40.0, 40.0)).distribution(
        torch.tensor([[40.0, 0.0], [0.0, 0.0]])
    )  # all, and the middle half
    for k in (1, 2, 5):
        angle = part.top(k)["angle"]
        middles = (torch.arange(k) + 0.5) / k
        assert torch.allclose(angle[:, 0].sort().values, -40 + 80 * middles, atol=1e-3)
        assert torch.allclose(angle[:, 1].sort().values, -20 + 40 * middles, atol=1e-3)
    first, second = (part.top(6, place)["angle"][:, 0].argsort().tolist() for place in (0, 1))
    assert first != second == torch.tensor(quantile_orders(6, 2)[1]).argsort().tolist()


def test_ranges_in_closed_form():
    """Width σ(r_w) of the bounds, at σ(r_c) of the room that is left; narrowed to its middle; the likeliest is the nearest to the identity."""
    family = Rotate(bounds=(-40.0, 160.0))
    raw = torch.tensor([[0.0, 0.0], [1.0, -2.0], [-30.0, 3.0], [-1.0, 2.0], [3.0, -3.0]])
    width, start = scipy.special.expit(raw.double().numpy()).T
    width = np.maximum(width, 1e-6)
    low = -40 + 200 * (1 - width) * start
    part = family.distribution(raw)
    u = part.fields["angle"]
    assert np.allclose(u.lo, low, atol=1e-3) and np.allclose(u.hi - u.lo, 200 * width, atol=2e-3)
    assert np.allclose(part.entropy(), np.log(width), atol=0.1) and (u.bounds, part.n_uniforms) == ((-40.0, 160.0), 1)
    assert np.allclose(part.mode()["angle"], np.clip(0, low, low + 200 * width), atol=1e-2)
    assert part.mode()["angle"][3] > 1 and part.mode()["angle"][0] == 10
    narrow = part.narrowed(0.25).fields["angle"]
    middle = low + 100 * width
    assert np.allclose(narrow.lo, middle - 25 * width, atol=1e-3) and np.allclose(
        narrow.hi, middle + 25 * width, atol=1e-3
    )
    assert part.fields["angle"] is u
    drawn = part.from_uniform(torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand(3, 5, 1))["angle"]
    assert np.allclose(drawn, np.stack([low, middle, low + 200 * width]), atol=2e-3)


@pytest.mark.parametrize("bounds", [(0.0, 90.0), (-90.0, 0.0), (-30.0, 60.0)])
def test_a_fresh_range_is_two_hundredths_wide_at_the_identity_or_a_hundredth_from_the_edge(bounds):
    family, (low, high) = Rotate(bounds=bounds), bounds
    u = family.distribution(family._initial_raw()[None]).fields["angle"]
    size = high - low
    start = min(max(((0 - low) / size - 0.01) / 0.98, 0.01), 0.99)
    assert u.lo.item() == pytest.approx(low + 0.98 * start * size, abs=1e-3)
    assert (u.hi - u.lo).item() == pytest.approx(0.02 * size, rel=1e-3)


def test_bounds_are_finite_hold_the_identity_and_are_no_point():
    for good in ((0.0, 1e6), (-1e6, 0.0), (-1e-3, 1e-3)):
        assert Rotate(bounds=good).bounds["angle"] == good
    for bad in ((0.0, 1e6 + 0.5), (-1e6 - 0.5, 0.0), (0.0, 0.0), (1e-9, 1.0), (-1.0, -1e-9), (1.0, -1.0), (0.0,), (-1.0, 0.0, 1.0),
                (float("nan"), 1.0), (-1.0, float("inf"))):  # fmt: skip
        with pytest.raises(ia.InstaAugError, match="bounds of 'angle' in family 'rotate' must be"):
            Rotate(bounds=bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (1.0, 0.5), "grids": (1,)}, "one entry per scale"), ({"scales": (), "grids": ()}, "one entry per scale"),
        ({"scales": (0.9, 0.5), "grids": (1, 2)}, "start with the whole image"),
        ({"scales": (1.0, 0.5), "grids": (2, 2)}, "start with the whole image"),
        ({"scales": (1.0, 0.0), "grids": (1, 2)}, r"scales must lie in \(0, 1\]"),
        ({"scales": (1.0, 1.1), "grids": (1, 2)}, r"scales must lie in \(0, 1\]"),
        ({"scales": (1.0, 0.5), "grids": (1, 0)}, "grids be ≥ 1"), ({"scales": (1.0, 0.5), "grids": (1, 2.0)}, "grids be ≥ 1"),
        ({"scales": (1.0, 0.5), "grids": (1, 256)}, "more than 65536 boxes"),
        ({"zooms": (1.0,)}, r"zooms must lie in \(0, 1\)"), ({"zooms": (0.5, 0.0)}, r"zooms must lie in \(0, 1\)"),
        ({"flips": "left"}, "flips must be one of False, True, 'centre'"), ({"scales": "paper"}, "one of paper_64px"),
    ],
)  # fmt: skip
def test_tables_of_crops_that_are_none(options, message):
    with pytest.raises(ia.InstaAugError, match=f"crop: .*{message}"):
        Crop(**options)


def test_the_largest_tables():
    """65,536 boxes, and whole numbers where the side is the whole image."""
    assert families.create(["erase"], {"erase": {"scales": (1.0,), "grids": (1,)}})[0].n_candidates == 2
    assert families.boxes.check_grids("erase", (0.1,), (256,)) is None
    with pytest.raises(ia.InstaAugError, match="erase: grids .* more than 65536 boxes"):
        families.boxes.check_grids("erase", (0.1, 1.0), (256, 1))


def test_crops_of_the_papers_small_images():
    """One whole image, 8 × 8 of three quarters and 16 × 16 of three eighths; outermost ones touch the edges."""
    crop = Crop("paper_64px")
    assert torch.bincount((crop.anchors[:, 2] * 1000).round().long()).nonzero().flatten().tolist() == [375, 750, 1000]
    for side, n in ((1.0, 1), (0.75, 8), (0.375, 16)):
        some = crop.anchors[crop.anchors[:, 2] == side]
        line = torch.linspace(side / 2, 1 - side / 2, n)
        expected = torch.stack([line.repeat(n), line.repeat_interleave(n)], 1)
        assert torch.allclose(some[:, :2], expected, atol=1e-6) and torch.equal(some[:, 2], some[:, 3])


def test_zooms_and_mirrored_centres_follow_the_grid():
    """Of a column of three boxes only the one in the middle of the image is offered mirrored."""
    crop = Crop(scales=(1.0, 0.5), grids=(1, 3), flips="centre", zooms=(0.9, 0.7))
    boxes = [[0.5, 0.5, 1.0, 0.0]] + [[x, y, 0.5, 0.0] for y in (0.25, 0.5, 0.75) for x in (0.25, 0.5, 0.75)]
    boxes += [[0.5, 0.5, 0.9, 0.0], [0.5, 0.5, 0.7, 0.0]] + [[0.5, 0.5, side, 1.0] for side in (1.0, 0.5, 0.9, 0.7)]
    assert torch.allclose(crop.anchors[:, [0, 1, 2, 4]], torch.tensor(boxes), atol=1e-6)
    assert crop.half_cell.tolist() == pytest.approx([0.0] + [0.125] * 9 + [0.0] * 2 + [0.0, 0.125, 0.0, 0.0])
    assert crop.mirror_index() is None and Crop().mirror_index() is None
    assert Crop(flips=True, zooms=(0.5,)).n_candidates == 62


def test_the_nearest_crop_counts_a_mirror_image_most_and_sides_by_their_ratio():
    crop = Crop(scales=(1.0, 0.5), grids=(1, 2), flips=True)
    given = {
        "cx": [0.3, 0.3, 0.5],
        "cy": [0.3, 0.3, 0.5],
        "w": [0.55, 0.55, 0.72],
        "h": [0.5, 0.5, 0.72],
        "flip": [0.0, 1.0, 1.0],
    }
    params = ia.AugmentParams(**{name: torch.tensor(value) for name, value in given.items()})
    # log 0.72 is nearer to log 1 than to log 0.5, and 0.72 itself nearer to 0.5.
    assert crop.nearest(params).tolist() == [1, 6, 5]
    assert crop.nearest(ia.AugmentParams(**{n: params[n] for n in ("cx", "cy", "w", "h")})).tolist() == [1, 1, 0]


def test_jitter_moves_inside_the_image_alone():
    """At an edge only inwards; a side never exceeds the image, and the whole image stays."""
    crop = Crop(scales=(1.0, 0.9), grids=(1, 2), jitter=True)
    fields = crop.take(torch.tensor([0, 1]))
    moved = crop.jittered(fields, torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]))
    stretch = (4 / 3) ** 0.5
    w, h = min(0.9 * stretch, 1), 0.9 / stretch
    assert moved["w"].tolist() == pytest.approx([1, w]) and moved["h"].tolist() == pytest.approx([1, h])
    assert moved["cx"].tolist() == pytest.approx([0.5, 0.5]) and moved["cy"].tolist() == pytest.approx([0.5, 0.5])
    down = crop.jittered(fields, torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    assert down["w"].tolist() == pytest.approx([1, h]) and down["h"].tolist() == pytest.approx([1, 1])
    assert down["cx"].tolist() == pytest.approx([0.5, 0.45]) and down["anchor"].tolist() == [0, 1]
    assert Crop(jitter=True).changes_frame and not Crop().changes_frame


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
    UniformFamily: ["identity"],
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


def test_what_weights_files_hold_of_a_head():
    """Nothing but what is learned, of the sizes that files have had so far: others could not be read."""

    def shapes(name):
        return {key: tuple(value.shape) for key, value in heads()[name].head(SPEC).state_dict().items()}

    assert shapes("anchors") == {
        "reduce.weight": (32, 6, 1, 1), "reduce.bias": (32,), "local.weight": (128, 32 * 12), "local.bias": (128,),
        "context.weight": (128, 5), "direct.weight": (3, 5), "out.weight": (3, 128), "out.bias": (3,),
    }  # fmt: skip
    assert shapes("boxes") == {
        "local.weight": (32, 6), "local.bias": (32,), "context.weight": (32, 5), "weight": (1, 4, 32), "bias": (1, 4), "offset": (30,),
    }  # fmt: skip
    assert shapes("mirrored")["weight"] == (2, 2, 32) and shapes("mirrored")["offset"] == (10,)
    assert shapes("ranges") == {"hidden.weight": (32, 5), "hidden.bias": (32,), "out.weight": (6, 32), "out.bias": (6,)}


def test_a_file_of_boxes_without_offsets_has_none():
    """Those of version 0.1."""
    head, other = (perturbed(Crop()) for _ in range(2))
    state = {name: value for name, value in head.state_dict().items() if name != "offset"}
    other.load_state_dict(state)
    assert (other.offset == 0).all() and torch.equal(other.weight, head.weight)


def test_the_widest_part_is_all_of_it_unless_less_is_asked_for():
    ends = torch.tensor([[0.0], [0.5], [1.0]])
    assert Rotate().widest(ends)["angle"].tolist() == [-180.0, 0.0, 180.0] == Rotate().disturb(ends)["angle"].tolist()
    assert Crop().widest(ends)["anchor"].tolist() == [0, 15, 29]
