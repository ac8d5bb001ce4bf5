import copy
import pickle

import pytest
import torch

from instaaug_transforms import AugmentParams, InstaAugError


def test_fields_are_read_by_name_and_attribute():
    params = AugmentParams(angle=torch.tensor([1.0, 2.0]), hue=torch.zeros(2))
    assert torch.equal(params.angle, params["angle"])
    assert list(params) == ["angle", "hue"] and params.batch_shape == (2,)
    with pytest.raises(AttributeError, match="no field 'cx'"):
        _ = params.cx


def test_it_is_immutable():
    params = AugmentParams(angle=torch.zeros(2))
    with pytest.raises(AttributeError, match="immutable"):
        params.angle = torch.ones(2)
    with pytest.raises(AttributeError, match="immutable"):
        del params.angle


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p)), copy.copy])
def test_copies_are_equal(copier):
    params = AugmentParams(angle=torch.rand(3), field=torch.rand(3, 4))
    other = copier(params)
    assert all(torch.equal(other[name], params[name]) for name in params)


def test_flatten_is_view_major():
    params = AugmentParams(angle=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert params.flatten().angle.tolist() == [1, 2, 3, 4, 5, 6]
    assert params.index(1).angle.tolist() == [4, 5, 6]


def test_where_and_cat_and_replace():
    one, two = AugmentParams(a=torch.zeros(2), b=torch.zeros(2, 3)), AugmentParams(a=torch.ones(2), b=torch.ones(2, 3))
    mixed = one.where(torch.tensor([True, False]), two)
    assert mixed.a.tolist() == [0, 1] and mixed.b.sum(1).tolist() == [0, 3]
    assert AugmentParams.cat([one, two]).a.tolist() == [0, 0, 1, 1]
    assert one.replace(a=torch.full((2,), 7.0)).a.tolist() == [7, 7]


def test_the_same_views_for_each_of_some_images_and_the_same_numbers_for_all():
    views = AugmentParams(a=torch.tensor([1.0, 2.0]), b=torch.tensor([[1, 2, 3], [4, 5, 6]])).for_each(4)
    assert views.batch_shape == (2, 4) and views.a.tolist() == [[1] * 4, [2] * 4]
    assert views.b.tolist() == [[[1, 2, 3]] * 4, [[4, 5, 6]] * 4]
    same = AugmentParams.alike({"a": 0.5, "b": 3}, 2)
    assert same.a.tolist() == [0.5, 0.5] and same.b.tolist() == [3, 3] and same.b.dtype == torch.int64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no field"),
        ({"angle": 3.0}, "'angle' must be a tensor, got float"),
        ({"angle": torch.tensor(1.0)}, r"\(B,\) or \(n, B\)"),
        ({"angle": torch.zeros(2), "hue": torch.zeros(3)}, r"shape \(3,\)"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(InstaAugError, match=message):
        AugmentParams(**fields)


def test_those_of_equal_fields_are_equal():
    params = AugmentParams(angle=torch.tensor([1.0, 2.0]), hue=torch.zeros(2))
    assert params == AugmentParams(hue=torch.zeros(2), angle=torch.tensor([1.0, 2.0]))
    others = (
        params.replace(hue=torch.ones(2)),
        AugmentParams(angle=params.angle),
        params.index(slice(1)),
        dict(params),
        3,
    )
    assert not any(params == other for other in others)


ONE, TWO = AugmentParams(a=torch.zeros(2)), AugmentParams(a=torch.zeros(2), b=torch.zeros(2, 3))
TRUE = torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("join", "message"),
    [
        (lambda: AugmentParams.cat([]), "parts: expected one AugmentParams or more"),
        (lambda: AugmentParams.cat([ONE, {}]), "parts: expected AugmentParams, got dict"),
        (lambda: AugmentParams.cat([ONE, TWO]), "parts: expected the same fields, got a and a, b"),
        (lambda: AugmentParams.cat([ONE, ONE.for_each(3)]), r"parts: expected a of equal shapes.* \(2,\) and \(2, 3\)"),
        (lambda: ONE.where(TRUE, TWO), "other: expected the same fields, got a and a, b"),
        (lambda: ONE.where(TRUE, ONE.index([0, 1, 1])), r"other: expected batch_shape \(2,\), got \(3,\)"),
        (lambda: ONE.where(TRUE[:1], ONE), r"mask: expected booleans \(2,\).*got \(1,\)"),
        (lambda: ONE.where(torch.ones(2), ONE), r"mask: expected booleans.* torch.float32"),
        (lambda: ONE.where([True, False], ONE), "mask: expected booleans.* got list"),
    ],
)
def test_what_cannot_be_joined_is_named(join, message):
    """Fields that the first had not were dropped; others gave a KeyError or a message about a dimension."""
    with pytest.raises(InstaAugError, match=message):
        join()


def test_a_mask_may_choose_whole_views():
    views = AugmentParams(a=torch.zeros(2, 3)).where(torch.tensor([True, False]), AugmentParams(a=torch.ones(2, 3)))
    assert views.a.tolist() == [[0, 0, 0], [1, 1, 1]]
