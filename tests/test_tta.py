import math

import pytest
import torch
from timm.layers import DropPath
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.families.turn import Turn
from instaaug_transforms.tta.views import (
    choose_views,
)
from instaaug_transforms.utils.describe import model_sha256

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


@pytest.mark.parametrize("how", ["mean_prob", "probability", "power", "confident"])
@pytest.mark.parametrize("policy", [None, {"turn_angle": [0.0]}])
def test_one_view_answers_what_the_classifier_does(how, policy, images):
    """To the bit: what an answer means, logits of classes that exclude each other or not, is nobody's business then."""
    model = Tiny()
    one = ia.TTAModel(model, ia.LearnedAugment(["turn"]), 1, aggregate=how, policy=policy)
    assert torch.equal(one(images), model(images))


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
        ({"policy": 3}, "policy: expected numbers by field, {'turn_angle'.* say, got 3"),
        ({"policy": {"flip": ["left"] * 10}}, "policy: flip: expected several numbers.*'left'"),
        ({"view_offsets": 3}, "view_offsets: expected several numbers.* got 3"),
        ({"view_offsets": torch.tensor(3.0)}, "view_offsets: expected several numbers"),
        ({"put_right": "x"}, "put_right: expected a whole number ≥ 0, got 'x'"),
        ({"range_fraction": "x"}, r"range_fraction: expected a number in \(0, 1\], got 'x'"),
        ({"power": "x"}, r"power: expected a number in \(0, ∞\), got 'x'"),
        ({"power": 0}, r"power: expected a number in \(0, ∞\), got 0"),
        ({"aggregate": "weighted", "scale_weights": [math.nan] * 6}, "scale_weights: expected finite numbers"),
        ({"include_identity": "no"}, "include_identity: expected one of True, False, got 'no'"),
        ({"aggregate": "weighted", "scale_weights": 6.0}, "scale_weights: expected several numbers.* got 6.0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.TTAModel(Tiny(), make_lively(["crop"]), **kwargs)


def test_fixed_views_are_made_by_the_backend_of_the_transform(images):
    params, views, model = ia.AugmentParams.alike({"hue": 0.2}, len(images)), [], Tiny()
    model.register_forward_pre_hook(lambda _, inputs: views.append(inputs[0]))
    for backend in ("kornia", "torch"):
        aug = ia.LearnedAugment(["hsv"], backend=backend)
        ia.TTAModel(model, aug, 1, policy={"hue": [0.2]})(images)
        assert torch.equal(views[-1], aug.apply(images, params))
    assert not torch.equal(*views) and torch.allclose(*views, atol=1e-4)


@pytest.mark.parametrize("how", ["mean_prob", "probability"])
def test_a_policy_gives_every_image_the_same_views_and_asks_nobody(how, images):
    """Turns by ``rot90`` and mirror images, a crop that the transform does not have; views weigh the same."""
    model, aug = Tiny(), make_lively(["turn"])
    aug.predictor.register_forward_hook(lambda *_: pytest.fail("φ was asked"))
    policy = {"turn_angle": [0.0, 90.0, 180.0], "flip": [1.0, 0.0, 0.0]}
    views = [images.flip(-1), images.rot90(1, (-2, -1)), images.rot90(2, (-2, -1))]
    expected = torch.stack([model(view).softmax(-1) for view in views]).mean(0)
    found = ia.TTAModel(model, aug, 3, policy=policy, aggregate=how)(images)
    assert torch.allclose(found.softmax(-1), expected, atol=1e-5)
    assert model.largest == 18 and (expected - model(images).softmax(-1)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"policy": {}}, "policy: expected 3 numbers for each of some fields"),
        ({"policy": {"turn_angle": [0.0, 90.0]}}, "'turn_angle': 2"),
        ({"policy": {"hue": [0.0, 0.1, 0.2]}}, "policy: expected 3 numbers"),
        (
            {"put_right": 1},
            "put_right: expected a number .* divides n_views, 3, and a policy .*; got 1 and policy=None",
        ),
        ({"put_right": 2, "policy": {"flip": [0.0]}}, "put_right: expected a number .* divides n_views, 3"),
        ({"put_right": -1, "policy": {"flip": [0.0]}}, "put_right: expected a whole number ≥ 0, got -1"),
        ({"put_right": 3, "policy": {"flip": [0.0, 1.0, 0.0]}}, "policy: expected 1 numbers"),
        ({"put_right": True, "policy": {"turn_angle": [0.0, 90.0, 180.0]}}, "fields of anchor, cx, .*'turn_angle': 3"),
        ({"scale_weights": [0.0] * 6}, "scale_weights: 'weighted' needs them"),
        ({"aggregate": "weighted"}, "scale_weights: 'weighted' needs them"),
        ({"aggregate": "weighted", "scale_weights": [0.0] * 5}, "scale_weights: expected 6 numbers, got 5"),
        ({"range_fraction": 0.0}, "range_fraction"),
        ({"range_fraction": 1.1}, "range_fraction"),
        ({"policy": {"turn_angle": 90.0}}, "'turn_angle': 90.0"),
        ({"policy": {"turn_angle": [0.0, math.nan, 180.0]}}, "policy: turn_angle: expected finite numbers, got .*nan"),
        ({"view_offsets": [0.0, 0.0, 0.0, math.inf]}, "view_offsets: expected finite numbers"),
        (
            {"view_offsets": [0.0] * 4, "policy": {"turn_angle": [0.0, 90.0, 180.0]}},
            "view_offsets: expected 4 numbers, .* no policy; got 4 with 'top' and policy={'turn_angle'",
        ),
    ],
)
def test_more_bad_arguments(kwargs, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.TTAModel(Tiny(), make_lively(["turn"]), 3, **kwargs)


def test_a_view_that_a_family_leaves_alone_is_as_without_it():
    """A policy of crops at the edge and of rotations: an unrotated crop has no `fill` blended into its border."""
    aug = make_lively(["crop", "rotate"], fill=1.0).eval()
    images, seen = torch.rand(3, 3, 24, 24), []

    class Keep(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    policy = {"cx": [0.25, 0.5], "cy": [0.25, 0.5], "w": [0.5, 1.0], "h": [0.5, 1.0], "angle": [0.0, 30.0]}
    ia.TTAModel(Keep(), aug, 2, policy=policy)(images)
    crop = make_lively(["crop"], fill=1.0)
    alone = crop(
        images, params=ia.AugmentParams(**{k: torch.full((3,), v[0]) for k, v in policy.items() if k != "angle"})
    )
    assert torch.allclose(seen[0][:3], alone, atol=1e-6)
    rotated = make_lively(["rotate"], fill=1.0)(images, params=ia.AugmentParams(angle=torch.full((3,), 30.0)))
    assert torch.allclose(seen[0][3:], rotated, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_come_in_the_precision_of_the_classifier(dtype):
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)).to(dtype).eval()
    aug, images = make_lively(["turn"]).eval(), torch.rand(5, 3, 16, 16)
    for views in ({"n_views": 2}, {"n_views": 2, "policy": {"turn_angle": [0.0, 90.0]}}):
        assert ia.TTAModel(classifier, aug, **views)(images).shape == (5, 3)


def test_no_images_have_no_answers_and_a_list_is_no_batch():
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)).eval()
    model = ia.TTAModel(classifier, make_lively(["turn"]).eval(), 2)
    assert model(torch.rand(0, 3, 16, 16)).shape == (0, 3)
    with pytest.raises(
        ia.InstaAugError, match=r"images: expected a tensor .* got list; stack tensors of them, .*to_image"
    ):
        model([torch.rand(3, 16, 16)])


