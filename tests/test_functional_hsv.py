"""Hue, saturation and value, against Kornia, torchvision and autograd."""

import colorsys
import math

import pytest
import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.families import create
from instaaug_transforms.families.hsv import HSV
from instaaug_transforms.functional import hsv


def test_hsv_identity():
    images = torch.rand(4, 3, 16, 16)
    params = ia.AugmentParams(**{k: torch.full((4,), v) for k, v in HSV().identity().items()})
    assert (functional.apply(images, params, [HSV()]) - images).abs().max() <= 1e-5


@pytest.mark.parametrize("backend", ["torch", "kornia"])
def test_what_comes_out_is_never_below_zero(backend):
    """Of numbers just below it roots are NaN: `adjust_gamma` after it gave thousands of them."""
    images = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    amounts = {
        "hue": torch.linspace(-0.5, 0.5, 8),
        "saturation": torch.full((8,), 2.0),
        "value": torch.linspace(0, 2, 8),
    }
    turned = torch.zeros(8, 3, 40, 40)
    for family, pixels, params, fill in (
        ("hsv", images, amounts, 0.0),
        ("rotate", turned, {"angle": torch.linspace(1, 179, 8)}, 0.7),
        ("rotate", turned, {"angle": torch.linspace(1, 179, 8)}, (0.3, 0.7, 0.1)),
    ):
        out = functional.apply(pixels, ia.AugmentParams(**params), create([family]), fill=fill, backend=backend)
        assert out.min() >= 0 and out.max() <= 1 and F.adjust_gamma(out, 0.5).isfinite().all()


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
    tied = ~differ[:, 0]
    if torch.__version__.startswith("2.11"):  # black lies at the edge of a clamp, whose slope there is another
        tied &= images.amax(1) > 0
    assert torch.allclose(by_pixel.sum(1)[tied], autograd.sum(1)[tied], rtol=1e-6, atol=1e-6)


def test_hsv_in_pieces_is_hsv_at_once(monkeypatch):
    images = torch.rand(5, 3, 12, 20)
    params = ia.AugmentParams(hue=torch.rand(5) - 0.5, saturation=2 * torch.rand(5), value=2 * torch.rand(5))
    whole = hsv.shift_hsv(images, *(field[:, None, None] for field in params.values()))
    found = []
    for chunk in (7, 100, 240, 500, 10**6):  # parts of an image, an image, several, all of them
        monkeypatch.setattr(hsv, "CHUNK", chunk)
        found.append(HSV().colour(images, params))
        assert (found[-1] - whole).abs().max() < 3e-6  # kept off the ends of [0, 1] by less than that
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("levels", [1, 8, 255, 10**7])
@pytest.mark.parametrize(
    "amounts", [(0.0, 1.0, 1.0), (0.3, 2.0, 2.0), (-3.2, 0.2, 1.9), (0.5, 1e-6, 1.0), (1 / 3, 1.0, 1e-7)]
)
def test_colours_in_pieces_stay_between_black_and_white_and_are_colorsys(levels, amounts):
    """Exactly: who takes roots or logarithms next would make NaN of what is a rounding below 0."""
    images = torch.rand(4, 3, 20, 30).mul(levels).round() / levels
    images[1] = images[1] * 1e-6
    images[2] = 1 - images[2] * 1e-6
    images[3, :, :5], images[3, :, 5:8], images[3, :, 8:9] = 0.5, 0.0, 1.0
    out = hsv.shift_hsv_in_pieces(images, *(torch.full((4, 1, 1), amount) for amount in amounts))
    assert out.min() >= 0 and out.max() <= 1
    turn, deeper, lighter = amounts
    for image, row, column in (
        (0, 3, 4),
        (0, 7, 9),
        (1, 2, 2),
        (2, 9, 9),
        (3, 2, 1),
        (3, 6, 1),
        (3, 8, 3),
        (3, 15, 20),
    ):
        h, s, v = colorsys.rgb_to_hsv(*images[image, :, row, column].double().tolist())
        expected = colorsys.hsv_to_rgb((h + turn) % 1, min(s * deeper, 1), min(v * lighter, 1))
        assert out[image, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 100, 240, 500, 10**6])
