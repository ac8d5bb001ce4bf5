"""Crop, rotation and colour of float batches, against torchvision, Kornia and closed forms."""

import math

import pytest
import torch
from kornia.geometry.transform import rotate as kornia_rotate
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.families.rotate import Rotate
from instaaug_transforms.families.uniform import UniformFamily
from instaaug_transforms.functional import compose
from instaaug_transforms.functional.targets import perspective_coefficients, transform_points

from ._geometry import GEOMETRY, random_params


def test_identity_gives_the_image_back():
    for size in ((64, 64), (224, 224), (31, 57)):
        images = torch.rand(2, 3, *size)
        fields = {k: torch.full((2,), float(v)) for f in GEOMETRY for k, v in f.identity().items()}
        out = functional.apply(images, ia.AugmentParams(**fields), GEOMETRY)
        assert (out - images).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(48, 48), (40, 60), (61, 33)])
def test_images_agree_with_torchvision_perspective(size):
    """Rotation, crop and flip in one matrix, non-square images too; the box turns rigidly in pixels."""
    params, images = random_params(12), torch.rand(12, 3, *size)
    out = functional.apply(images, params, GEOMETRY)
    matrix = functional.geometry_matrix(GEOMETRY, params, *size)
    for b in range(12):
        coefficients = perspective_coefficients(matrix[b], tuple(size), tuple(size))
        oracle = F.perspective(images[b], None, None, coefficients=coefficients, fill=0)
        # torchvision blends with its fill where a sample lies less than half a pixel inside the border; compare the rest.
        seen = F.perspective(torch.ones(1, *size), None, None, coefficients=coefficients, fill=0)
        inside = ((seen - 1).abs() < 1e-6).expand(3, -1, -1)
        assert inside.float().mean() > 0.3
        assert (out[b] - oracle).abs()[inside].max() < 1e-4


def test_rotation_turns_counter_clockwise_as_torchvision_and_kornia():
    images = torch.rand(1, 3, 33, 33)
    out = functional.apply(images, ia.AugmentParams(angle=torch.tensor([30.0])), GEOMETRY)
    assert torch.allclose(out, kornia_rotate(images, torch.tensor([30.0]), align_corners=False), atol=1e-4)
    quarter = functional.apply(images, ia.AugmentParams(angle=torch.tensor([90.0])), GEOMETRY)
    assert torch.allclose(quarter, images.rot90(1, (-2, -1)), atol=1e-4)


def test_crop_agrees_with_torchvision_resized_crop():
    images = torch.rand(1, 3, 40, 60)
    box = {"cx": 0.25 + 15 / 60, "cy": 0.25 + 5 / 40, "w": 0.5, "h": 0.5}  # left 15, top 5, 30 × 20 pixels
    params = ia.AugmentParams(**{k: torch.tensor([v]) for k, v in box.items()})
    oracle = F.resized_crop(images, 5, 15, 20, 30, [40, 60], antialias=False)
    out = functional.apply(images, params, families.create(["crop"]))
    # torchvision cuts before it resizes: at the border of the box it repeats pixels where ours are the image's own.
    assert torch.allclose(out[..., 2:-2, 2:-2], oracle[..., 2:-2, 2:-2], atol=1e-4)


def test_gradients_match_finite_differences():
    """Angle and colour through the resample, in fp32 on a smooth image: central differences within 2 %."""
    grid = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij"))
    smooth = torch.stack(
        [0.5 + 0.3 * (3 * grid[0]).sin(), 0.5 + 0.3 * (2 * grid[1]).cos(), 0.4 + 0.2 * grid[0] * grid[1]]
    )
    weight = smooth.flip(0)
    chain = families.create(["rotate", "hsv"])
    start = {"angle": 20.0, "hue": 0.05, "saturation": 0.8, "value": 0.9}

    def value(**fields):
        params = {k: torch.tensor([v]) if isinstance(v, float) else v for k, v in fields.items()}
        return (functional.apply(smooth[None], ia.AugmentParams(**params), chain) * weight).sum()

    for name, step in {"angle": 0.2, "hue": 1e-3, "saturation": 1e-2, "value": 1e-2}.items():
        leaf = torch.tensor([start[name]], requires_grad=True)
        value(**{**start, name: leaf}).backward()
        up, down = (value(**{**start, name: start[name] + sign * step}) for sign in (1, -1))
        assert leaf.grad.item() == pytest.approx((up - down).item() / (2 * step), rel=0.02, abs=0.05)


