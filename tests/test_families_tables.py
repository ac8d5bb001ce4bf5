"""Tables of candidates: rows, priors, and the crops that they hold."""

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.families.anchors import AnchorFamily
from instaaug_transforms.families.crop import Crop


class Table(AnchorFamily):
    """Candidates without a place."""

    name, stage, fields = "test_table", "colour", ("a", "b", "test_table")

    def __init__(self, size=3, initial_identity=0.9):
        columns = {"a": torch.arange(size), "b": 10 * torch.arange(size)}
        super().__init__(columns, initial_identity)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("p", [0.9, 0.4])
def test_before_a_fit_the_other_candidates_share_what_the_identity_leaves(size, p):
    family = Table(size, p)
    expected = [p] + [(1 - p) / max(size - 1, 1)] * (size - 1)
    assert torch.allclose(family.log_prior().exp(), torch.tensor(expected)) and family.log_prior().shape == (size,)
    assert (
        family.max_entropy() == pytest.approx(np.log(size)) and family.mirror_index() is family.compose_index() is None
    )


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 1.1, "x"])
def test_the_identity_is_neither_certain_nor_ruled_out_before_a_fit(p):
    with pytest.raises(
        ia.InstaAugError, match=rf"test_table: initial_identity: expected a number in \(0, 1\), got {p!r}"
    ):
        Table(initial_identity=p)


def test_candidates_are_rows_of_a_table():
    family = Table(4)
    taken = family.take(torch.tensor([[3, 0], [1, 1]]))
    assert taken["a"].tolist() == [[3, 0], [1, 1]] and taken["b"].tolist() == [[30, 0], [10, 10]]
    assert torch.equal(family.candidates()["test_table"], torch.arange(4)) and family.identity() == {
        "a": 0,
        "b": 0,
        "test_table": 0,
    }
    near = ia.AugmentParams(a=torch.tensor([0.4, 2.9, 3.0]), b=torch.tensor([5.4, 20.0, 4.0]))
    assert family.nearest(near).tolist() == [1, 2, 0]  # |a − k| + |b − 10 k|: 5.2, not 5.8; 0.9; 7, not 8
    widest = family.widest(torch.tensor([[0.0], [0.2499], [0.25], [0.74], [0.76], [1.0]]))
    assert widest["test_table"].tolist() == [0, 0, 1, 2, 3, 3]
    left_out = family.left_out(ia.AugmentParams(test_table=torch.tensor([2.0])))
    assert {name: field.tolist() for name, field in left_out.items()} == {"a": [2.0], "b": [20.0]}
    assert {n: f.tolist() for n, f in family.left_out(ia.AugmentParams(b=torch.tensor([7.0]))).items()} == {"a": [0.0]}
    with pytest.raises(ia.InstaAugError, match="family 'test_table' has no candidates that undo each other"):
        family.undoing({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (1.0, 0.5), "grids": (1,)}, "one entry per scale"), ({"scales": (), "grids": ()}, "one entry per scale"),
        ({"scales": (0.9, 0.5), "grids": (1, 2)}, "start with the whole image"),
        ({"scales": (1.0, 0.5), "grids": (2, 2)}, "start with the whole image"),
        ({"scales": (1.0, 0.0), "grids": (1, 2)}, r"scales: expected a number in \(0, 1\], got 0.0"),
        ({"scales": (1.0, 1.1), "grids": (1, 2)}, r"scales: expected a number in \(0, 1\], got 1.1"),
        ({"scales": (1.0, 0.5), "grids": (1, 0)}, "grids: expected a whole number ≥ 1, got 0"),
        ({"scales": (1.0, 0.5), "grids": (1, 2.0)}, "grids: expected a whole number ≥ 1, got 2.0"),
        ({"scales": (1.0, 0.5), "grids": (1, 256)}, "more than 65536 boxes"),
        ({"zooms": (1.0,)}, r"zooms: expected a number in \(0, 1\), got 1.0"),
        ({"zooms": (0.5, 0.0)}, r"zooms: expected a number in \(0, 1\), got 0.0"),
        ({"zooms": 0.8}, r"zooms: expected several numbers, or one in brackets, \(0.8,\); got 0.8"),
        ({"zooms": "12"}, "zooms: expected several numbers"), ({"scales": 1.0, "grids": 1}, "scales: expected several numbers"),
        ({"flips": "left"}, "flips must be one of False, True, 'centre'"), ({"scales": "paper"}, "one of paper_64px"),
    ],
)  # fmt: skip
def test_tables_of_crops_that_are_none(options, message):
    with pytest.raises(ia.InstaAugError, match=f"crop: .*{message}"):
        Crop(**options)


def test_the_largest_tables():
    """65,536 boxes, and whole numbers where the side is the whole image."""
    assert families.create(["erase"], {"erase": {"scales": (1.0,), "grids": (1,)}})[0].n_candidates == 2
    assert families.boxes.check_grids("erase", (0.1,), (256,)) is None
    with pytest.raises(ia.InstaAugError, match="erase: grids .* more than 65536 boxes"):
        families.boxes.check_grids("erase", (0.1, 1.0), (256, 1))


