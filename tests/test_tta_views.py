"""How views are chosen and combined, and when a look at an image is the answer."""

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.families import create
from instaaug_transforms.tta.shared import SharedViews
from instaaug_transforms.tta.views import (
    check_eval,
    choose_views,
    combined,
    families_after,
    families_beside,
    load_setting,
    normalizing,
    same_views,
    sees_images,
    unchanged,
)

from .conftest import Small, make_lively
from .test_tta import Tiny


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


def test_a_setting_is_what_models_take():
    setting = {"arm": "ours", "n_views": 2, "include_identity": False, "aggregate": "probability", "policy": None, "select": "top",
               "range_fraction": 0.5, "view_offsets": [1.0], "put_right": 1, "top1": 3.0}  # fmt: skip
    assert load_setting(setting) == {name: value for name, value in setting.items() if name not in ("arm", "top1")}
    assert load_setting({"arm": "one view"}) == {}


def test_views_of_what_was_put_right_are_in_the_order_of_the_policy():
    """Two candidates of three images, and then two mirrorings of each: a crop of a crop, and what only one of both has."""
    first = ia.AugmentParams(turn=torch.tensor([[0, 1, 2], [3, 2, 1]]))
    both = combined(first, ia.AugmentParams(flip=torch.tensor([0.0, 1.0])))
    assert both.turn.tolist() == [[0, 1, 2], [3, 2, 1]] * 2 and both.flip.tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    box = {"cx": 0.25, "cy": 0.5, "w": 0.5, "h": 0.5, "flip": 1.0}
    crop = ia.AugmentParams(**{name: torch.full((1, 1), value) for name, value in box.items()})
    then = ia.AugmentParams(**{name: torch.tensor([value]) for name, value in {**box, "flip": 0.0}.items()})
    made = {name: field.item() for name, field in combined(crop, then).items()}
    assert made == {"cx": 0.375, "cy": 0.5, "w": 0.25, "h": 0.25, "flip": 1.0}  # in a mirrored frame left is right


def test_what_can_follow_a_transform_and_what_acts_beside_it():
    def names(families):
        return [family.name for family in families]

    def after(*given):
        return names(families_after(ia.LearnedAugment(list(given))))

    assert after("turn") == after("rotate", "hsv") == ["crop"] and after("crop") == after("crop", "light") == ["crop"]
    assert after("crop", "turn") == after("crop", "rotate") == [] and after("hsv") == ["crop"]
    assert names(families_beside(ia.LearnedAugment(["turn"]), "crop", "rotate")) == ["turn", "crop", "rotate"]
    assert names(families_beside(ia.LearnedAugment(["crop", "rotate"]), "crop", "rotate")) == ["crop", "rotate"]
    assert names(families_beside(ia.LearnedAugment(["hsv"]))) == ["hsv"]


def test_which_views_are_the_same_and_which_are_the_image():
    chain = create(["turn", "hsv"])
    one = {
        "turn_angle": [0.0, 90.0, 0.0],
        "turn": [0, 1, 7],
        "hue": [0.0, 0.0, 0.1],
        "saturation": [1.0, 1.0, 1.0],
        "value": [1.0] * 3,
    }
    params = ia.AugmentParams(**{name: torch.tensor(value) for name, value in one.items()})
    assert unchanged(chain, params).tolist() == [True, False, False] and unchanged(chain[:1], params).tolist() == [
        True,
        False,
        True,
    ]
    assert unchanged(chain, ia.AugmentParams(hue=torch.tensor([0.0, 0.2]))).tolist() == [True, False]
    other = params.replace(hue=torch.tensor([0.0, 0.5, 0.1]), turn=torch.tensor([3, 1, 7]))
    assert same_views(chain, params, other).tolist() == [True, False, True]  # the index does not act


def test_a_repetition_of_the_image_itself_comes_last_of_the_likeliest_and_stays_among_samples():
    aug = make_lively(["turn"])
    d = aug.distribution(torch.rand(3, 3, 16, 16))
    p = d.parts["turn"].categorical.probs
    for n in (2, 3, 4, 5, 6):
        found = choose_views(d, n).turn
        for b in range(3):
            ranked = p[b].argsort(descending=True).tolist()
            others = [a for a in ranked if a]
            # All four, and then, of the n likeliest, which repeat from the fifth on, those that are the image again.
            top = [ranked[i % 4] for i in range(n)]
            expected = [0, *[a for a in top if a], *[a for a in top if not a]][:n]
            assert found[:, b].tolist() == expected and (n > 4 or expected == [0, *others][:n])
    sampled = choose_views(d, 50, "sample", generator=torch.Generator().manual_seed(0)).turn
    drawn = d.select(50, "sample", torch.Generator().manual_seed(0)).turn
    assert (sampled[0] == 0).all() and torch.equal(sampled[1:], drawn[:49])


