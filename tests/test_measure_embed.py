import pytest
import timm
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure.embed import embedder

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "kwargs"), [("test_resnet", {}), ("test_vit", {"img_size": 32, "patch_size": 8}), ("test_convnext", {})]
)
def test_penultimate_is_timms_own(name, kwargs):
    model = timm.create_model(name, num_classes=7, **kwargs).eval()
    embed, layer = embedder(ia.timm.wrap(model, (0.0,) * 3, (1.0,) * 3), None, IMAGES)
    with torch.no_grad():
        z, outputs = embed(IMAGES)
        oracle = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    assert torch.allclose(z, oracle, atol=1e-6) and outputs.shape == (2, 7)
    assert layer.startswith("input of model.")


def test_any_layer_by_name_keeps_its_shape():
    model = timm.create_model("test_resnet", num_classes=7).eval()
    embed, layer = embedder(model, "layer2", IMAGES)
    assert embed(IMAGES)[0].ndim == 4 and layer == "layer2"
    embed, layer = embedder(model, "output", IMAGES)
    z, outputs = embed(IMAGES)
    assert torch.equal(z, outputs) and layer == "output"


def test_a_model_without_linear_head_is_measured_at_its_output():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    embed, layer = embedder(model, None, IMAGES)
    z, outputs = embed(IMAGES)
    assert layer == "output" and torch.equal(z, outputs)


def test_the_head_is_the_linear_layer_that_makes_the_output_not_the_last_in_the_list():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(6, 4), nn.Linear(3 * 32 * 32, 6)

        def forward(self, x):
            return self.head(self.body(x.flatten(1)).relu())

    model = Odd()
    embed, layer = embedder(model, None, IMAGES)
    z, _ = embed(IMAGES)
    assert layer == "input of head" and torch.equal(z, model.body(IMAGES.flatten(1)).relu())


def test_hooks_go_even_after_an_error():
    model = timm.create_model("test_resnet", num_classes=7).eval()
    embed, _ = embedder(model, "layer2", IMAGES)
    with pytest.raises(RuntimeError, match="channels"):
        embed(IMAGES[:, :1])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("layer", "message"),
    [("layer9", "the model has no submodule 'layer9'"), ("unused", "it was not run"), ("tuple", "got a tuple of 2")],
)
def test_errors(layer, message):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.tuple = nn.Linear(1, 1), Pair()

        def forward(self, x):
            return self.tuple(x)[0].mean((2, 3))

    with pytest.raises(ia.InstaAugError, match=message):
        embedder(Model(), layer, IMAGES)


@pytest.mark.parametrize("key", ["logits", 0, "column"])
def test_the_remedy_that_an_error_names_works(key):
    """Of a dictionary it named an attribute that is not there."""

    class Model(nn.Module):
        def forward(self, x):
            logits = x.mean((2, 3))
            return logits[:, 0] if key == "column" else {"logits": logits} if key == "logits" else (logits, x)

    model = Model()
    with pytest.raises(ia.InstaAugError, match="wrap it in a module") as error:
        embedder(model, None, IMAGES)
    remedy = str(error.value).split("return ")[1].split(", say")[0]

    class Wrapped(nn.Module):
        def forward(self, x):
            return eval(remedy, {"model": model, "x": x})

    outputs = embedder(Wrapped(), None, IMAGES)[0](IMAGES)[1]
    assert torch.equal(outputs, IMAGES.mean((2, 3))[:, :1] if key == "column" else IMAGES.mean((2, 3)))
