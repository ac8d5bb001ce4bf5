import math

import pytest
import torch
import torch.nn.functional as F2
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.geometry.transform import rotate as kornia_rotate
from kornia.geometry.transform import warp_affine
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.families.hsv import HSV
from instaaug_transforms.functional import hsv
from instaaug_transforms.functional.targets import perspective_coefficients, transform_mask, transform_points

GEOMETRY = families.create(["crop", "rotate"])


def random_params(n: int, seed: int = 0) -> ia.AugmentParams:
    g = torch.Generator().manual_seed(seed)
    side = 0.4 + 0.5 * torch.rand(n, generator=g)
    centre = side / 2 + (1 - side) * torch.rand(2, n, generator=g)
    angle = 360 * torch.rand(n, generator=g) - 180
    return ia.AugmentParams(cx=centre[0], cy=centre[1], w=side, h=side, flip=(angle > 0).float(), angle=angle)


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
        coefficients = perspective_coefficients(matrix[b], *size)
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


def test_a_large_crop_is_antialiased_as_torchvision():
    images = torch.rand(1, 3, 200, 300)
    params = ia.AugmentParams(**{k: torch.tensor([v]) for k, v in {"cx": 0.5, "cy": 0.5, "w": 0.8, "h": 0.8}.items()})
    out = functional.apply(images, params, families.create(["crop"]), output_size=(20, 30))
    oracle = F.resized_crop(images, 20, 30, 160, 240, [20, 30], antialias=True)
    aliased = F.resized_crop(images, 20, 30, 160, 240, [20, 30], antialias=False)
    assert (out - oracle).abs().mean() < 0.02 < (out - aliased).abs().mean()


