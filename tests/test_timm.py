import numpy as np
import pytest
import timm
import timm.loss
import timm.optim
import timm.scheduler
import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader
from timm.data.loader import fast_collate
from timm.utils import AverageMeter, accuracy
from torchvision.datasets import FakeData
from torchvision.transforms import v2

import instaaug_transforms as ia

from .conftest import make_lively

# timm's datasets leave closing their files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_wrap_normalises_inside():
    model = timm.create_model("test_resnet", num_classes=4).eval()
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    images = torch.rand(2, 3, 64, 64)
    wrapped = ia.timm.wrap(model)
    assert torch.allclose(wrapped(images), model((images - mean) / std), atol=1e-5)
    assert wrapped.num_classes == 4 and wrapped.pretrained_cfg["architecture"] == "test_resnet"
    resolved = timm.data.resolve_model_data_config(
        wrapped
    )  # what timm would do to the images: not normalise them again
    assert resolved["mean"] == (0, 0, 0) and resolved["std"] == (1, 1, 1)
    assert {**config, "mean": 0, "std": 0} == {**resolved, "mean": 0, "std": 0}


def test_one_channel_models():
    assert ia.timm.wrap(timm.create_model("test_resnet", in_chans=1)).mean.shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 4}, r"mean, std: expected 4 numbers each, .*got \(0.5, 0.5, 0.5\)"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "mean, std: expected 3 numbers each"),
        ({"mean": 0.5, "std": 0.5}, r"normalization: expected \(mean, std\), each of a number per channel"),
        ({"std": (0.5, 0.0, 0.5)}, "std > 0"),
    ],
)
def test_figures_that_do_not_go_with_the_model_are_named(options, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.timm.create_classifier("test_resnet", num_classes=4, **options)
    with pytest.raises(ia.InstaAugError, match="model: expected a torch.nn.Module, got str"):
        ia.timm.wrap("test_resnet")


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_figures_of_four_channels_in_any_sequence(kind):
    figures, images = ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]), torch.rand(2, 4, 32, 32)
    model = ia.timm.create_classifier("test_resnet", in_chans=4, mean=kind(figures[0]), std=kind(figures[1])).eval()
    mean, std = (torch.tensor(each).reshape(1, 4, 1, 1) for each in figures)
    assert torch.allclose(model(images), model.model((images - mean) / std), atol=1e-5)


def test_bytes_are_what_they_are_in_0_to_1():
    """They were normalised as if they were 255 times as bright, also on their way through a model of views."""
    pixels = torch.randint(256, (3, 3, 32, 32)).byte()
    model = ia.timm.create_classifier("test_resnet", num_classes=4).eval()
    for answer in (model, ia.TTAModel(model, ia.LearnedAugment(["turn"]), 2, policy={"turn_angle": [0, 90]})):
        assert torch.allclose(answer(pixels), answer(pixels / 255), atol=1e-5)


@pytest.fixture
def folder(tmp_path):
    """An ImageFolder of four classes that a classifier can tell apart: dark to bright."""
    for k in range(4):
        (tmp_path / "val" / f"class{k}").mkdir(parents=True)
        for n in range(3):
            image = (torch.rand(3, 48, 64) * 0.2 + 0.25 * k).clamp(0, 1)
            v2.functional.to_pil_image(image).save(tmp_path / "val" / f"class{k}" / f"{n}.png")
    return tmp_path