@pytest.mark.parametrize(("batch", "pixels"), [(1, 1), (5, 240), (3, 7), (2, 101), (4, 100)])
def test_pieces_are_all_there_is_once_and_as_large_as_they_may_be(monkeypatch, chunk, batch, pixels):
    monkeypatch.setattr(hsv, "CHUNK", chunk)
    seen, sizes = torch.zeros(batch, pixels), []
    for some, part in hsv._pieces(torch.empty(batch, 3, 1, pixels)):
        seen[some, part] += 1
        sizes.append(seen[some, part].numel())
    assert (seen == 1).all() and max(sizes) <= chunk
    per_image = math.ceil(pixels / chunk)  # pieces; of several images where they fit
    assert len(sizes) == (batch * per_image if per_image > 1 else math.ceil(batch / (chunk // pixels)))
    assert list(hsv._pieces(torch.empty(0, 3, 1, pixels))) == []


def test_pieces_are_of_65536_pixels():
    """Sixteen images of 64 × 64 pixels, or one of 256 × 256."""
    assert len(list(hsv._pieces(torch.empty(32, 3, 1, 4096)))) == 2
    assert (
        len(list(hsv._pieces(torch.empty(1, 3, 1, 2**16)))) == 1
        and len(list(hsv._pieces(torch.empty(1, 3, 1, 2**17)))) == 2
    )


def test_in_pieces_it_is_differentiable_once_and_says_so():
    images, amounts = torch.rand(2, 3, 4, 4, requires_grad=True), [torch.full((2, 1, 1), 0.7) for _ in range(3)]
    (slope,) = torch.autograd.grad(hsv.shift_hsv_in_pieces(images, *amounts).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_images_that_need_no_slopes_get_none():
    amounts = [torch.full((2, 1, 1), value, requires_grad=True) for value in (0.1, 1.2, 0.7)]
    hsv.shift_hsv_in_pieces(torch.rand(2, 3, 4, 4), *amounts).sum().backward()
    assert all(amount.grad.abs().sum() > 0 for amount in amounts[1:])


@pytest.mark.parametrize("wanted", range(4))
def test_each_gets_its_slopes_also_where_the_others_need_none(wanted):
    """Images, hue, saturation and value, one by one."""
    images, weight = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 4, 5, dtype=torch.float64)
    given = [images, *(torch.full((2, 1, 1), value, dtype=torch.float64) for value in (0.1, 0.9, 0.7))]
    given[wanted].requires_grad_()
    found = []
    for change in (hsv.shift_hsv_in_pieces, hsv.shift_hsv):
        found += torch.autograd.grad((change(*given) * weight).sum(), given[wanted])
    assert torch.allclose(*found, rtol=1e-6, atol=1e-9) and found[0].abs().sum() > 0.01


def test_what_is_exported_shifts_colours_as_what_is_not(monkeypatch):
    """ONNX has no copysign; also where green is as bright as blue, and on grey."""
    images = torch.rand(2, 3, 20, 20).mul(4).round() / 4
    amounts = [torch.tensor([0.2, -0.4])[:, None, None], *(torch.full((2, 1, 1), value) for value in (1.2, 0.8))]
    plain = hsv.shift_hsv(images, *amounts)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    monkeypatch.setattr(torch, "copysign", None)
    assert torch.allclose(hsv.shift_hsv(images, *amounts), plain, atol=1e-6)


def test_colours_by_themselves_take_some_of_a_familys_fields():
    """As `apply` does; of the saturation alone nothing happened."""
    images = torch.rand(2, 3, 5, 5)
    grey = functional.colours(images, create(["hsv"]), ia.AugmentParams(saturation=torch.zeros(2)))
    assert torch.allclose(grey, images.amax(1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-5)