def test_when_the_look_is_the_answer():
    """φ reads this very classifier, at the size of the images, and views are no smaller."""
    model = Small()
    aug = ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(model, image_size=32))
    assert sees_images(aug, model, (32, 32)) and sees_images(aug, model, torch.Size((32, 32)))
    assert not (
        sees_images(aug, Small(), (32, 32)) or sees_images(aug, model, (32, 48)) or sees_images(aug, model, (48, 32))
    )
    assert not sees_images(make_lively(["turn"]), model, (32, 32))
    for size, answers in ((32, True), (16, False)):
        predictor = ia.FeaturesPredictor(model, image_size=32)
        assert (
            sees_images(ia.LearnedAugment(["turn"], predictor=predictor, output_size=size), model, (32, 32)) == answers
        )


def test_a_classifier_of_normalised_images_is_one_of_images(images):
    plain, norm = make_lively(["turn"]), make_lively(["turn"], normalization=((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)))
    model = Tiny()
    assert normalizing(plain, model) is model
    assert torch.allclose(
        normalizing(norm, model)(images), model(v2.Normalize((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))(images))
    )


def test_training_mode_is_refused_of_layers_that_mind_alone():
    class Stochastic(nn.Module):
        drop_prob = 0.2

    class StochasticDrop(Stochastic):
        pass

    class ZeroDrop(Stochastic):
        drop_prob = None

    for layer, refused in (
        (StochasticDrop(), True),
        (Stochastic(), False),
        (ZeroDrop(), False),
        (nn.Dropout(0.01), True),
    ):
        if refused:
            with pytest.raises(ia.InstaAugError, match="training mode"):
                check_eval(nn.Sequential(layer))
        else:
            check_eval(nn.Sequential(layer))
        check_eval(nn.Sequential(layer).eval())


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_what_a_report_asks_of_views_is_what_a_model_of_them_sees(size):
    """All combinations of crops and turns, of images that are no squares too: edges alike."""
    classifier, aug = nn.Flatten().eval(), make_lively(["crop", "turn"])
    images = torch.rand(5, 3, *size)
    views = choose_views(aug.distribution(images), 120, include_identity=False)
    (seen,) = SharedViews(classifier, aug, 64, False).logits(images, [views])
    model = ia.TTAModel(classifier, aug, 120, include_identity=False, aggregate="mean_logit")
    assert torch.allclose(seen.mean(0), model(images), atol=1e-5)


@pytest.mark.parametrize("place", [26, -1, 1.5])
def test_a_policy_of_places_that_a_table_does_not_have_is_refused(place):
    """−1 was the last one, half a place the one before it, and 26 of 26 an IndexError at the first image."""
    with pytest.raises(ia.InstaAugError, match=rf"policy: erase_anchor .* whole numbers from 0 to 25, got .*{place}"):
        ia.TTAModel(Tiny(), make_lively(["erase"]), 2, policy={"erase_anchor": [0, place]})
    assert ia.TTAModel(Tiny(), make_lively(["erase"]), 2, policy={"erase_anchor": [0, 25]}).n_views == 2


def test_what_rests_in_a_fixed_view_blends_no_fill_into_what_is_segmented():
    """The crop at the edge, by itself; beside an angle of 0 its border was a quarter fill."""
    images, seen = torch.rand(2, 3, 16, 16), []

    class Keep(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, :2]

    policy = {"cx": [0.5, 0.25], "cy": [0.5, 0.25], "w": [1, 0.5], "h": [1, 0.5], "angle": [0, 0]}
    ia.SegmentationTTA(Keep(), make_lively(["crop", "rotate"], fill=1.0), 2, policy=policy)(images)
    expected = torch.cat([images, v2.functional.resize(images[:, :, :8, :8], [16, 16])])
    border = (
        slice(None),
        slice(None),
        slice(0, 14),
        slice(0, 14),
    )  # inside the image a crop is resized with what is around it
    assert torch.allclose(seen[0][border], expected[border], atol=1e-5)


@pytest.mark.parametrize(
    ("families", "views", "said"),
    [
        (["turn"], 4, None),
        (["turn"], 10, "6 of 10 views"),
        (["turn", "light"], 10, None),
        (["turn", "rotate"], 10, None),
    ],
)
def test_more_views_than_there_are_candidates_are_named(families, views, said, caplog):
    ia.TTAModel(Tiny(), make_lively(families), views)
    assert "are repetitions" not in caplog.text if said is None else said in caplog.text
    ia.TTAModel(Tiny(), make_lively(families), 10, select="sample")
    assert caplog.text.count("repetitions") == (said is not None)