def validate(model, folder, batch_size=5):
    """What timm's validate.py does with a model, step by step, with timm's own functions."""
    assert sum(m.numel() for m in model.parameters()) > 0
    config = timm.data.resolve_data_config({"model": "", "crop_pct": None}, model=model, use_test_size=True)
    model = model.to("cpu").to(memory_format=torch.channels_last).eval()
    dataset = create_dataset("", root=folder, split="val")
    loader = create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=batch_size,
        use_prefetcher=True,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=0,
        persistent_workers=False,
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        device=torch.device("cpu"),
    )
    top1, outputs = AverageMeter(), []
    with torch.inference_mode():
        model(torch.randn(batch_size, *config["input_size"]).contiguous(memory_format=torch.channels_last))  # warm-up
        for images, target in loader:
            output = model(images.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(output, target)
            top1.update(accuracy(output, target, topk=(1, model.num_classes))[0].item(), len(output))
            outputs.append(output)
    return top1.avg, torch.cat(outputs), config


@pytest.mark.filterwarnings("ignore:image. values must lie in:UserWarning")
@pytest.mark.parametrize("wrapped", [True, False])
def test_timms_validate_path(folder, wrapped):
    """A wrapped model takes [0, 1], a bare one what timm's loader normalises: both come to the same answers."""
    torch.manual_seed(0)
    bare = timm.create_model("test_resnet", num_classes=4).eval()
    mean, std = bare.pretrained_cfg["mean"], bare.pretrained_cfg["std"]
    aug = make_lively(["crop", "rotate"], normalization=None if wrapped else (mean, std))
    tta = ia.TTAModel(ia.timm.wrap(bare) if wrapped else bare, aug, n_views=3)
    score, outputs, config = validate(tta, folder)
    assert config["mean"] == ((0, 0, 0) if wrapped else mean) and 0 <= score <= 100
    reference = ia.TTAModel(ia.timm.wrap(bare), make_lively(["crop", "rotate"]), n_views=3).eval()
    data = create_dataset("", root=folder, split="val")
    loader = create_loader(
        data,
        (3, 160, 160),
        5,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        num_workers=0,
        persistent_workers=False,
        crop_pct=0.95,
        device=torch.device("cpu"),
    )
    expected = torch.cat([reference(images) for images, _ in loader])
    assert torch.allclose(outputs, expected, atol=1e-3)


def test_a_registered_tta_model_comes_from_timms_registry():
    """How ``validate.py --model mine`` gets it."""

    @timm.models.register_model
    def test_resnet_learned_views(pretrained=False, **kwargs):
        kwargs = {k: v for k, v in kwargs.items() if k == "num_classes"}
        classifier = ia.timm.create_classifier("test_resnet", **kwargs)
        return ia.TTAModel(classifier, ia.LearnedAugment.from_pretrained("crop_tinyimagenet"), n_views=2)

    model = timm.create_model("test_resnet_learned_views", num_classes=4).eval()
    assert model.num_classes == 4 and model.pretrained_cfg["input_size"] == (3, 160, 160)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 4)


def test_in_timms_training_pipeline(folder):
    """`create_loader`, the augment, `Mixup`, a timm optimizer and schedule, EMA: one step moves model and predictor."""
    dataset = create_dataset("", root=folder, split="val", is_training=True)
    loader = create_loader(
        dataset,
        (3, 64, 64),
        4,
        is_training=True,
        no_aug=True,
        num_workers=0,
        persistent_workers=False,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        device=torch.device("cpu"),
    )
    mixup = timm.data.Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=4)
    model, aug = ia.timm.create_classifier("test_resnet", num_classes=4), make_lively(["rotate", "hsv"])
    optimizer = timm.optim.create_optimizer_v2([*model.parameters(), *aug.parameters()], opt="adamw", lr=1e-3)
    scheduler, _ = timm.scheduler.create_scheduler_v2(optimizer, num_epochs=2, warmup_epochs=0)
    ema = timm.utils.ModelEmaV3(model, decay=0.9)
    before = [p.clone() for p in aug.predictor.heads.parameters()]
    for images, labels in loader:
        views, soft = mixup(aug(images), labels)
        loss = timm.loss.SoftTargetCrossEntropy()(model(views), soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
    scheduler.step(1)
    assert loss.isfinite() and ema.module(images).shape == (4, 4)
    assert any(not torch.equal(b, p) for b, p in zip(before, aug.predictor.heads.parameters(), strict=True))


def test_in_create_loader_by_one_argument():
    """timm's prefetcher scales, normalises and erases after it, as always."""
    aug = ia.LearnedAugment(["turn"]).requires_grad_(False)
    dataset = FakeData(8, (3, 40, 40), 5)
    loaders = [
        create_loader(
            dataset, (3, 32, 32), 4, collate_fn=how, device=torch.device("cpu"), num_workers=0, persistent_workers=False
        )
        for how in (None, ia.collate(aug, fast_collate))
    ]
    for (plain, labels), (turned, same) in zip(*loaders, strict=True):
        assert turned.shape == plain.shape and turned.dtype == plain.dtype and torch.equal(labels, same)
        for image, view in zip(plain, turned, strict=True):
            assert any(torch.equal(view, image.rot90(k, (-2, -1))) for k in range(4))
