import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.utils.errors import check_number, check_one_of, check_whole, several


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [
        ("(0, 1]", (1e-9, 1, 0.5, np.float32(0.5)), (0, -1e-9, 1.001)),
        ("[0, 1)", (0, 0.999), (1, -0.1)),
        ("(0, ∞)", (1e300, 1), (0, math.inf)),
        ("[-1, ∞]", (-1, math.inf), (-1.5, -math.inf)),
    ],
)
def test_numbers_lie_within_an_interval_with_or_without_its_ends(within, inside, outside):
    for value in inside:
        check_number("a", value, within)
    for value in (*outside, math.nan, "x", None, [0.5]):
        with pytest.raises(ia.InstaAugError) as caught:
            check_number("a", value, within)
        assert str(caught.value) == f"a: expected a number in {within}, got {value!r}"


def test_whole_numbers_have_a_least_and_a_largest():
    for value in (2, 5, np.int64(3)):
        check_whole("a", value, 2, 5)
    for value in (1, 6, 2.0, "3", None, True):
        with pytest.raises(ia.InstaAugError) as caught:
            check_whole("a", value, 2, 5)
        assert str(caught.value) == f"a: expected a whole number in 2 … 5, got {value!r}"
    with pytest.raises(ia.InstaAugError, match="a: expected a whole number ≥ 1, got 0"):
        check_whole("a", 0)


def test_what_is_no_learned_augment_is_named_wherever_one_is_taken():
    """A classifier in its place, or the Compose that it stands in, which was an AttributeError, or all of whose weights "are frozen"."""
    model, images, inside = nn.Conv2d(3, 2, 1).eval(), torch.rand(4, 3, 8, 8), ia.LearnedAugment(["turn"])
    takers = [
        lambda aug: ia.fit(aug, model, images),
        lambda aug: ia.recommend(aug, model, images),
        lambda aug: ia.TTAModel(model, aug),
        lambda aug: ia.SegmentationTTA(model, aug),
        lambda aug: ia.InstaAugObjective(aug),
        lambda aug: ia.kornia.wrap(aug),
        lambda aug: ia.tta.evaluate(model, aug, images, images),
        lambda aug: ia.TopViews(aug),
        lambda aug: ia.viz.likeliest_candidates(aug, images),
        lambda aug: ia.measure.Probe(model, images, progress=False).learned(aug),
    ]
    for take in takers:
        with pytest.raises(
            ia.InstaAugError, match=r"aug: expected a LearnedAugment, got Compose; give the one inside it"
        ):
            take(v2.Compose([inside]))
        with pytest.raises(
            ia.InstaAugError, match=r"aug: .* got Conv2d; fit and recommend take \(aug, classifier\), TTAModel"
        ):
            take(model)
        with pytest.raises(ia.InstaAugError, match=r"aug: .* got DataParallel; give the one that it wraps, aug.module"):
            take(nn.DataParallel(inside))
    compiled = torch.compile(inside, backend="eager")
    assert torch.equal(
        ia.TTAModel(model, compiled, 2, aggregate="mean_logit")(images),
        ia.TTAModel(model, inside, 2, aggregate="mean_logit")(images),
    )
    ia.InstaAugObjective(compiled)


def test_none_will_do_where_that_is_said():
    check_whole("a", None, optional=True)
    check_number("a", None, "(0, 1)", optional=True)
    with pytest.raises(ia.InstaAugError, match=r"a: expected a number in \(0, 1\), or None, got 2"):
        check_number("a", 2, "(0, 1)", optional=True)
    with pytest.raises(ia.InstaAugError, match="a: expected a whole number ≥ 2, or None, got 1"):
        check_whole("a", 1, 2, optional=True)


def test_one_of_some_words():
    for known in (("x", "y"), {"x": 1, "y": 2}):
        check_one_of("a", "x", known)
        for value in ("z", None, ["x"]):
            with pytest.raises(ia.InstaAugError) as caught:
                check_one_of("a", value, known)
            assert str(caught.value) == f"a: expected one of x, y, got {value!r}"


def test_several_numbers():
    assert several("a", [1, 2.0]) == (1, 2.0) and several("a", ()) == ()
    for value in (3, "12", None, [[1], [2]]):
        with pytest.raises(ia.InstaAugError, match="a: expected several numbers"):
            several("a", value)
