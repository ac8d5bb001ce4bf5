"""Export: the program that torch.export traces, and onnxruntime, agree with the model on photographs."""

import subprocess
import sys
import types

import numpy as np
import pytest
import skimage.data
import torch
from torch import nn
from torch.export import Dim, export
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.families.uniform import quantile_orders
from instaaug_transforms.integrations.export import TopViews, export_onnx, largest_difference

from .conftest import make_lively

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photographs():
    """Five, 48 × 64 pixels."""
    names = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry")
    images = [torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1) for name in names]
    return torch.stack([F.resize(image, [48, 64], antialias=True) for image in images]) / 255


@pytest.fixture
def small():
    """A classifier of any image."""
    layers = torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(128, 10)).eval()


EVERY = ["crop", "rotate", "translate", "scale", "shear", "hsv", "erase", "blur", "local_colour"]


def differences(path, photographs, model, sizes=(1, 2, 5)):
    return largest_difference(path, model, [photographs[:n] for n in sizes])


@pytest.mark.parametrize("families", [EVERY, ["turn", "light"]], ids=len)
def test_torch_export_with_any_batch(families, small, photographs):
    aug = make_lively(families).eval()
    offsets = [0.01 * a for a in range(60)] if families == ["turn", "light"] else None
    model = ia.TTAModel(small, aug, n_views=3, include_identity=False, view_offsets=offsets)
    program = export(model, (photographs[:2],), dynamic_shapes=({0: Dim("batch", min=1)},)).module()
    for n in (1, 5):
        assert torch.allclose(program(photographs[:n]), model(photographs[:n]), atol=1e-5)


@pytest.mark.slow
def test_onnx_of_every_family(small, photographs, tmp_path):
    model = ia.TTAModel(small, make_lively(EVERY).eval(), n_views=3)
    path = export_onnx(model, tmp_path / "every.onnx", (48, 64))
    piece = v2.RandomResizedCrop((48, 64), scale=(0.1, 0.9), antialias=True)
    hundred = torch.stack([piece(photographs[i % 5]) for i in range(100)])
    difference, same = differences(path, torch.cat([photographs, hundred[5:]]), model, (1, 5, 100))
    assert difference < 1e-4 and same == 1


@pytest.mark.slow
def test_onnx_of_the_features_predictor(photographs, tmp_path):
    classifier, photographs = ia.timm.create_classifier("test_resnet", num_classes=10), photographs[..., :48]
    aug = make_lively(["turn", "light"], predictor=ia.FeaturesPredictor(classifier, image_size=48))
    for setting in ({}, {"put_right": True, "policy": {"flip": [0.0, 1.0]}}):
        model = ia.TTAModel(classifier.eval(), aug, n_views=2, **setting)
        path = export_onnx(model, tmp_path / "features.onnx", 48, dynamic_batch=False)
        assert differences(path, photographs, model, [1])[0] < 1e-4


@pytest.mark.slow
def test_onnx_of_segmentation(photographs, tmp_path):
    """Maps of half the size, put back from crops that are turned."""
    model = ia.SegmentationTTA(torch.nn.Conv2d(3, 4, 3, 2, 1).eval(), make_lively(["crop", "rotate"]).eval(), 3)
    path = export_onnx(model, tmp_path / "maps.onnx", (48, 64))
    assert differences(path, photographs, model)[0] < 1e-4


@pytest.mark.slow
def test_onnx_of_views_of_another_size(photographs, tmp_path):
    aug = ia.LearnedAugment.from_pretrained("crop_tinyimagenet", output_size=32)
    path = export_onnx(TopViews(aug, 3), tmp_path / "views.onnx", (48, 64))
    import onnxruntime

    (views,) = onnxruntime.InferenceSession(path).run(None, {"images": photographs.numpy()})
    assert views.shape == (3, 5, 3, 32, 32)
    assert np.abs(views - aug.views(photographs, 3, "top")[0].numpy()).max() < 1e-4


def test_orders_of_quantiles_are_those_of_torch():
    """They are made without tensors, which an exporter cannot read."""
    for k in (2, 7, 40):
        generator = torch.Generator().manual_seed(k)
        tries = [tuple(torch.randperm(k, generator=generator).tolist()) for _ in range(100)]
        first, second = quantile_orders(k, 2)
        assert second == next((order for order in tries if order != first), tries[0])