def test_crops_of_the_papers_small_images():
    """One whole image, 8 × 8 of three quarters and 16 × 16 of three eighths; outermost ones touch the edges."""
    crop = Crop("paper_64px")
    assert torch.bincount((crop.anchors[:, 2] * 1000).round().long()).nonzero().flatten().tolist() == [375, 750, 1000]
    for side, n in ((1.0, 1), (0.75, 8), (0.375, 16)):
        some = crop.anchors[crop.anchors[:, 2] == side]
        line = torch.linspace(side / 2, 1 - side / 2, n)
        expected = torch.stack([line.repeat(n), line.repeat_interleave(n)], 1)
        assert torch.allclose(some[:, :2], expected, atol=1e-6) and torch.equal(some[:, 2], some[:, 3])


def test_zooms_and_mirrored_centres_follow_the_grid():
    """Of a column of three boxes only the one in the middle of the image is offered mirrored."""
    crop = Crop(scales=(1.0, 0.5), grids=(1, 3), flips="centre", zooms=(0.9, 0.7))
    boxes = [[0.5, 0.5, 1.0, 0.0]] + [[x, y, 0.5, 0.0] for y in (0.25, 0.5, 0.75) for x in (0.25, 0.5, 0.75)]
    boxes += [[0.5, 0.5, 0.9, 0.0], [0.5, 0.5, 0.7, 0.0]] + [[0.5, 0.5, side, 1.0] for side in (1.0, 0.5, 0.9, 0.7)]
    assert torch.allclose(crop.anchors[:, [0, 1, 2, 4]], torch.tensor(boxes), atol=1e-6)
    assert crop.half_cell.tolist() == pytest.approx([0.0] + [0.125] * 9 + [0.0] * 2 + [0.0, 0.125, 0.0, 0.0])
    assert crop.mirror_index() is None and Crop().mirror_index() is None
    assert Crop(flips=True, zooms=(0.5,)).n_candidates == 62


def test_the_nearest_crop_counts_a_mirror_image_most_and_sides_by_their_ratio():
    crop = Crop(scales=(1.0, 0.5), grids=(1, 2), flips=True)
    given = {
        "cx": [0.3, 0.3, 0.5],
        "cy": [0.3, 0.3, 0.5],
        "w": [0.55, 0.55, 0.72],
        "h": [0.5, 0.5, 0.72],
        "flip": [0.0, 1.0, 1.0],
    }
    params = ia.AugmentParams(**{name: torch.tensor(value) for name, value in given.items()})
    # log 0.72 is nearer to log 1 than to log 0.5, and 0.72 itself nearer to 0.5.
    assert crop.nearest(params).tolist() == [1, 6, 5]
    assert crop.nearest(ia.AugmentParams(**{n: params[n] for n in ("cx", "cy", "w", "h")})).tolist() == [1, 1, 0]


def test_jitter_moves_inside_the_image_alone():
    """At an edge only inwards; a side never exceeds the image, and the whole image stays."""
    crop = Crop(scales=(1.0, 0.9), grids=(1, 2), jitter=True)
    fields = crop.take(torch.tensor([0, 1]))
    moved = crop.jittered(fields, torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]))
    stretch = (4 / 3) ** 0.5
    w, h = min(0.9 * stretch, 1), 0.9 / stretch
    assert moved["w"].tolist() == pytest.approx([1, w]) and moved["h"].tolist() == pytest.approx([1, h])
    assert moved["cx"].tolist() == pytest.approx([0.5, 0.5]) and moved["cy"].tolist() == pytest.approx([0.5, 0.5])
    down = crop.jittered(fields, torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    assert down["w"].tolist() == pytest.approx([1, h]) and down["h"].tolist() == pytest.approx([1, 1])
    assert down["cx"].tolist() == pytest.approx([0.5, 0.45]) and down["anchor"].tolist() == [0, 1]
    assert Crop(jitter=True).changes_frame and not Crop().changes_frame


@pytest.mark.parametrize("place", [90, 4, -1])
def test_an_index_beyond_the_table_is_named(place):
    """``turn`` counts candidates, and ``turn_angle`` is in degrees; PyTorch said that an index is out of range in self."""
    aug, message = ia.LearnedAugment(["turn"]), "turn.* from 0 to 3, got .*it says which candidate.*turn_angle"
    with pytest.raises(ia.InstaAugError, match=message):
        aug(torch.rand(2, 3, 8, 8), params=ia.AugmentParams(turn=torch.tensor([0, place])))
    with pytest.raises(ia.InstaAugError, match=message):
        ia.TTAModel(torch.nn.Flatten(), aug, 2, policy={"turn": [0, place]})
