"""Kornia's kernels and this package's own: one result, whoever computes it."""

import kornia.color
import kornia.geometry.transform
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.functional import backends
from instaaug_transforms.functional.compiled import CompiledColour

CHAINS = {
    "crop": {"cx": (0.4, 0.6), "cy": (0.4, 0.6), "w": (0.5, 0.8), "h": (0.5, 0.8), "flip": (0.0, 1.0)},
    "rotate": {"angle": (-180.0, 180.0)},
    "scale": {"log2_scale": (-1.0, 1.0)},
    "shear": {"shear_x": (-40.0, 40.0), "shear_y": (-40.0, 40.0)},
    "translate": {"shift_x": (-0.4, 0.4), "shift_y": (-0.4, 0.4)},
    "hsv": {"hue": (-0.5, 0.5), "saturation": (0.0, 2.0), "value": (0.0, 2.0)},
}
PRODUCTS = [*([name] for name in CHAINS), ["crop", "rotate", "hsv"], ["rotate", "translate", "scale", "shear", "hsv"]]
SHAPES = [(24, 24), (17, 31), (1, 9), (8, 1), (1, 1)]


def drawn(names, n=4):
    spread = {field: bounds for name in names for field, bounds in CHAINS[name].items()}
    fields = {field: low + (high - low) * torch.rand(n) for field, (low, high) in spread.items()}
    return {field: value.round() if field == "flip" else value for field, value in fields.items()}


def through(backend, images, fields, names, weight=None, **kwargs):
    """The result, and with a weight the slopes of its weighted sum."""
    leaves = [images, *fields.values()]
    if weight is not None:
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    params = ia.AugmentParams(**dict(zip(fields, leaves[1:], strict=True)))
    out = functional.apply(leaves[0], params, families.create(names), backend=backend, **kwargs)
    if weight is None:
        return out, []
    slopes = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
    return out.detach(), [slope for slope in slopes if slope is not None]


@pytest.mark.parametrize("names", PRODUCTS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("fill", [0.0, (0.1, 0.5, 0.9)], ids=["black", "grey"])
def test_values_and_slopes_agree(names, shape, mode, fill):
    """Also to a smaller size, where views are antialiased; slopes relative to the largest of their kind."""
    images, fields = torch.rand(4, 3, *shape), drawn(names)
    for size in (None, (11, 7)):
        weight = torch.rand(4, 3, *(size or shape))
        (ours, our_slopes), (theirs, their_slopes) = (
            through(backend, images, fields, names, weight, output_size=size, fill=fill, mode=mode)
            for backend in ("torch", "kornia")
        )
        assert (ours - theirs).abs().max() < 1e-5
        for mine, other in zip(our_slopes, their_slopes, strict=True):
            assert (mine - other).abs().max() <= 1e-4 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_memory_formats_agree(dtype, layout):
    images = torch.rand(4, 3, 20, 26).to(dtype).contiguous(memory_format=layout)
    fields = drawn(["crop", "rotate", "hsv"])
    (ours, _), (theirs, _) = (through(name, images, fields, ["crop", "rotate", "hsv"]) for name in ("torch", "kornia"))
    assert ours.dtype == theirs.dtype == dtype and theirs.is_contiguous(memory_format=layout)
    # Both are rounded from fp32: to neighbours at most.
    assert (ours.double() - theirs.double()).abs().max() <= max(1e-5, torch.finfo(dtype).eps)


def test_colours_without_a_direction_have_finite_slopes():
    """Black, grey and white through Kornia's conversions."""
    for level in (0.0, 0.5, 1.0):
        images = torch.full((1, 3, 4, 4), level)
        _, slopes = through("kornia", images, drawn(["hsv"], 1), ["hsv"], torch.ones(1, 3, 4, 4))
        assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
def test_auto_is_ours_on_a_cpu_and_kornias_elsewhere(device):
    chosen = backends.get("auto", torch.device(device))
    assert chosen is backends.get("torch" if device == "cpu" else "kornia", torch.device(device))


def test_the_named_kernels_run(monkeypatch):
    """Kornia's own functions are reached by "kornia", and by nothing else on a CPU."""
    called = []

    def note(function):
        def call(*args, **kwargs):
            called.append(function.__name__)
            return function(*args, **kwargs)

        return call

    transform, color = kornia.geometry.transform, kornia.color
    for module, name in ((transform, "remap"), (color, "rgb_to_hsv"), (color, "hsv_to_rgb")):
        monkeypatch.setattr(module, name, note(getattr(module, name)))
    images, fields = torch.rand(4, 3, 12, 12), drawn(["rotate", "hsv"])
    for name in ("torch", "auto"):
        through(name, images, fields, ["rotate", "hsv"])
    assert not called
    through("kornia", images, fields, ["rotate", "hsv"])
    assert called == ["remap", "rgb_to_hsv", "hsv_to_rgb"]
    called.clear()
    through("kornia", images, fields, ["rotate"], mode="bicubic")  # which Kornia does not offer
    assert not called


def test_an_unknown_name_is_refused():
    with pytest.raises(ia.InstaAugError, match="backend: expected one of auto, kornia, torch, got 'opencv'"):
        through("opencv", torch.rand(4, 3, 8, 8), drawn(["hsv"]), ["hsv"])
    assert functional.BACKENDS == ("auto", "kornia", "torch")


@pytest.mark.parametrize("backend", ["torch", "kornia"])
def test_either_can_be_compiled(backend):
    images, fields, chain = (
        torch.rand(4, 3, 12, 16),
        drawn(["crop", "rotate", "hsv"]),
        families.create(["crop", "rotate", "hsv"]),
    )
    params = ia.AugmentParams(**fields)

    def call(images):
        return functional.apply(images, params, chain, (9, 9), backend=backend)

    torch._dynamo.reset()
    out = torch.compile(call, fullgraph=True, backend="aot_eager")(images)
    assert torch.allclose(out, call(images), atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_colours_take_the_backend():
    images, fields = torch.rand(4, 3, 12, 16), drawn(["hsv"])
    chain = families.create(["hsv"])
    compiled, params = CompiledColour(chain), ia.AugmentParams(**fields)
    expected = functional.apply(images, params, chain)
    for backend in ("kornia", "torch"):
        out = functional.apply(images, params, chain, colour=compiled, backend=backend)
        assert torch.allclose(out, expected, atol=1e-5)
    torch._dynamo.reset()