def test_fill_and_dtype_and_memory_format():
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    params = ia.AugmentParams(angle=torch.tensor([45.0, 45.0]))
    out = functional.apply(images, params, GEOMETRY, fill=0.5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out[..., 0, 0], torch.tensor(0.5), atol=1e-6)
    half = functional.apply(images.bfloat16(), params, GEOMETRY)
    assert (
        half.dtype == torch.bfloat16 and (half.float() - functional.apply(images, params, GEOMETRY)).abs().max() < 0.02
    )


def test_autocast_does_not_reach_the_geometry():
    images = torch.rand(1, 3, 256, 256)
    params = ia.AugmentParams(
        angle=torch.tensor([10.0]), hue=torch.tensor([0.1]), saturation=torch.ones(1), value=torch.ones(1)
    )
    chain = families.create(["rotate", "hsv"])
    plain = functional.apply(images, params, chain)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(functional.apply(images, params, chain), plain)


def test_turning_keeps_distances_in_pixels_where_height_and_width_differ():
    params = ia.AugmentParams(angle=torch.tensor([37.0]))
    matrix = functional.geometry_matrix(GEOMETRY, params, 40, 90)[0]
    pixels = torch.diag(torch.tensor([45.0, 20.0]))
    linear = pixels @ matrix[:2, :2] @ pixels.inverse()
    assert torch.allclose(linear @ linear.T, torch.eye(2), atol=1e-5)
    assert math.degrees(math.atan2(linear[1, 0], linear[0, 0])) == pytest.approx(37, abs=1e-3)


def test_only_images_that_stay_are_given_back_to_the_bit():
    images, params = torch.rand(4, 3, 56, 56), random_params(4)
    identity = {k: torch.full((4,), float(v)) for f in GEOMETRY for k, v in f.identity().items() if k in params}
    stays = torch.tensor([True, False, True, False])
    out = functional.apply(images, ia.AugmentParams(**identity).where(stays, params), GEOMETRY)
    moved = functional.apply(images, params, GEOMETRY)
    assert torch.equal(out[stays], images[stays]) and torch.equal(out[~stays], moved[~stays])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("output_size", [None, (9, 14), (40, 50)])
def test_part_by_part_is_all_at_once(monkeypatch, layout, output_size):
    """Where nothing needs a gradient the batch goes through in parts; where something does, in one."""
    chain = families.create(["crop", "rotate", "hsv"])
    images = torch.rand(7, 3, 20, 30).contiguous(memory_format=layout)
    colours = {"hue": torch.rand(7) - 0.5, "saturation": 2 * torch.rand(7), "value": 2 * torch.rand(7)}
    params = random_params(7).replace(**colours)
    at_once = functional.apply(images.clone().requires_grad_(), params, chain, output_size, fill=0.3)
    for pixels in (1, 1300, 10**6):
        monkeypatch.setattr(functional.compose, "CHUNK", pixels)
        out = functional.apply(images, params, chain, output_size, fill=0.3)
        assert (out - at_once).abs().max() < 1e-5 and out.is_contiguous(memory_format=layout)


def test_bicubic_does_not_leave_the_range():
    """At a step it overshoots: torchvision's resize shows by how much."""
    step = torch.zeros(1, 3, 12, 12)
    step[..., 4:8] = 1
    oracle = F.resize(step, [24, 36], F.InterpolationMode.BICUBIC, antialias=False)
    assert oracle.min() < -0.05 and oracle.max() > 1.05
    identity = {k: torch.full((1,), float(v)) for k, v in GEOMETRY[0].identity().items()}
    out = functional.apply(step, ia.AugmentParams(**identity), GEOMETRY[:1], (24, 36), mode="bicubic")
    assert torch.allclose(out, oracle.clamp(0, 1), atol=1e-5)


class Tilt(Rotate):
    """What points would obey and images would not."""

    name = "tilt"
    fields = ("tilt",)

    def __init__(self) -> None:
        UniformFamily.__init__(self, {"tilt": (-0.5, 0.5)})

    def identity(self):
        return {"tilt": 0.0}

    def matrix(self, params, aspect):
        matrix = torch.eye(3).repeat(len(params.tilt), 1, 1)
        matrix[:, 2, 0] = params.tilt
        return matrix


@pytest.mark.parametrize("others", [[], ["crop"], ["crop", "rotate"]])
def test_a_perspective_is_refused(others):
    chain = families.create([*others, Tilt()])
    params = random_params(3).replace(tilt=torch.tensor([0.0, 0.2, 0.0]))
    with pytest.raises(ia.InstaAugError, match=r"Tilt\(\): expected affine.*\(0, 0, 1\).*, got \(0.2\d*, 0.0, 1.0\)"):
        functional.apply(torch.rand(3, 3, 8, 8), params, chain)
    points = tv_tensors.KeyPoints([[1.0, 2.0]], canvas_size=(8, 8))
    with pytest.raises(ia.InstaAugError, match="expected affine"):
        transform_points(points, params.index([1]), chain, None)
    transform_points(points, params.index([0]), chain, None)


