"""torch.compile, autocast, memory formats, and torch.func on the predictor."""

import copy
import functools
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor
from torch._inductor.utils import fresh_inductor_cache
from torch.func import functional_call, stack_module_state, vmap
from torchvision import tv_tensors
from torchvision.transforms import v2

import instaaug_transforms as ia

from .conftest import make_lively

EVERY = ["crop", "rotate", "translate", "scale", "shear", "hsv", "erase", "blur", "local_colour"]


@functools.cache
def compiles_tv_tensors() -> bool:
    """Whether this torch compiles anything of a tv_tensor at all: 2.14.1 does not, 2.15 does."""
    try:
        torch.compile(lambda x: x * 2, fullgraph=True, backend="aot_eager")(tv_tensors.Image(torch.rand(1, 3, 2, 2)))
    except TypeError as error:
        assert "Multiple dispatch failed" in str(error)
        return False
    return True


def image_of(images: torch.Tensor, kind: type) -> torch.Tensor:
    """``images`` as a tv_tensor of that kind, if torch compiles those."""
    if kind is torch.Tensor:
        return images
    if not compiles_tv_tensors():
        pytest.skip(f"torch {torch.__version__} cannot compile x * 2 of a tv_tensor")
    return kind(images)


@pytest.fixture(autouse=True)
def _nothing_compiled_yet():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("families", [["crop", "rotate", "hsv"], pytest.param(EVERY, marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize("kind", [torch.Tensor, tv_tensors.Image, tv_tensors.Video], ids=lambda kind: kind.__name__)
def test_fullgraph(families, kind, images):
    """No graph break, the kind of the input, and the numbers of the eager call under the same seed."""
    aug = make_lively(families)
    given = image_of(images, kind)
    compiled = torch.compile(aug, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.manual_seed(3)
        out = compiled(given)
        torch.manual_seed(3)
        expected = aug(given)
    assert type(out) is type(expected) is kind
    assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_fullgraph_to_another_size(images, interpolation, dynamic):
    """Antialiased as the eager call, whose copies have a size for every image."""
    images = images[..., :28]
    for families in (["crop"], ["crop", "rotate", "scale"]):
        aug = make_lively(families, output_size=(20, 13), interpolation=interpolation, fill=(0.2, 0.5, 0.9))
        params = aug.distribution(images).sample()
        compiled = torch.compile(aug, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        with torch.no_grad():
            out, expected = compiled(images, params=params), aug(images, params=params)
        assert out.shape == (6, 3, 20, 13)
        assert ((out - expected).abs() > 1e-5).float().mean() < (0.01 if interpolation == "nearest" else 1e-9)


def close(slope: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to roundings: of few images φ adds up its patches in another order where it is not compiled."""
    return bool((slope - other).abs().max() <= 2e-4 * slope.abs().max())


def test_fullgraph_gradients_through_a_smaller_size(images):
    slopes = []
    for compiled in (False, True):
        aug = make_lively(["rotate", "scale"], output_size=16)
        run = torch.compile(aug, fullgraph=True, backend="aot_eager") if compiled else aug
        torch.manual_seed(3)
        run(images).square().mean().backward()
        slopes.append([p.grad for p in aug.predictor.parameters()])
    assert all(close(a, b) for a, b in zip(*slopes, strict=True))


def test_fullgraph_with_labels_and_masks(images):
    aug = make_lively(["crop", "rotate"])
    compiled = torch.compile(aug, fullgraph=True, backend="aot_eager")
    masks, labels = tv_tensors.Mask((images[:, :1] > 0.5).to(torch.uint8)), torch.arange(6)
    with torch.no_grad():
        out, moved, same = compiled(image_of(images, tv_tensors.Image), masks, labels)
    assert isinstance(moved, tv_tensors.Mask) and moved.shape == masks.shape and torch.equal(same, labels)
    assert out.shape == images.shape


@pytest.mark.parametrize("families", [["crop"], ["rotate"], ["crop", "rotate", "hsv"]], ids="+".join)
def test_fullgraph_of_views_that_are_chosen(families, images):
    """Answers are the mean of a linear classifier's on the eager call's views."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 4)).eval()
    aug = make_lively(families).eval()
    model = ia.TTAModel(classifier, aug, n_views=3, aggregate="mean_logit", include_identity=False).eval()
    with torch.no_grad():
        out = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
        views, _ = aug.views(images, 3, select="top")
        assert torch.allclose(out, torch.stack([classifier(view) for view in views]).mean(0), atol=1e-5)


def test_fullgraph_gradients_reach_the_predictor(images):
    grads = []
    for compiled in (False, True):
        aug = make_lively(["rotate", "hsv"])
        torch.manual_seed(3)
        run = torch.compile(aug, fullgraph=True, backend="aot_eager") if compiled else aug
        run(images).square().mean().backward()
        grads.append([p.grad for p in aug.predictor.parameters()])
    assert all(close(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.slow
def test_fullgraph_through_the_default_backend(images):
    aug = make_lively(["crop", "rotate", "hsv"])
    compiled = torch.compile(aug, fullgraph=True)
    params = aug.distribution(images).sample()
    with torch.no_grad():
        assert torch.allclose(compiled(images, params=params), aug(images, params=params), atol=1e-4)
        assert compiled(image_of(images, tv_tensors.Image)).shape == images.shape


def test_compiled_colour_gives_the_same(images):
    plain, aug = make_lively(["rotate", "hsv"]), make_lively(["rotate", "hsv"], compile=True)
    params = plain.distribution(images).rsample()
    out = aug(images, params=params)
    assert torch.allclose(out, plain(images, params=params), atol=1e-5)
    out.sum().backward()
    assert all(p.grad is not None for p in plain.predictor.heads.parameters())
    other = images[:3, :, :20]
    part = params.index(slice(0, 3)).detach()
    assert torch.allclose(aug(other, params=part), plain(other, params=part), atol=1e-5)
    assert repr(aug).endswith("compile=True)") and "compile" not in repr(plain)
    for again in (copy.deepcopy(aug), pickle.loads(pickle.dumps(aug))):
        assert torch.allclose(again(images, params=params), out, atol=1e-5)


def test_compiled_colour_is_not_saved(tmp_path):
    make_lively(["hsv"], compile=True).save(tmp_path / "a.safetensors")
    assert "compile" not in repr(ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors"))
    assert "compile=True" in repr(ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors", compile=True))


def test_without_a_compiler_it_warns_once_and_goes_on(images):
    plain, aug = make_lively(["hsv"]), make_lively(["hsv"], compile=True)
    params = plain.distribution(images).sample()
    with fresh_inductor_cache(), inductor.patch({"cpp.cxx": ("/nowhere/g++",)}):
        with pytest.warns(UserWarning, match=r"compile: torch.compile failed.*Install a C\+\+ compiler.*compile=False"):
            out = aug(images, params=params)
        assert torch.equal(out, plain(images, params=params))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            aug(images, params=params)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_geometry_and_colour_in_fp32(dtype, images):
    aug, model = make_lively(["crop", "rotate", "hsv"]), nn.Conv2d(3, 4, 3)
    params = aug.distribution(images).sample()
    with torch.autocast("cpu", dtype=dtype):
        out = aug(images, params=params)
        distribution = aug.distribution(images)
        logits = model(aug(images))
    assert out.dtype == torch.float32 and logits.dtype == dtype
    assert torch.equal(out, aug(images, params=params))
    assert torch.equal(
        distribution.parts["rotate"].fields["angle"].lo, aug.distribution(images).parts["rotate"].fields["angle"].lo
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_come_back_as_they_are(dtype, images):
    aug = make_lively(["crop", "rotate", "hsv"])
    params = aug.distribution(images).sample()
    out = aug(images.to(dtype), params=params)
    assert out.dtype == dtype and (out.float() - aug(images, params=params)).abs().max() < 0.02


def test_gradient_scaling(images):
    aug, model = make_lively(["rotate", "hsv"]), nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    optimizer = torch.optim.SGD([*aug.parameters(), *model.parameters()], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    before = [p.clone() for p in aug.predictor.heads.parameters()]
    with torch.autocast("cpu", dtype=torch.float16):
        loss = nn.functional.cross_entropy(model(aug(images)), torch.tensor([0, 1, 2, 0, 1, 2]))
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    moved = [p for b, p in zip(before, aug.predictor.heads.parameters(), strict=True) if not torch.equal(b, p)]
    assert moved and all(p.isfinite().all() for p in aug.parameters())


@pytest.mark.parametrize("families", [["crop"], ["hsv"], ["crop", "rotate", "hsv"]])
def test_channels_last_is_kept(families, images):
    aug = make_lively(families)
    last = images.contiguous(memory_format=torch.channels_last)
    for given in (last, tv_tensors.Image(last), last.bfloat16()):
        assert aug(given).is_contiguous(memory_format=torch.channels_last)
    assert aug(images).is_contiguous()
    params = aug.distribution(images).sample()
    assert torch.allclose(aug(last, params=params), aug(images, params=params), atol=1e-5)
    pipeline = v2.Compose([aug, v2.Normalize([0.5] * 3, [0.5] * 3)])
    assert pipeline(last).is_contiguous(memory_format=torch.channels_last)


def test_functional_call_on_the_predictor(images):
    aug, other = make_lively(["crop", "rotate", "hsv"]), ia.LearnedAugment(["crop", "rotate", "hsv"])
    got = functional_call(aug.predictor, dict(other.predictor.named_parameters()), (images,))
    assert all(torch.equal(value, other.predictor(images)[name]) for name, value in got.items())


def test_vmap_over_predictors_and_over_images(images):
    """An ensemble of predictors in one call; per-image outputs as a batch of one gives them."""
    many = [make_lively(["crop", "rotate"], predictor=ia.ConvPredictor(image_size=32)).predictor for _ in range(3)]
    for k, predictor in enumerate(many):
        nn.init.normal_(predictor.heads["rotate"].out.weight, std=0.1 * (k + 1))
    params, buffers = stack_module_state(many)
    out = vmap(lambda p, b: functional_call(many[0], (p, b), (images,)), randomness="error")(params, buffers)
    for k, predictor in enumerate(many):
        expected = predictor(images)
        assert all(torch.allclose(out[name][k], expected[name], atol=1e-5) for name in expected)
    each = vmap(lambda image: many[0](image[None]))(images)
    assert all(torch.allclose(each[name][:, 0], value, atol=1e-5) for name, value in many[0](images).items())


def test_per_image_gradients_by_vmap(images):
    predictor = make_lively(["rotate"], predictor=ia.ConvPredictor(image_size=32)).predictor
    params = {name: p.detach() for name, p in predictor.named_parameters()}

    def loss(p, image):
        return functional_call(predictor, p, (image[None],))["rotate"].square().sum()

    per_image = vmap(torch.func.grad(loss), in_dims=(None, 0))(params, images)
    total = torch.func.grad(lambda p: functional_call(predictor, p, (images,))["rotate"].square().sum())(params)
    assert all(torch.allclose(per_image[name].sum(0), total[name], atol=1e-3, rtol=1e-3) for name in params)


def test_a_training_step_is_compiled_once(images):
    """Model, views and objective; the objective's own arithmetic, which reads numbers, runs between the graphs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    aug = make_lively(["crop", "rotate", "hsv"])
    objective, labels = ia.InstaAugObjective(aug), torch.arange(6) % 3
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=1e-2)

    def loss_of(images, labels):
        views, sample = aug.sample(images, n=2)
        return objective(nn.functional.cross_entropy(model(views), labels.repeat(2), reduction="none"), sample)

    counter = CompileCounterWithBackend("aot_eager")
    compiled, counts, slopes = torch.compile(loss_of, backend=counter), [], []
    start = copy.deepcopy([model.state_dict(), objective.state_dict()])
    for _ in range(4):
        optimizer.zero_grad()
        torch.manual_seed(3)
        compiled(images, labels).backward()
        slopes.append([p.grad.clone() for p in (*model.parameters(), *aug.parameters())])
        counts.append(counter.frame_count)
        optimizer.step()
    assert 0 < counts[1] == counts[-1]
    model.load_state_dict(start[0])
    objective.load_state_dict(start[1])
    optimizer.zero_grad()
    torch.manual_seed(3)
    loss_of(images, labels).backward()
    eager = [p.grad for p in (*model.parameters(), *aug.parameters())]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(slopes[0], eager, strict=True))


@pytest.mark.parametrize("families", [["turn"], ["crop"], ["turn", "light"]])
def test_an_average_of_views_is_one_graph(families, images):
    """Numbers read from tensors on the way had made four of it, and a page of warnings."""
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5)).eval()
    model = ia.TTAModel(classifier, make_lively(families).eval(), 3)
    torch._dynamo.reset()
    found = torch._dynamo.explain(model)(images)
    assert (found.graph_count, found.graph_break_count) == (1, 0)
