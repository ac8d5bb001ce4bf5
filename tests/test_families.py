import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.families.anchors import AnchorFamily
from instaaug_transforms.families.crop import Crop, crop_within
from instaaug_transforms.families.hsv import HSV
from instaaug_transforms.families.rotate import Rotate
from instaaug_transforms.families.uniform import UniformFamily
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
    with pytest.raises(ia.InstaAugError, match="n: expected a whole number ≥ 1"):
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
    """A fraction of the whole range, half of it to either side; where the identity is nearer to an edge, as much of it from that
    edge: what should be all of it, or a quarter, ended in the middle."""
    ends = torch.tensor([0.0, 1.0])
    turns = Rotate(bounds=(-180.0, 180.0)).widest(ends[:, None], fraction)["angle"]
    assert turns.tolist() == pytest.approx([-180 * fraction, 180 * fraction])
    for bounds, expected in (((0.9, 3.9), (0.9, 0.9 + 3 * fraction)), ((0.0, 1.0), (1 - fraction, 1.0))):
        found = HSV(value=bounds).widest(ends[:, None].expand(2, 3), fraction)["value"].tolist()
        assert found == pytest.approx(expected)


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
