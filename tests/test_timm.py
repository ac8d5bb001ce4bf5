import pytest
import timm
import torch
from safetensors.torch import save_model

import instaaug_transforms as ia


def test_wrap_normalises_inside():
    model = timm.create_model("test_resnet", num_classes=4).eval()
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    images = torch.rand(2, 3, 64, 64)
    wrapped = ia.timm.wrap(model)
    assert torch.allclose(wrapped(images), model((images - mean) / std), atol=1e-5)
    assert wrapped.num_classes == 4 and wrapped.pretrained_cfg is model.pretrained_cfg


def test_one_channel_models():
    assert ia.timm.wrap(timm.create_model("test_resnet", in_chans=1)).mean.shape == (1, 1, 1, 1)


def test_checkpoint_by_name(tmp_path):
    model = timm.create_model("test_resnet", num_classes=4).eval()
    save_model(model, str(tmp_path / "m.safetensors"))
    again = ia.timm.create_classifier("test_resnet", tmp_path / "m.safetensors", 4).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.model(images), model(images))
    with pytest.raises(ia.InstaAugError, match="does not fit"):
        ia.timm.create_classifier("test_resnet", tmp_path / "m.safetensors", 7)
    with pytest.raises(ia.InstaAugError, match="only .safetensors files are read"):
        ia.timm.create_classifier("test_resnet", tmp_path / "m.pth")
    with pytest.raises(ia.InstaAugError, match="cannot be read"):
        ia.timm.create_classifier("test_resnet", tmp_path / "none.safetensors")
    with pytest.raises(ia.InstaAugError, match="timm has no 'resnet1'"):
        ia.timm.create_classifier("resnet1")