def test_neither_autocast_nor_fast_products_reach_the_matrix():
    """bf16 products would move the corner of a photograph by a pixel."""
    params = random_params(5)
    matrix = functional.geometry_matrix(GEOMETRY, params, 300, 400)
    exact = functional.geometry_matrix(GEOMETRY, params.map(torch.Tensor.double), 300, 400)
    assert (matrix - exact).abs().max() < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(functional.geometry_matrix(GEOMETRY, params, 300, 400), matrix)


def parts_of(images, **options):
    """How many images colour gets at a time."""
    seen = []
    params = random_params(len(images))
    functional.apply(images, params, GEOMETRY, colour=lambda out, *_: seen.append(len(out)) or out, **options)
    return seen


def test_parts_are_as_many_images_as_fit_but_no_fewer_than_threads(monkeypatch):
    images = torch.rand(7, 3, 8, 8)
    torch.set_num_threads(1)
    monkeypatch.setattr(compose, "CHUNK", 128)  # pixels of the result
    monkeypatch.setattr(compose, "WHOLE", 128)
    assert parts_of(images) == [2, 2, 2, 1] and parts_of(images, output_size=(4, 8)) == [4, 3]
    assert parts_of(images, output_size=(16, 16)) == [1] * 7
    assert parts_of(images[:2]) == [2] and parts_of(images[:0]) == [0]
    torch.set_num_threads(3)
    assert parts_of(images) == [3, 3, 1]
    learned = images.clone().requires_grad_()
    assert parts_of(learned) == [7]
    with torch.no_grad():
        assert parts_of(learned) == [3, 3, 1]
    params = random_params(7).map(lambda field: field.requires_grad_())
    seen = []
    functional.apply(images, params, GEOMETRY, colour=lambda out, *_: seen.append(len(out)) or out)
    assert seen == [7]


@pytest.mark.parametrize(
    ("side", "coloured", "whole", "parts"), [(512, False, 16, 1), (256, True, 16, 4), (32, False, 4096, 256)]
)
def test_few_pixels_in_one_go_and_many_in_parts(side, coloured, whole, parts):
    torch.set_num_threads(1)
    one = torch.rand(1, 1, 1, 1)
    assert compose._step(one.expand(whole, -1, -1, -1), (side, side), coloured) is None
    assert compose._step(one.expand(whole + 1, -1, -1, -1), (side, side), coloured) == parts


def test_which_chains_stay_inside_an_image():
    turn, crop, jittered = (
        families.create(["turn"]),
        families.create(["crop"]),
        families.create(["crop"], {"crop": {"jitter": True}}),
    )
    box = {name: torch.full((1,), value) for name, value in {"cx": 0.5, "cy": 0.5, "w": 0.5, "h": 0.5}.items()}
    boxed, both = (
        ia.AugmentParams(**box),
        ia.AugmentParams(**box, turn_angle=torch.tensor([90.0]), angle=torch.tensor([3.0])),
    )
    inside = functional.compose.stay_inside
    assert inside(crop, boxed, 8, 9) and inside([*crop, *turn], both, 8, 8) and not inside([*crop, *turn], both, 8, 9)
    assert inside(jittered, both, 8, 8) and not inside([*jittered, *turn], both, 8, 8)  # a stretched box is no square
    rotate = families.create(["rotate", "hsv"])
    assert not inside([*crop, *rotate], both, 8, 8) and inside([*crop, *rotate], boxed, 8, 8)  # which has no angle
    assert not inside([*turn, *jittered], both, 8, 9) and inside([], boxed, 8, 9)


def test_sides_change_places_unless_the_size_is_given():
    images, turn = torch.rand(2, 3, 10, 16), families.create(["turn"])
    params = ia.AugmentParams(turn_angle=torch.full((2,), 90.0))
    swapped = functional.apply(images, params, turn, swap=True)
    assert torch.equal(swapped, images.rot90(1, (-2, -1)))
    given = [functional.apply(images, params, turn, (12, 12), swap=swap) for swap in (False, True)]
    assert given[0].shape[2:] == (12, 12) and torch.equal(*given)
    assert functional.apply(images, params, turn).shape == images.shape


