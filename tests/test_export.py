"""Export: the program that torch.export traces, and onnxruntime, agree with the model on photographs."""

import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import torch
from torch.export import Dim, export
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


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return ia.timm.create_classifier("test_resnet", num_classes=10).eval()


def make(families, classifier, **kwargs):
    return ia.TTAModel(classifier, make_lively(families, **kwargs).eval(), n_views=3)


def check(model, photographs, path, **kwargs):
    """Files agree with the model on batches of several sizes, or of one."""
    export_onnx(model, path, tuple(photographs.shape[-2:]), **kwargs)
    sizes = [1] if kwargs else [1, 2, 5]
    difference, same = largest_difference(path, model, [photographs[:n] for n in sizes])
    assert difference < 1e-4 and same == 1
    return path


@pytest.mark.parametrize(
    "families",
    [["crop", "rotate", "hsv"], ["turn", "light"], ["translate", "scale", "shear"], ["erase", "blur", "local_colour"]],
    ids=lambda names: names[0],
)
def test_torch_export_with_any_batch(families, classifier, photographs):
    model = make(families, classifier)
    program = export(model, (photographs[:2],), dynamic_shapes=({0: Dim("batch", min=1)},)).module()
    for n in (1, 5):
        assert torch.allclose(program(photographs[:n]), model(photographs[:n]), atol=1e-5)


def test_onnx_of_turns_that_a_fit_recommends(classifier, photographs, tmp_path):
    aug = ia.LearnedAugment.from_pretrained("turn_photos")
    check(ia.TTAModel.recommended(classifier, aug), photographs[..., :48], tmp_path / "turn.onnx")


def test_onnx_of_the_features_predictor(classifier, photographs, tmp_path):
    predictor = ia.FeaturesPredictor(classifier, image_size=48)
    model = make(["turn"], classifier, predictor=predictor)
    check(model, photographs[..., :48], tmp_path / "features.onnx", dynamic_batch=False)


@pytest.mark.slow
@pytest.mark.parametrize("families", [["crop", "hsv"], ["rotate", "scale"], ["erase", "blur", "local_colour"]], ids=str)
def test_onnx_of_other_families(families, classifier, photographs, tmp_path):
    check(make(families, classifier), photographs, tmp_path / "model.onnx")


@pytest.mark.slow
def test_onnx_of_views_of_another_size(photographs, tmp_path):
    aug = ia.LearnedAugment.from_pretrained("crop_tinyimagenet", output_size=32)
    path = check(TopViews(aug, 3), photographs, tmp_path / "views.onnx")
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


@pytest.mark.parametrize("select", ["sample", "stratified"])
def test_random_views_are_refused(classifier, select, tmp_path):
    model = ia.TTAModel(classifier, ia.LearnedAugment(["turn"]), 2, select=select)
    with pytest.raises(ia.InstaAugError, match=f"select: random views cannot be exported, got '{select}'"):
        export_onnx(model, tmp_path / "a.onnx", 32)
    with pytest.raises(ia.InstaAugError, match="path: expected a name that ends in .onnx"):
        export_onnx(model, tmp_path / "a.pt", 32)


def test_what_to_install(classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ia.InstaAugError, match=r"pip install 'instaaug-transforms\[export\]'"):
        export_onnx(ia.TTAModel(classifier, ia.LearnedAugment(["turn"])), tmp_path / "a.onnx", 32)
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
        assert main([*command.split(), "again.onnx", "--tolerance", "-1"]) == 2
    finally:
        sys.modules.pop("small", None)
