import math

import pytest
import timm
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure import Probe
from instaaug_transforms.measure.lie import GENERATORS, GEOMETRY, derivative, tangent
from instaaug_transforms.measure.warp import warp

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def moved(images, generator, s, fill):
    """The finite transformation, by the resampling that sweeps use: out→in matrices of a square image."""
    cos, sin, size = math.cos(s), math.sin(s), math.exp(-s)
    rows = {
        "rotate": [[cos, -sin, 0], [sin, cos, 0]],
        "translate_x": [[1, 0, -2 * s], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, -2 * s]],
        "shear_x": [[1, s, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [s, 1, 0]],
        "zoom": [[size, 0, 0], [0, size, 0]],
    }
    if generator == "brightness":
        return (1 + s) * images
    if generator == "contrast":
        grey = (images * torch.tensor([0.2989, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)
        return (1 + s) * images - s * grey.mean((-2, -1), keepdim=True)
    return warp(images, torch.tensor([*rows[generator], [0, 0, 1]], dtype=torch.float64), fill)


def lie(model, data, generators=GENERATORS, layer=None, **arguments):
    return Probe(model, data, layer=layer, progress=False).lie(generators, **arguments)


class Smooth(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("fill", [0.0, "border", "wrap"])
@pytest.mark.parametrize("generator", GENERATORS)
def test_forward_mode_is_the_central_difference(generator, fill):
    model, step = Smooth().double(), 1e-5
    _, ours = derivative(model, IMAGES, tangent(IMAGES, generator, fill))
    ahead, behind = (model(moved(IMAGES, generator, s, fill)) for s in (step, -step))
    central = (ahead - behind) / (2 * step)
    assert (ours - central).norm() < 0.01 * central.norm()


def test_the_report_is_that_derivative():
    model = Smooth()
    report = lie(model, IMAGES.float(), generators=["rotate"], fill=0.0, layer="output")
    direction = tangent(IMAGES.float(), "rotate")
    _, oracle = torch.autograd.functional.jvp(model, IMAGES.float(), direction)  # by two reverse passes
    assert torch.allclose(report.values["rotate"], oracle.square().mean(1), rtol=1e-4)
    (row,) = report.rows()
    relative = math.sqrt(oracle.detach().square().mean() / model(IMAGES.float()).detach().square().mean())
    assert row["relative"] == pytest.approx(relative, rel=1e-4) and "| rotate" in report.summary()


def test_a_convolution_is_locally_equivariant_to_circular_shifts_but_not_invariant():
    arguments = {"generators": ["translate_x", "translate_y"], "fill": "wrap", "layer": "conv"}
    model = Smooth()  # the convolution alone is linear: the derivative commutes with it exactly
    equivariance = lie(model, IMAGES.float(), equivariant=True, **arguments)
    invariance = lie(model, IMAGES.float(), **arguments)
    for generator in ("translate_x", "translate_y"):
        assert equivariance.values[generator].max() < 1e-6 * invariance.values[generator].min()
    pooled = lie(model, IMAGES.float(), generators=["translate_x"], fill="wrap")
    assert pooled.rows()[0]["relative"] < 0.5


def test_units():
    """A horizontal ramp: its mean brightness under a gain, its tangent under shift and zoom, in closed form."""
    ramp = (torch.arange(16.0) / 16).expand(1, 1, 16, 16)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    x = torch.arange(16.0) - 7.5
    assert torch.allclose(tangent(ramp, "translate_x")[inner], torch.tensor(-1.0))  # one width: the whole slope
    assert torch.allclose(tangent(ramp, "translate_y")[inner], torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(tangent(ramp, "zoom")[inner], -x[2:-2].expand(1, 1, 12, 12) / 16)
    assert torch.allclose(tangent(ramp, "rotate")[inner], -x[2:-2, None].expand(1, 1, 12, 12) / 16)


def test_attention_has_a_forward_mode_derivative_too():
    model = timm.create_model("test_vit", num_classes=3, img_size=32, patch_size=8)
    report = lie(model, torch.rand(3, 3, 32, 32), generators=list(GEOMETRY))
    assert report.layer == "input of head" and all(row["lee"] > 0 for row in report.rows())


def test_errors():
    with pytest.raises(ia.InstaAugError, match="at least one, each once, got \\[\\]"):
        lie(Smooth(), IMAGES.float(), generators=[])
    with pytest.raises(ia.InstaAugError, match="each once"):  # whose images would count twice
        lie(Smooth(), IMAGES.float(), generators=["rotate", "rotate"])
    with pytest.raises(ia.InstaAugError, match="got 'solarize'"):
        lie(Smooth(), IMAGES.float(), generators="solarize")
    with pytest.raises(ia.InstaAugError, match="got 'brightness'"):
        lie(Smooth(), IMAGES.float(), generators=["brightness"], equivariant=True)
    with pytest.raises(ia.InstaAugError, match=r"gives \(\d+, 8\), maps .* are needed"):
        lie(Smooth(), IMAGES.float(), generators=["rotate"], equivariant=True)
    views = ia.TTAModel(Smooth(), ia.LearnedAugment(["crop"]), n_views=2)
    with pytest.raises(
        ia.InstaAugError, match="model: it has no forward-mode derivative .* give the classifier inside"
    ):
        lie(views, IMAGES.float(), generators=["rotate"])
