"""Pictures of crops: boxes, centres, sizes."""

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.viz.crops import centre_density

from .conftest import make_lively


def test_crops_are_drawn_in_pixels():
    aug = make_lively(["crop"])
    image = torch.rand(3, 60, 80)
    axes = viz.likeliest_crops(aug, image, k=1).axes[0]
    dark, white, box = axes.patches
    # A dark and a white line under every edge: it is seen on any picture.
    assert dark.get_bbox().bounds == white.get_bbox().bounds == box.get_bbox().bounds
    assert dark.get_linewidth() > white.get_linewidth() > box.get_linewidth()
    assert max(dark.get_edgecolor()[:3]) < 0.2 and min(white.get_edgecolor()[:3]) == 1
    mode = aug.distribution(image).mode
    assert box.get_width() == pytest.approx(80 * mode.w.item(), rel=1e-5)
    assert box.get_x() + box.get_width() / 2 == pytest.approx(80 * mode.cx.item() - 0.5, abs=1e-3)
    assert box.get_y() + box.get_height() / 2 == pytest.approx(60 * mode.cy.item() - 0.5, abs=1e-3)


def test_every_box_says_how_likely_it_is_and_is_drawn_once():
    """Mirrored views show the same box."""
    aug = make_lively([Crop(flips=True)])
    image = torch.rand(3, 60, 80)
    probs, anchors = aug.distribution(image).parts["crop"].categorical.probs[0], aug.families[0].anchors
    by_box = {}
    for p, box in zip(probs.tolist(), anchors[:, :4].tolist(), strict=True):
        by_box[tuple(box)] = by_box.get(tuple(box), 0.0) + p
    axes = viz.likeliest_crops(aug, image, k=4).axes[0]
    expected = [f"{100 * p:.0f} %" for p in sorted(by_box.values(), reverse=True)[:4]]
    assert [text.get_text() for text in axes.texts] == expected and len(axes.patches) == 3 * 4


def test_the_scale_ends_at_the_likeliest_box_with_its_mirror_image():
    aug = ia.LearnedAugment([Crop(flips=True)])
    with torch.no_grad():
        for weight in aug.parameters():
            weight.zero_()  # each of four scales, and each side, is as likely
    figure = viz.likeliest_crops(aug, torch.rand(3, 24, 32))
    assert figure.axes[0].texts[0].get_text() == "25 %"
    assert figure.axes[1].get_ylim() == pytest.approx((0, 25), abs=1e-3)


def test_likelier_boxes_are_darker_and_thicker():
    """In greyscale too, and for eyes without red or green cones (Viénot et al. 1999): luminance falls as probability rises."""
    aug = make_lively(["crop"])
    axes = viz.likeliest_crops(aug, torch.rand(3, 60, 80), k=6).axes[0]
    boxes = axes.patches[2::3]  # the likeliest first
    rgb = torch.tensor([box.get_edgecolor()[:3] for box in boxes]) ** 2.2
    no_red = torch.tensor([[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.004, -0.004, 1.0]])
    no_green = torch.tensor([[0.2927, 0.7073, 0.0], [0.2927, 0.7073, 0.0], [-0.0223, 0.0223, 1.0]])
    for eyes in (torch.eye(3), no_red, no_green):
        light = ((rgb @ eyes.T) @ torch.tensor([0.2126, 0.7152, 0.0722])).tolist()
        assert len(boxes) == 6 and light == sorted(light)
    assert [box.get_linewidth() for box in boxes] == sorted((box.get_linewidth() for box in boxes), reverse=True)


def test_density_of_centres_has_the_moments_of_the_distribution():
    aug = make_lively(["crop"])
    images = torch.rand(3, 3, 32, 32)
    part = aug.distribution(images).parts["crop"]
    density, whole = centre_density(part, 48)
    probs, anchors = part.categorical.probs, part.family.anchors
    assert torch.allclose(density.sum((1, 2)), torch.ones(3), atol=1e-5)
    assert torch.allclose(whole, probs[:, 0])  # one anchor is the whole image
    rest = probs[:, 1:] / probs[:, 1:].sum(1, keepdim=True)
    places = (torch.arange(48) + 0.5) / 48
    for dim, column in ((1, 0), (2, 1)):
        mean = (density.sum(dim) * places).sum(1)
        assert torch.allclose(mean, rest @ anchors[1:, column], atol=5e-3)


def test_centres_are_a_panel_per_image():
    figure = viz.crop_centres(make_lively(["crop"]), torch.rand(7, 3, 24, 32))
    assert len(figure.axes) == 7 and all(axes.images for axes in figure.axes)
    assert all(axes.get_title().startswith("whole image: ") for axes in figure.axes)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_the_lines_around_centres_mean_fits_on_the_page(n):
    figure = viz.crop_centres(make_lively(["crop"]), torch.rand(n, 3, 20, 30))
    figure.draw_without_rendering()
    (caption,) = (text for text in figure.texts if text.get_text().startswith("lines enclose"))
    extent = caption.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width


def test_sizes_are_the_shares_of_the_distribution():
    aug = make_lively(["crop"])
    images = torch.rand(5, 3, 32, 32)
    probs = aug.distribution(images).parts["crop"].categorical.probs
    left, right = viz.crop_sizes(aug, images).axes
    shares = [probs[:, 14:].sum(1), probs[:, 5:14].sum(1), probs[:, 1:5].sum(1), probs[:, 0]]
    for bar, share in zip(left.patches, shares, strict=True):
        assert bar.get_height() == pytest.approx(100 * share.mean().item(), rel=1e-4)
    mean = right.lines[-1].get_ydata()
    assert mean[0] == 100 and mean[-1] == 0 and mean[1] == pytest.approx(100 * (1 - shares[0].mean().item()), rel=1e-4)