def test_shrinking_does_not_depend_on_the_batch():
    images, params = torch.rand(5, 3, 50, 70), random_params(5)
    together = functional.apply(images, params, GEOMETRY, (16, 16))
    alone = torch.cat([functional.apply(images[b : b + 1], params.index([b]), GEOMETRY, (16, 16)) for b in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_masks_boxes_and_keypoints_agree_with_torchvision():
    size = (48, 64)
    params = random_params(8, seed=4)
    matrix = functional.geometry_matrix(GEOMETRY, params, *size)
    mask = torch.zeros(48, 64, dtype=torch.uint8)
    mask[10:30, 20:50] = 3
    boxes = tv_tensors.BoundingBoxes([[20, 10, 50, 30], [2, 3, 9, 44]], format="XYXY", canvas_size=size)
    points = tv_tensors.KeyPoints([[20.0, 10.0], [33.0, 27.0]], canvas_size=size)
    for b in range(8):
        one, coefficients = params.index([b]), perspective_coefficients(matrix[b], *size)
        oracle = F.perspective(
            mask[None], None, None, coefficients=coefficients, interpolation=F.InterpolationMode.NEAREST
        )
        out = transform_mask(tv_tensors.Mask(mask), one, GEOMETRY, None)
        assert isinstance(out, tv_tensors.Mask) and out.dtype == torch.uint8
        assert (out != oracle[0]).float().mean() < 2e-3  # ties of nearest
        # Points: map the result back by hand, through the out→in matrix.
        moved = transform_points(points, one, GEOMETRY, None)
        normal = torch.cat([moved / torch.tensor([32.0, 24.0]) - 1, torch.ones(2, 1)], 1)
        back = (normal @ matrix[b].T)[:, :2]
        clamped = (moved <= 0).any(1) | (moved[:, 0] >= 63.9) | (moved[:, 1] >= 47.9)
        expected = points / torch.tensor([32.0, 24.0]) - 1
        assert (back - expected)[~clamped].abs().sum() < 1e-4
        corners = tv_tensors.KeyPoints([[20.0, 10], [50, 10], [20, 30], [50, 30]], canvas_size=size)
        extent = transform_points(corners, one, GEOMETRY, None)
        low, high = extent.amin(0), extent.amax(0)
        inside = (low >= 0).all() and (high <= torch.tensor([64.0, 48.0])).all()  # cut ones: tests/test_boxes.py
        box = transform_points(boxes, one, GEOMETRY, None)[0]
        if inside:
            assert torch.allclose(box.float(), torch.cat([low, high]), atol=1.01)  # integer boxes round


def test_boxes_and_points_follow_the_output_size():
    boxes = tv_tensors.BoundingBoxes([[16.0, 12.0, 48.0, 36.0]], format="XYXY", canvas_size=(48, 64))
    params = ia.AugmentParams(**{k: torch.tensor([v]) for k, v in {"cx": 0.5, "cy": 0.5, "w": 0.5, "h": 0.5}.items()})
    out = transform_points(boxes, params, families.create(["crop"]), (24, 32))
    assert out.canvas_size == (24, 32) and torch.allclose(
        out.float(), torch.tensor([[0.0, 0.0, 32.0, 24.0]]), atol=1e-3
    )


def test_hsv_identity():
    images = torch.rand(4, 3, 16, 16)
    params = ia.AugmentParams(**{k: torch.full((4,), v) for k, v in HSV().identity().items()})
    assert (functional.apply(images, params, [HSV()]) - images).abs().max() <= 1e-5


def test_hsv_agrees_with_torchvision():
    images = torch.rand(1, 3, 16, 16) * 0.5

    def changed(**fields):
        full = {k: torch.tensor([v]) for k, v in {**HSV().identity(), **fields}.items()}
        return functional.apply(images, ia.AugmentParams(**full), [HSV()])

    assert torch.allclose(changed(hue=0.2), F.adjust_hue(images, 0.2), atol=1e-4)
    assert torch.allclose(changed(value=1.5), F.adjust_brightness(images, 1.5), atol=1e-4)
    grey = changed(saturation=0.0)
    assert (grey.amax(1) - grey.amin(1)).max() < 1e-5
    assert torch.allclose(changed(hue=0.5), changed(hue=-0.5), atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_colour_gradients_are_finite_on_black_grey_and_white(level):
    images = torch.full((1, 3, 8, 8), level, requires_grad=True)
    fields = {
        k: torch.tensor([v], requires_grad=True) for k, v in {"hue": 0.1, "saturation": 1.2, "value": 0.9}.items()
    }
    functional.apply(images, ia.AugmentParams(**fields), [HSV()]).sum().backward()
    assert images.grad.isfinite().all() and all(f.grad.isfinite().all() for f in fields.values())


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


def kornia_hsv(images, hue, saturation, value):
    """The same change by Kornia's conversions there and back."""
    h, s, v = rgb_to_hsv(images.clamp(0, 1)).unbind(1)
    h = torch.remainder(h + 2 * math.pi * hue[:, None, None], 2 * math.pi)
    s, v = (s * saturation[:, None, None]).clamp(0, 1), (v * value[:, None, None]).clamp(0, 1)
    return hsv_to_rgb(torch.stack([h, s, v], dim=1))


@pytest.mark.parametrize("levels", [None, 255, 4])
def test_hsv_agrees_with_kornia_and_so_do_its_gradients(levels):
    """Also on images of few levels, where channels tie and pixels are grey."""
    images = torch.rand(8, 3, 24, 40)
    if levels:
        images = (images * levels).round() / levels
    amounts = {"hue": torch.rand(8) - 0.5, "saturation": 2 * torch.rand(8), "value": 2 * torch.rand(8)}
    weight = torch.rand_like(images)
    found = []
    for change in (lambda x, **a: HSV().colour(x, ia.AugmentParams(**a)), kornia_hsv):
        leaves = {name: amount.clone().requires_grad_() for name, amount in amounts.items()}
        x = images.clone().requires_grad_()
        out = change(x, **leaves)
        (out * weight).sum().backward()
        found.append((out.detach(), x.grad, *(leaf.grad for leaf in leaves.values())))
    (ours, by_pixel, *ours_amounts), (theirs, kornia_by_pixel, *theirs_amounts) = found
    assert (ours - theirs).abs().max() < 1e-5
    for mine, other in zip(ours_amounts, theirs_amounts, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-3)
    # Where two channels tie for the largest or the smallest, or one is at its limit, either side's slope is right.
    ordered = images.sort(1).values
    tied = (ordered.diff(dim=1) < 1e-4).any(1, keepdim=True) | (ordered[:, :1] == 0) | (ordered[:, 2:] == 1)
    tied = tied.expand_as(images)
    assert (~tied).float().mean() > 0.05
    difference = (by_pixel - kornia_by_pixel).abs() / kornia_by_pixel.abs().clamp(min=1)
    assert difference[~tied].max() < 2e-3 and by_pixel.isfinite().all()


@pytest.mark.parametrize("levels", [None, 255])
def test_hsv_by_hand_backward_is_autograds(levels):
    """What the CPU takes against the formula that other devices and the compiler take, in double precision."""
    images = torch.rand(3, 3, 15, 31, dtype=torch.float64)
    if levels:
        images = (images * levels).round() / levels
    images[0, :, 0, :5], images[0, :, 1, :5], images[0, :, 2, :5] = 0.0, 1.0, 0.5  # black, white, grey
    amounts = [torch.rand(3, 1, 1, dtype=torch.float64) * 2 - shift for shift in (1, 0, 0)]
    weight, found = torch.rand_like(images), []
    for change in (hsv.shift_hsv_in_pieces, hsv.shift_hsv):
        leaves = [tensor.clone().requires_grad_() for tensor in (images, *amounts)]
        out = change(*leaves)
        found.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    (out, by_pixel, *slopes), (same, autograd, *expected) = found
    assert (out - same).abs().max() < 1e-12
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(slopes, expected, strict=True))
    # `torch.maximum` halves the slope between channels that tie; here the first has it.
    ordered = images.sort(1).values
    differ = (ordered.diff(dim=1) > 0).all(1, keepdim=True).expand_as(images)
    assert torch.allclose(by_pixel[differ], autograd[differ], rtol=1e-6, atol=1e-6)
    assert torch.allclose(by_pixel.sum(1)[~differ[:, 0]], autograd.sum(1)[~differ[:, 0]], rtol=1e-6, atol=1e-6)


def test_hsv_in_pieces_is_hsv_at_once(monkeypatch):
    images = torch.rand(5, 3, 12, 20)
    params = ia.AugmentParams(hue=torch.rand(5) - 0.5, saturation=2 * torch.rand(5), value=2 * torch.rand(5))
    whole = hsv.shift_hsv(images, *(field[:, None, None] for field in params.values()))
    for chunk in (7, 100, 240, 500, 10**6):  # parts of an image, an image, several, all of them
        monkeypatch.setattr(hsv, "CHUNK", chunk)
        assert (HSV().colour(images, params) - whole).abs().max() < 1e-6


def warp_by_kornia(images, matrix, size, padding):
    """Kornia takes in→out in pixels, pixel centres at whole numbers."""

    def to_pixels(height, width):
        rows = [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]]
        return torch.tensor(rows, dtype=matrix.dtype)

    forward = to_pixels(*size) @ matrix.inverse() @ to_pixels(*images.shape[-2:]).inverse()
    return warp_affine(images, forward[:, :2], size, padding_mode=padding, align_corners=False)


@pytest.mark.parametrize("size", [(48, 48), (40, 61), (96, 50)])
def test_resample_agrees_with_kornia_and_so_do_its_gradients(size):
    """In double precision, where both are right to the last digits that matter."""
    for inside in (False, True):
        images = torch.rand(6, 3, 40, 50, dtype=torch.float64, requires_grad=True)
        matrix = functional.geometry_matrix(GEOMETRY, random_params(6), 40, 50).double().requires_grad_()
        out = functional.resample(images, matrix, size, inside=inside)
        oracle = warp_by_kornia(images, matrix, size, "border" if inside else "zeros")
        assert (out - oracle).abs().max() < 1e-9
        weight = torch.rand_like(out)
        (by_pixel, by_matrix), (kornia_by_pixel, kornia_by_matrix) = (
            torch.autograd.grad((o * weight).sum(), (images, matrix)) for o in (out, oracle)
        )
        assert (by_pixel - kornia_by_pixel).abs().max() < 1e-9
        # The last row is (0, 0, 1) whatever φ says; Kornia's inverses have a slope there.
        assert torch.allclose(by_matrix[:, :2], kornia_by_matrix[:, :2], rtol=1e-9)


def test_sampling_grid_is_that_of_torch():
    matrix = functional.geometry_matrix(GEOMETRY, random_params(9), 31, 57)
    grid = functional.sampling_grid(matrix, (31, 57))
    assert torch.allclose(grid, F2.affine_grid(matrix[:, :2], [9, 3, 31, 57], align_corners=False), atol=1e-6)


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
