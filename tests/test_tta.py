import pytest
import torch
from timm.layers import DropPath
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.tta.aggregation import aggregate, scale_bins
from instaaug_transforms.tta.views import choose_views

from .conftest import make_lively


class Tiny(nn.Module):
    num_classes = 5
    pretrained_cfg = {"input_size": (3, 32, 32)}

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 5))
        self.largest = 0

    def forward(self, x):
        self.largest = max(self.largest, len(x))
        return self.body(x)


@pytest.mark.parametrize("families", [["crop"], ["rotate"], ["crop", "rotate", "hsv"]])
@pytest.mark.parametrize("how", ["mean_prob", "mean_logit", "geometric_mean", "power"])
def test_it_is_the_average_over_the_views(families, how, images):
    aug, model = make_lively(families), Tiny()
    out = ia.TTAModel(model, aug, 5, aggregate=how)(images)
    params = choose_views(aug.distribution(images), 5)
    logits = torch.stack([model(aug(images, params=params.index(k))) for k in range(5)])
    probs = logits.softmax(-1)
    by_hand = {"mean_prob": probs.mean(0), "geometric_mean": probs.prod(0) ** (1 / 5)}
    by_hand["power"] = probs.sqrt().mean(0) ** 2
    expected = logits.mean(0) if how == "mean_logit" else by_hand[how].log()
    assert torch.allclose(out, expected, atol=1e-5) and not out.requires_grad


def test_the_image_itself_comes_first_and_once(images):
    aug = make_lively(["crop"])
    params = choose_views(aug.distribution(images), 30)
    assert (params.anchor[0] == 0).all()
    assert all(params.anchor[:, b].unique().numel() == 30 for b in range(6))
    fewer = choose_views(aug.distribution(images), 4)
    assert torch.equal(fewer.anchor, params.anchor[:4])
    single = choose_views(aug.distribution(images), 1)
    assert torch.equal(single.anchor[0], aug.distribution(images).mode.anchor)
    without = choose_views(aug.distribution(images), 4, include_identity=False)
    assert torch.equal(without.anchor, aug.distribution(images).top(4).anchor)


def test_sampled_views_keep_their_distribution(images):
    aug = make_lively(["crop"])
    d = aug.distribution(images)
    params = choose_views(d, 3000, "sample", generator=torch.Generator().manual_seed(0))
    share = (params.anchor[1:] == 0).float().mean(0)
    assert torch.allclose(share, d.parts["crop"].categorical.probs[:, 0], atol=0.04)


def test_chunks_change_nothing_and_are_kept(images):
    aug, model = make_lively(["crop"]), Tiny()
    whole = ia.TTAModel(model, aug, 4, chunk_size=1000)(images)
    assert model.largest == 24
    for size, largest in ((8, 8), (3, 4)):  # the views of one image stay together
        model.largest = 0
        small = ia.TTAModel(model, aug, 4, chunk_size=size)(images)
        assert torch.allclose(small, whole, atol=1e-6) and model.largest == largest


def test_generator_and_drop_in_attributes(images):
    tta = ia.TTAModel(Tiny(), make_lively(["crop", "rotate"]), 3, select="stratified")
    a, b = (tta(images, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b) and tta.num_classes == 5 and tta.pretrained_cfg["input_size"] == (3, 32, 32)


def test_normalized_inputs_reach_the_classifier_normalized(images):
    aug, model = make_lively(["crop"]), Tiny()
    plain = ia.TTAModel(nn.Sequential(nn.BatchNorm2d(3).eval(), model), aug, 3)(images)
    aug.normalization = ia.functional.inputs.Normalization((0.5,) * 3, (0.25,) * 3)
    undo = nn.Sequential(nn.BatchNorm2d(3).eval())
    inner = nn.Sequential(Rescale(), undo, model)
    assert torch.allclose(ia.TTAModel(inner, aug, 3)((images - 0.5) / 0.25), plain, atol=1e-4)


class Rescale(nn.Module):
    def forward(self, x):
        return x * 0.25 + 0.5


def test_mean_probability_is_a_log_probability():
    logits = torch.randn(4, 3, 7)
    assert torch.allclose(aggregate(logits, "mean_prob").exp().sum(-1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.1), DropPath(0.2)])
def test_a_classifier_in_training_mode_is_refused(layer, images):
    tta = ia.TTAModel(nn.Sequential(layer, Tiny()), make_lively(["crop"]), 3)
    with pytest.raises(ia.InstaAugError, match=f"training mode.*{type(layer).__name__} '0'.*model.eval()"):
        tta(images)
    assert tta.eval()(images).shape == (6, 5)


def test_layers_that_do_nothing_in_training_are_no_reason_to_refuse(images):
    assert ia.TTAModel(nn.Sequential(nn.Dropout(0.0), Tiny()), make_lively(["crop"]), 3)(images).shape == (6, 5)


def test_values_outside_the_range_warn_and_are_clamped(images):
    tta = ia.TTAModel(Tiny(), make_lively(["crop"]), 3)
    with pytest.warns(UserWarning, match=r"values from.*normalization=\(mean, std\).*clamped"):
        out = tta(images * 3 - 1)
    assert torch.equal(out, tta((images * 3 - 1).clamp(0, 1)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_views": 0}, "n_views"),
        ({"select": "best"}, "select: expected one of sample, top, stratified"),
        ({"aggregate": "median"}, "aggregate"),
        ({"chunk_size": 1.5}, "chunk_size"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.TTAModel(Tiny(), make_lively(["crop"]), **kwargs)


def test_views_are_binned_by_the_size_of_their_crop():
    """The side is √(w·h): six bins, the whole image in the last, as are views without a crop."""
    sides = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.95, 1.0])
    square = ia.AugmentParams(w=sides, h=sides)
    assert scale_bins(square).tolist() == [0, 1, 2, 3, 4, 5]
    assert scale_bins(ia.AugmentParams(w=torch.tensor([1.0]), h=torch.tensor([0.16]))).tolist() == [1]
    assert scale_bins(ia.AugmentParams(angle=torch.zeros(2))).tolist() == [5, 5]