@pytest.mark.filterwarnings("ignore:.torch.jit.trace", "ignore::torch.jit.TracerWarning")
def test_traces_are_refused_where_they_would_keep_the_views_of_the_example(photographs):
    model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(36, 3)).eval()
    with pytest.raises(
        ia.InstaAugError, match=r"torch.jit.trace keeps what φ asked for the example.*torch.export.export"
    ):
        torch.jit.trace(ia.TTAModel(model, make_lively(["turn"]), 2), photographs)
    fixed = ia.TTAModel(model, make_lively(["turn"]), 2, policy={"turn_angle": [0, 90]})
    traced = torch.jit.trace(fixed, photographs, check_trace=False)
    others = photographs.flip(0, -1)[:3]
    assert torch.allclose(traced(others), fixed(others))


@pytest.mark.parametrize("select", ["sample", "stratified"])
def test_random_views_are_refused(small, select, tmp_path):
    model = ia.TTAModel(small, ia.LearnedAugment(["turn"]), 2, select=select)
    with pytest.raises(ia.InstaAugError, match=f"select: random views cannot be exported, got '{select}'"):
        export_onnx(model, tmp_path / "a.onnx", 32)
    with pytest.raises(ia.InstaAugError, match="path: expected a name that ends in .onnx"):
        export_onnx(model, tmp_path / "a.pt", 32)
    with pytest.raises(ia.InstaAugError, match="model: expected a TTAModel, .* got LearnedAugment"):
        export_onnx(model.aug, tmp_path / "a.onnx", 32)


def test_what_to_install(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ia.InstaAugError, match=r"pip install 'instaaug-transforms\[export\]'"):
        export_onnx(ia.TTAModel(small, ia.LearnedAugment(["turn"])), tmp_path / "a.onnx", 32)
    assert not list(tmp_path.iterdir())


def test_the_package_imports_no_onnx():
    code = "import sys, instaaug_transforms.integrations.export; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_on_the_command_line(photographs, tmp_path, monkeypatch, capsys):
    (tmp_path / "photographs").mkdir()
    for i, image in enumerate(photographs):
        F.to_pil_image(image).save(tmp_path / "photographs" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(
        "import instaaug_transforms as ia\ndef make(): return ia.timm.create_classifier('test_resnet', num_classes=10)\n"
    )
    command = "export --model small.py:make --weights turn_photos --img-size 64 --data photographs --workers 0 --out"
    try:
        assert main([*command.split(), "model.onnx"]) == 0
        assert "5 images: logits differ by" in capsys.readouterr().out and (tmp_path / "model.onnx").is_file()
        monkeypatch.setattr("instaaug_transforms.cli.export.largest_difference", lambda *_: (0.5, 1.0))
        assert main([*command.split(), "again.onnx", "--tolerance", "0.6"]) == 0
        assert main([*command.split(), "again.onnx", "--tolerance", "0.4"]) == 2
        capsys.readouterr()
        assert (
            main([*command.split(), "again.onnx", "--max-forwards", "1"]) == 2
        )  # unknown of weights for any classifier
        assert (
            "max_forwards: got 1, and what is recommended, n_views=2, does not say how many" in capsys.readouterr().err
        )
    finally:
        sys.modules.pop("small", None)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [(0.0, 0.0), (0.25, 0.25), (float("nan"), float("inf")), (float("inf"), float("inf"))],
)
def test_a_file_that_gives_nan_differs(monkeypatch, wrong, expected):
    """Python's max() of 0 and NaN is 0: such a file was said to be the same to the last bit."""

    class Session:
        def __init__(self, *_, **__):
            pass

        def run(self, _, given):
            return [given["images"] + np.where(given["images"] == 1, np.float32(wrong), np.float32(0))]

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    images = torch.tensor([[0.5, 1.0], [float("-inf"), 0.5]])  # what a classifier rules out is the same in both
    assert largest_difference("a.onnx", nn.Identity(), [images])[0] == expected


def test_answers_of_maps_are_those_of_their_pixels(monkeypatch):
    """One of eight pixels has another class; along the rows all have the same argmax."""
    logits = torch.zeros(1, 2, 2, 4).index_fill(3, torch.tensor([1]), 1.0)
    other = logits.clone()
    other[0, 1, 0, 0] = 0.5
    theirs = types.SimpleNamespace(run=lambda *_: [other.numpy()])
    module = types.SimpleNamespace(InferenceSession=lambda *_, **__: theirs)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    assert largest_difference("a.onnx", nn.Identity(), [logits]) == (0.5, 7 / 8)
    with pytest.raises(ia.InstaAugError, match="batches: expected at least one image"):
        largest_difference("a.onnx", nn.Identity(), [])


@pytest.mark.parametrize("size", [0, 2.5, "64", (64,)])
def test_sizes_are_whole_pixels(size, small, tmp_path):
    model = ia.TTAModel(small, ia.LearnedAugment(["turn"]))
    with pytest.raises(ia.InstaAugError, match="image_size: expected"):
        ia.export_onnx(model, tmp_path / "m.onnx", size)