def test_layers_with_a_setting_called_p_are_no_dropout():
    class GeM(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.full((3,), 3.0))

        def forward(self, x):
            return x.clamp(min=1e-6).pow(self.p[:, None, None]).mean((2, 3)).pow(1 / self.p)

    assert ia.TTAModel(GeM().train(), make_lively(["turn"]).eval(), 2)(torch.rand(2, 3, 16, 16)).shape == (2, 3)


def test_bytes_go_to_who_takes_them():
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)).eval()

    class Bytes(nn.Module):
        def forward(self, x):
            assert x.dtype == torch.uint8
            return linear(x.float() / 255)

    aug, images = make_lively(["turn"]).eval(), torch.randint(255, (4, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(ia.TTAModel(Bytes(), aug, 2)(images), ia.TTAModel(linear, aug, 2)(images / 255), atol=1e-3)

    class Picky(nn.Module):
        def forward(self, x):
            raise TypeError("floats only\nand more of it")

    for model in (linear, Picky()):
        with pytest.raises(
            ia.InstaAugError, match="images: the classifier gets them as they are given, and does not"
        ) as e:
            ia.TTAModel(model, aug, 2)(images)
    assert "take bytes (floats only); give floats" in str(e.value)


def test_what_a_model_is_by_default():
    model = ia.TTAModel(Tiny(), make_lively(["crop"]))
    assert (model.n_views, model.select, model.include_identity, model.range_fraction) == (10, "top", True, 1.0)
    assert (model.chunk_size, model.aggregate, model.power, model.policy, model.put_right) == (
        256,
        "mean_prob",
        0.5,
        None,
        0,
    )
    assert model.classifier is model.model and not model.put_right and model.asks
    plain = ia.TTAModel(nn.Flatten(), make_lively(["crop"]))
    assert plain.num_classes is None and plain.pretrained_cfg == {}
    segmenting = ia.SegmentationTTA(nn.Conv2d(3, 2, 1), make_lively(["crop"]))
    assert (segmenting.n_views, segmenting.select, segmenting.range_fraction, segmenting.chunk_size) == (
        4,
        "top",
        1.0,
        64,
    )
    assert segmenting.include_identity
    assert ia.TTAModel(Tiny(), make_lively(["crop"]), 1, range_fraction=1.0, chunk_size=1).chunk_size == 1


@pytest.mark.parametrize(
    "kwargs",
    [{"n_views": 2.0}, {"n_views": -1}, {"chunk_size": 0}, {"range_fraction": -0.5}, {"range_fraction": math.nan},
     {"view_offsets": [0.0] * 3}, {"view_offsets": [0.0] * 5}, {"view_offsets": [0.0] * 4, "select": "sample"}],
)  # fmt: skip
def test_arguments_at_the_edge_of_what_is_allowed(kwargs):
    with pytest.raises(ia.InstaAugError, match=next(iter(kwargs))):
        ia.TTAModel(Tiny(), make_lively(["turn"]), **kwargs)
    with pytest.raises(ia.InstaAugError, match="view_offsets: expected 1 numbers"):
        ia.TTAModel(Tiny(), make_lively(["rotate"]), view_offsets=[0.0])


def test_offsets_choose_views(images):
    aug = make_lively(["turn"])
    offsets = [0.0, 50.0, 100.0, 0.0]
    model = ia.TTAModel(Tiny(), aug, 2, include_identity=False, view_offsets=offsets)
    views = torch.stack([model.model(images.rot90(k, (-2, -1))).softmax(-1) for k in (2, 1)])
    assert torch.allclose(model(images).softmax(-1), views.mean(0), atol=1e-5)


def test_another_classifier_than_the_one_that_was_measured_is_warned_of(caplog):
    """Not where nothing is known of it, and not where the result is at hand."""
    aug, model = make_lively(["turn"]), Tiny()
    setting = {"recommended": {"n_views": 2}}

    class Result:
        report = None

    for known, result, warned in (
        (None, None, False), (model_sha256(model), None, False), ("0" * 64, None, True), ("0" * 64, Result(), False),
    ):  # fmt: skip
        caplog.clear()
        aug.recommended = setting | ({} if known is None else {"model": known})
        assert ia.TTAModel.recommended(model, aug, result, chunk_size=7).chunk_size == 7
        assert ("was found on held-out images of another one" in caplog.text) == warned


def test_a_classifier_that_refuses_bytes_without_a_word_is_named():
    class Silent(nn.Module):
        def forward(self, images):
            raise RuntimeError

    with pytest.raises(ia.InstaAugError, match=r"does not take bytes \(RuntimeError\)"):
        ia.TTAModel(Silent(), make_lively(["turn"]), 2)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("identity", "setting", "said"),
    [
        (1 - 1e-5, {}, True),  # the other three turns: 3e-6 each
        (1 - 1e-5, {"n_views": 2}, True),
        (0.9, {}, False),
        (1 - 1e-5, {"aggregate": "probability"}, False),
        (1 - 1e-5, {"select": "sample"}, False),
        (1 - 1e-5, {"view_offsets": [0.0] * 4}, False),
    ],
)
def test_votes_of_views_that_are_ruled_out_are_named_once(identity, setting, said, images, caplog):
    """Trained together, a table of turns collapsed to none; ten of its views, equally weighted, took digits from 96 to 15 %."""
    model = ia.TTAModel(Tiny(), ia.LearnedAugment([Turn(initial_identity=identity)]), **({"n_views": 4} | setting))
    for _ in range(2):
        model(images)
    share = 50 if setting.get("n_views") == 2 else 75
    found = [record.message for record in caplog.records if "all but ruled out by φ" in record.message]
    assert len(found) == said and all(message.startswith(f"n_views: {share} %") for message in found)