def test_a_crop_that_touches_the_edge_and_is_turned_continues_the_border():
    """On a canvas whose sides change places, too: nothing is blended into what lies inside the image."""
    image = torch.rand(1, 3, 10, 16)
    box = {"cx": 0.25, "cy": 0.25, "w": 0.5, "h": 0.5}
    corner = {name: torch.tensor([value]) for name, value in box.items()}
    turned = ia.AugmentParams(**corner, turn_angle=torch.tensor([90.0]))
    found = functional.apply(image, turned, families.create(["crop", "turn"]), fill=1.0, swap=True)
    upright = functional.apply(image, ia.AugmentParams(**corner), families.create(["crop"]), fill=1.0)
    assert found.shape[2:] == (16, 10) and torch.allclose(found, upright.rot90(1, (-2, -1)), atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("angles", [[0.0] * 4, [0.0, 180.0, 0.0, 90.0], [180.0] * 4])
def test_a_crop_that_is_not_turned_knows_nothing_of_turns(angles, mode):
    """Drawn twice as large, a quarter at the corner begins with the corner's pixel; where an image is turned, outside blends in."""
    aug, images = ia.LearnedAugment(["crop", "turn"], interpolation=mode), torch.rand(4, 3, 16, 24) / 2 + 0.5
    quarter = {"cx": torch.full((4,), 0.25), "cy": torch.full((4,), 0.25), "w": torch.full((4,), 0.5)}
    out = aug.apply(images, ia.AugmentParams(**quarter, h=quarter["w"], turn_angle=torch.tensor(angles)))
    still, corner = torch.tensor(angles) == 0, images[:, :, 0, 0]
    if mode != "bicubic":
        assert torch.allclose(out[still][:, :, 0, 0], corner[still])
    alone = F.resized_crop(images, 0, 0, 8, 12, [16, 24], InterpolationMode(mode), antialias=False)
    assert torch.allclose(out[still][:, :, :10, :14], alone[still][:, :, :10, :14].clamp(0, 1), atol=1e-5)
    upside_down = torch.tensor(angles) == 180
    darker = 1.0 if mode == "nearest" else 0.9
    assert (out[upside_down][:, :, -1, -1] <= darker * corner[upside_down] + 1e-5).all()


@pytest.mark.parametrize("fill", [0.0, 0.5])
@pytest.mark.parametrize("output_size", [None, (8, 12)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_while_compiling_too(mode, output_size, fill):
    aug = ia.LearnedAugment(["crop", "turn"], interpolation=mode, output_size=output_size, fill=fill)
    every = {name: column.float() for name, column in CandidateProduct(aug.anchor_families).candidates().items()}
    params, images = ia.AugmentParams(**every), torch.rand(120, 3, 16, 24)
    torch.compiler.reset()
    compiled = torch.compile(aug.apply, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(images, params), aug.apply(images, params), atol=1e-4)


@pytest.mark.parametrize("names", [["crop", "rotate"], ["crop", "rotate", "hsv"], ["hsv"]])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_many_images_go_part_by_part_with_the_same_result(names, layout, monkeypatch):
    images = torch.rand(7, 3, 20, 26).contiguous(memory_format=layout)
    params, chain = random_params(7), families.create(names)
    whole = functional.apply(images, params, chain)
    for limit in ("WHOLE", "WHOLE_WITH_COLOURS"):
        monkeypatch.setattr(compose, limit, 0)
    monkeypatch.setattr(compose, "CHUNK", 3 * 20 * 26)
    parts = functional.apply(images, params, chain)
    assert torch.equal(parts, whole) and parts.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    "params", [random_params(1), random_params(3), random_params(4).map(lambda field: field[None])]
)
def test_parameters_are_one_for_each_image(params):
    with pytest.raises(
        ia.InstaAugError, match=r"params: expected batch_shape \(4,\).*, got \((1,|3,|1, 4)\); of \(n, B\)"
    ):
        functional.apply(torch.rand(4, 3, 8, 8), params, GEOMETRY)


@pytest.mark.parametrize("names", ["rotate", ["rotate"], [*GEOMETRY, "hsv"]])
def test_names_are_no_families(names):
    for apply in (functional.apply, ia.LearnedAugment(["rotate"]).apply):
        with pytest.raises(ia.InstaAugError, match=r"families: expected families.*aug.families.*got .*(rotate|hsv)"):
            apply(torch.rand(4, 3, 8, 8), random_params(4), families=names)


def test_matrices_are_of_one_view_each():
    """Of those of several views they were no affine maps, and the error spoke of perspectives."""
    params = random_params(6).map(lambda field: field.unflatten(0, (2, 3)))
    with pytest.raises(ia.InstaAugError, match=r"params: expected \(B,\), got \(2, 3\); params.flatten\(\)"):
        functional.geometry_matrix(GEOMETRY, params, 8, 8)
    assert functional.geometry_matrix(GEOMETRY, params.flatten(), 8, 8).shape == (6, 3, 3)
