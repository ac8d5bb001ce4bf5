"""Many images through a model, on a CPU a few at a time: counted by a hook, and compared with all at once."""

import pytest
import torch
from torch import nn

from instaaug_transforms.predictors.taps import Taps
from instaaug_transforms.utils import forward as room
from instaaug_transforms.utils.forward import forward, in_parts


class Counted(nn.Module):
    """Remembers how many images came at once."""

    def __init__(self, kind: str = "tensor") -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        )
        self.kind, self.seen = kind, []

    def forward(self, images):
        self.seen.append(len(images))
        logits = self.body(images)
        return {"tensor": logits, "dict": {"out": logits}, "mean": logits.mean(0)}[self.kind]


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(room, "PIXELS", 4 * 16 * 16)  # four images of 16 pixels


@pytest.mark.parametrize(("n", "parts"), [(1, [1]), (4, [4]), (5, [3, 2]), (10, [4, 4, 2]), (12, [4, 4, 4]), (0, [0])])
def test_a_few_at_a_time_in_parts_of_one_size(n, parts):
    torch.manual_seed(0)
    model, images = Counted(), torch.rand(n, 3, 16, 16)
    outputs = forward(model, images)
    assert model.seen == parts
    torch.testing.assert_close(outputs, model.body(images))


@pytest.mark.parametrize("kind", ["dict", "mean"])
def test_what_is_no_tensor_of_images_comes_of_all_at_once(kind):
    model, images = Counted(kind).eval(), torch.rand(10, 3, 16, 16)
    outputs = forward(model, images)
    assert model.seen[-1] == 10
    torch.testing.assert_close(
        outputs["out"] if kind == "dict" else outputs, model(images)["out"] if kind == "dict" else model(images)
    )


def test_weights_in_double_get_doubles_and_gradients_flow():
    model, images = Counted().double(), torch.rand(6, 3, 16, 16, requires_grad=True)
    forward(model, images).sum().backward()
    expected = torch.autograd.grad(model.body(images.double()).sum(), images)[0]
    torch.testing.assert_close(images.grad, expected)


def test_one_image_that_is_larger_than_all_of_it_goes_alone():
    assert [len(part) for part in in_parts(torch.rand(3, 3, 64, 64))] == [1, 1, 1]
    assert len(in_parts(torch.empty(7, 3, 64, 64, device="meta"))) == 1  # an accelerator's memory is its own


def test_many_threads_get_more(monkeypatch):
    assert len(in_parts(torch.rand(64, 3, 16, 16))) == 16
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert len(in_parts(torch.rand(64, 3, 16, 16))) == 4


def test_taps_see_what_they_see_at_once(monkeypatch):
    torch.manual_seed(0)
    model, images = Counted().eval(), torch.rand(10, 3, 16, 16)
    parts = Taps(model, "body.1", 5)(images)
    assert model.seen == [4, 4, 2]
    monkeypatch.setattr(room, "PIXELS", 10**9)
    whole = Taps(model, "body.1", 5)(images)
    assert model.seen[-1] == 10
    for part, all_of_it in zip(parts[:3], whole[:3], strict=True):
        torch.testing.assert_close(part, all_of_it)
