"""What the way back from views to images is called with."""

import pytest
import torch

import instaaug_transforms as ia

from .conftest import make_lively


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda aug, params, what: (what, aug, params), "aug: expected a LearnedAugment, got Tensor"),
        (lambda aug, params, what: (aug, params, what), r"(maps|points): expected a tensor, got AugmentParams"),
        (
            lambda aug, params, what: (aug, what.numpy(), params),
            r"(maps|points): expected a tensor, got ndarray.*as_tensor",
        ),
        (lambda aug, params, what: (aug, what, None), "params: expected AugmentParams.*got NoneType"),
        (lambda aug, params, what: (aug, what, aug.sample(torch.rand(5, 3, 8, 8))[1]), "got AugmentSample; give its"),
        (
            lambda aug, params, what: (ia.LearnedAugment(["rotate"]), what, params),
            "fields of angle; got AugmentParams.cx",
        ),
    ],
)
@pytest.mark.parametrize("invert", [ia.invert_maps, ia.invert_points])
def test_arguments_of_another_kind_order_or_transform_are_named(invert, change, message):
    """Parameters of a transform of other families were taken for those of views that are the image itself."""
    aug = make_lively(["crop"])
    params = aug.distribution(torch.rand(5, 3, 8, 8)).mode
    what = torch.rand(5, 1, 8, 8) if invert is ia.invert_maps else torch.rand(5, 4, 2)
    with pytest.raises(ia.InstaAugError, match=message):
        invert(*change(aug, params, what), (8, 8))


def test_shapes_that_do_not_fit():
    smooth = torch.rand(5, 3, 40, 52)
    aug = make_lively(["crop"])
    params = aug.distribution(smooth).sample()
    with pytest.raises(ia.InstaAugError, match=r"maps: shape \(4, 3, 40, 52\).*\(5,\)"):
        ia.invert_maps(aug, smooth[:4], params, (40, 52))
    with pytest.raises(ia.InstaAugError, match="mode: expected one of bilinear, nearest, got 'cubic'"):
        ia.invert_maps(aug, smooth, params, (40, 52), mode="cubic")
    for size in (40, (40,), (40, 0), (40.0, 52)):
        for invert, what in ((ia.invert_maps, smooth), (ia.invert_points, torch.rand(5, 4, 2))):
            with pytest.raises(ia.InstaAugError, match=r"size: expected \(height, width\) of the images"):
                invert(aug, what, params, size)
    for size in (40, (0, 52), (40, 52, 3)):
        with pytest.raises(ia.InstaAugError, match=r"view_size: expected \(height, width\) of the views, got"):
            ia.invert_points(aug, torch.rand(5, 4, 2), params, (40, 52), view_size=size)
    with pytest.raises(ia.InstaAugError, match=r"points: shape \(5, 2\)"):  # two numbers per image are no points
        ia.invert_points(aug, torch.rand(5, 2), params.for_each(2), (40, 52))
    with pytest.raises(ia.InstaAugError, match=r"points: shape"):
        ia.invert_points(aug, torch.rand(4, 2), params, (40, 52))
    with pytest.raises(ia.InstaAugError, match="as large as the images"):
        ia.SegmentationTTA(torch.nn.Conv2d(3, 2, 1), make_lively(["crop"], output_size=8))
