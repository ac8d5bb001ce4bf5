"""Images and weights of other precisions, other numbers of channels, and single images."""

import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.predictors import ClassPredictor, EquivariantPredictor
from instaaug_transforms.tta import evaluate

from .conftest import make_lively

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = [torch.float16, torch.bfloat16, torch.float64]


class Classifier(nn.Module):
    def __init__(self, channels: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(channels, 8, 3, 2), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.stem(x).relu().mean((2, 3)))


PREDICTORS = {
    "conv": lambda: ia.ConvPredictor(16),
    "patches": lambda: ia.PatchPredictor(16),
    "equivariant": lambda: EquivariantPredictor(64, (16, 16, 16), (0, 0, 1)),
    "features": lambda: ia.FeaturesPredictor(Classifier(), 32),
    "global": lambda: "global",
    "class": lambda: ClassPredictor(4),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_any_precision_are_saved(tmp_path, dtype):
    aug = make_lively(["crop", "rotate"]).to(dtype)
    aug.save(tmp_path / "aug.safetensors")
    back = ia.LearnedAugment.from_pretrained(tmp_path / "aug.safetensors").predictor.state_dict()
    for name, tensor in aug.predictor.state_dict().items():
        assert torch.equal(back[name], tensor.to(back[name].dtype)), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", PREDICTORS)
def test_modules_of_any_precision_on_a_cpu(kind, dtype, images):
    """What the module of single precision says, as far as the other precision tells it."""
    aug = ia.LearnedAugment(["crop", "rotate", "turn"], predictor=PREDICTORS[kind]()).eval()  # no dropout
    expected = {name: raw.detach() for name, raw in aug.predictor(images).items()}
    aug = aug.to(dtype)
    for given in (images, images.to(dtype)):
        for name, raw in aug.predictor(given).items():
            assert raw.dtype == torch.float32
            assert (raw - expected[name]).abs().max() < 0.06 * (1 + expected[name].abs().max()), name
    labels = {"labels": torch.zeros(len(images), dtype=torch.long)} if aug.predictor.reads_labels else {}
    views, sample = aug.sample(images.to(dtype), n=2, **labels)
    assert views.dtype == dtype
    objective = ia.InstaAugObjective(aug)
    objective(views.float().mean((1, 2, 3)), sample).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in aug.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_of_any_precision_are_fitted_and_reported_on(dtype, images):
    """Multiples of 1/64 are the same numbers in every precision."""
    images = (images * 64).round() / 64
    labels, config = torch.arange(6) % 4, ia.FitConfig(epochs=1, batch_size=4, progress=False)
    outcomes = []
    for given in (images, images.to(dtype)):
        aug = make_lively(["crop"], predictor=ia.ConvPredictor(16))
        ia.fit(aug, Classifier(), (given, labels), (given, labels), config)
        arms = evaluate(Classifier(), aug, (given, labels), (given, labels), (1, 2), progress=False).arms
        outcomes.append(
            [*(float(p.detach().sum()) for p in aug.parameters()), *(arm.nll.mean() for arm in arms.values())]
        )
    assert outcomes[0] == outcomes[1]


def test_everything_is_learned_where_double_precision_is_the_default(images):
    torch.set_default_dtype(torch.float64)
    try:
        aug, model, data = ia.LearnedAugment(["turn"]), Classifier(), (images.double(), torch.arange(6) % 4)
        views, sample = aug.sample(data[0], n=2)
        objective = ia.InstaAugObjective(aug)
        losses = F.cross_entropy(model(views), data[1].repeat(2), reduction="none")
        objective(losses, sample).backward()
        assert objective.baseline.item() == pytest.approx(losses.mean().item(), rel=1e-6)
        result = ia.fit(aug, model, data, nuisance=["turn"], config=ia.FitConfig(epochs=1, progress=False))
        assert result.report is not None
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("family", ["crop", "turn", "rotate", "light", "hsv", "blur"])
def test_shapes_without_numbers(family):
    """On the device "meta", as who counts operations or lays out a model asks."""
    aug = ia.LearnedAugment([family], output_size=8).to("meta")
    for shape in ((3, 16, 24), (2, 3, 16, 24)):
        made = aug(torch.rand(shape, device="meta"))
        assert made.is_meta and made.shape == (*shape[:-2], 8, 8)


def test_pixels_move_where_double_precision_is_the_default(images):
    """Turned canvases, other sizes without geometry, smaller views while compiling, and pictures."""
    torch.set_default_dtype(torch.float64)
    try:
        wide = torch.rand(2, 3, 16, 24, dtype=torch.float32)
        quarter = ia.LearnedAugment(["turn"])(wide[0], params=ia.AugmentParams(turn_angle=torch.tensor([90.0])))
        assert torch.equal(quarter, wide[0].rot90(1, (-2, -1)))
        smaller = ia.LearnedAugment([ia.families.hsv.HSV()], output_size=8)
        same = ia.AugmentParams(hue=torch.zeros(2))
        expected = F.interpolate(wide, size=(8, 8), mode="bilinear", antialias=True)
        assert torch.allclose(smaller(wide, params=same), expected, atol=1e-5)
        whole = ia.AugmentParams(**dict.fromkeys(("cx", "cy"), torch.full((2,), 0.5)), w=torch.ones(2), h=torch.ones(2))
        shrink = torch.compile(ia.LearnedAugment(["crop"], output_size=8).apply, fullgraph=True, backend="aot_eager")
        assert torch.allclose(shrink(wide, whole), expected, atol=1e-5)
        aug = ia.LearnedAugment(["crop"])
        assert len(ia.viz.likeliest_crops(aug, wide[0]).axes) == len(ia.viz.crop_centres(aug, wide).axes) == 2
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("estimator", ["rloo", "reinforce", "critic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_an_objective_inside_a_module_of_another_precision(dtype, estimator, images):
    """As loops that train in one precision throughout move all that they have."""
    aug = ia.LearnedAugment(["crop", "rotate"], predictor=ia.ConvPredictor(16))
    module = nn.ModuleDict({"model": Classifier(), "objective": ia.InstaAugObjective(aug, estimator=estimator)}).to(
        dtype
    )
    for _ in range(2):
        views, sample = aug.sample(images.to(dtype), n=2)
        losses = F.cross_entropy(module["model"](views), torch.arange(12) % 4, reduction="none")
        value = module["objective"](losses, sample)
        value.backward()
        assert value.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in aug.parameters())


def test_fp16_weights_are_not_fitted(images):
    with pytest.raises(ia.InstaAugError, match=r"aug: its weights are float16.*aug\.float\(\)"):
        ia.fit(make_lively(["crop"]).half(), Classifier(), (images, torch.arange(6) % 4))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(channels):
    torch.manual_seed(0)
    data = torch.rand(8, channels, 16, 16), torch.arange(8) % 4
    aug = make_lively(["crop"], in_channels=channels, predictor=ia.ConvPredictor(16))
    arms = evaluate(Classifier(channels), aug, data, data, (2,), progress=False).arms
    assert (("AutoAugment policy", 2) in arms) == (channels == 1)  # torchvision's colours are of 1 or 3 channels
    other, model = make_lively(["crop"], predictor=ia.ConvPredictor(16)), Classifier()
    for use in (lambda: evaluate(model, other, data, data), lambda: ia.fit(other, model, data)):
        with pytest.raises(
            ia.InstaAugError, match=f"data: images have {channels} channel.*made for 3.*in_channels={channels}"
        ):
            use()


def test_a_report_needs_labels(images):
    labelled = images, torch.arange(6) % 4
    for given in ((images, labelled), (labelled, images)):
        with pytest.raises(ia.InstaAugError, match="data: expected images with labels"):
            evaluate(Classifier(), make_lively(["crop"]), *given)


def test_a_single_image_is_a_batch_of_one(images, lively):
    views, sample = lively.sample(images[0], n=2, generator=torch.Generator().manual_seed(0))
    batch, _ = lively.sample(images[:1], n=2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(views, batch) and (sample.n, sample.batch_size) == (2, 1)
    model = Classifier().eval()
    averaged = ia.TTAModel(model, lively, 3)
    assert torch.allclose(averaged(images[0]), averaged(images[:1])[0])
    for use in (lively.sample, lambda image: lively.views(image, 2)):
        with pytest.raises(ia.InstaAugError, match=r"images: expected a tensor .*got Image.*to_image"):
            use(PIL.Image.new("RGB", (8, 8)))


def test_one_image_is_fitted_to_where_another_is_held_out(images):
    config = ia.FitConfig(epochs=1, progress=False)
    labels, model = torch.tensor([0]), Classifier()
    with pytest.raises(ia.InstaAugError, match="at least two images, got 1"):
        ia.fit(make_lively(["crop"]), model, (images[:1], labels), config=config)
    result = ia.fit(make_lively(["crop"]), model, (images[:1], labels), (images[1:2], labels), config)
    assert torch.isfinite(torch.tensor(result.history[0]["val_loss"]))
    loss = F.cross_entropy(model(images[1:2]), labels).item()
    assert result.report.arms[0].nll.mean() <= loss + 1e-2  # at its best temperature
