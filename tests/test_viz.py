import copy
import subprocess
import sys

import matplotlib
import matplotlib.style
import numpy as np
import pytest
import torch
from kornia.color import rgb_to_hsv
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.functional.inputs import Normalization
from instaaug_transforms.tta.report import ArmResult, Evaluation
from instaaug_transforms.viz.colour import mean_colour
from instaaug_transforms.viz.crops import centre_density

from .conftest import make_lively

HISTORY = [
    {"loss": 2.0 - 0.2 * k, "entropy": {"crop": 1.0 + 0.1 * k, "rotate": -2.0}, "weight": {"crop": 0.1, "rotate": 0.2}}
    for k in range(4)
]


def arm(name, k, share):
    correct = np.arange(200) < 200 * share
    return ArmResult(name, k, correct, np.where(correct, 0.1, 2.0), 1.0, 0.0)


FOUND = [arm("single view", 1, 0.5), arm("horizontal flip", 2, 0.55)] + [
    arm(name, k, 0.5 + gain * k) for name, gain in (("random views", 0.005), ("ours", 0.02)) for k in (2, 4, 10)
]
SOME = Evaluation({(a.name, a.n_views): a for a in FOUND}, 200, 0)


def test_ranges_draw_what_was_learned(tmp_path):
    aug = make_lively(["crop", "rotate"], in_channels=1)
    images = torch.rand(3, 1, 24, 24)
    figure = viz.learned_ranges(aug, images, n_views=2)
    angle = aug.distribution(images).parts["rotate"].fields["angle"]
    titles = [axes.get_title() for axes in figure.axes]
    for b in range(3):
        assert f"{angle.lo[b].item():+.0f}° … {angle.hi[b].item():+.0f}°" in titles
        wedge = figure.axes[b].patches[1]
        assert wedge.theta1 == pytest.approx(90 + angle.lo[b].item()) and wedge.theta2 == pytest.approx(
            90 + angle.hi[b].item()
        )
    viz.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


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


@pytest.mark.parametrize("channels", [2, 5])
def test_images_of_other_channels_are_drawn_in_grey(channels):
    image = torch.rand(channels, 16, 16)
    figure = viz.contact_sheet(ia.LearnedAugment(["crop"], in_channels=channels), image)
    assert np.allclose(figure.axes[0].images[0].get_array(), image.mean(0), atol=1e-6)


def test_contact_sheet_starts_with_the_image():
    image = torch.rand(3, 30, 30)
    figure = viz.contact_sheet(make_lively(["rotate"]), image, rows=2, columns=3)
    assert [axes.get_title() for axes in figure.axes] == ["image", *["sample"] * 5]
    assert torch.allclose(torch.tensor(figure.axes[0].images[0].get_array().data).permute(2, 0, 1), image, atol=1e-6)


def test_contact_sheet_shows_equal_samples_once():
    aug = ia.LearnedAugment(["turn"])  # nine of ten are the image itself
    figure = viz.contact_sheet(aug, torch.rand(3, 30, 30), rows=3, columns=6)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    counts = [int(title.split()[0]) if title.endswith("17 samples") else 1 for title in titles[1:]]
    assert titles[0] == "image" and sum(counts) == 17 and len(counts) <= 4


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


def luminance(colour):
    """Relative luminance of an sRGB colour (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(colour, behind):
    low, high = sorted((luminance(colour), luminance(behind)))
    return (high + 0.05) / (low + 0.05)


DRAWN = {
    "crops": lambda: viz.likeliest_crops(make_lively(["crop"]), torch.rand(3, 24, 32)),
    "centres": lambda: viz.crop_centres(make_lively(["crop"]), torch.rand(2, 3, 24, 32)),
    "sizes": lambda: viz.crop_sizes(make_lively(["crop"]), torch.rand(2, 3, 24, 32)),
    "samples": lambda: viz.contact_sheet(make_lively(["turn"]), torch.rand(3, 24, 24), 1, 3),
    "candidates": lambda: viz.likeliest_candidates(make_lively(["turn"]), torch.rand(3, 24, 24), 2),
    "rotation": lambda: viz.rotation_arcs(make_lively(["rotate"]), torch.rand(2, 3, 24, 24)),
    "colour": lambda: viz.colour_ranges(make_lively(["hsv"]), torch.rand(3, 24, 24), 1),
    "curves": lambda: viz.training_curves(HISTORY, {"crop": (1.0, 1.5)}, 2),
    "views": lambda: viz.accuracy_against_views(SOME),
}


@pytest.mark.parametrize("style", ["default", "dark_background", "Solarize_Light2"])
@pytest.mark.parametrize("kind", DRAWN)
def test_pictures_are_legible_on_light_and_dark_pages(kind, style):
    """Every word has a contrast of 4.5 with what is behind it, every line and area outside images one of 1.2."""
    with viz.dark() if style == "dark_background" else matplotlib.style.context(style):
        figure = DRAWN[kind]()
        figure.draw_without_rendering()
    page = figure.get_facecolor()
    words = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert words
    for text in words:
        behind = text.get_bbox_patch().get_facecolor() if text.get_bbox_patch() else page
        assert contrast(text.get_color(), behind) >= (4.5 if style != "Solarize_Light2" else 4), text
    plain = [axes for axes in figure.axes if not axes.images]
    for line in (line for axes in plain for line in axes.lines):
        assert contrast(line.get_color(), page) >= 2 or kind == "colour", line


def test_a_picture_shows_itself_in_a_notebook():
    assert DRAWN["curves"]()._repr_png_().startswith(b"\x89PNG")


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


def test_arcs_of_one_and_of_many_images():
    aug = make_lively(["rotate"])
    assert len(viz.rotation_arcs(aug, torch.rand(3, 24, 24)).axes) == 1
    figure = viz.rotation_arcs(aug, torch.rand(8, 3, 24, 24), columns=5)
    assert sum(len(axes.patches) == 2 for axes in figure.axes) == 8


@pytest.mark.parametrize(
    ("rgb", "hue"), [((1, 0, 0), 0.0), ((0, 1, 0), 1 / 3), ((0, 0, 1), 2 / 3), ((1, 0, 0.2), 0.9667)]
)
def test_mean_colour_in_closed_form(rgb, hue):
    image = torch.tensor(rgb, dtype=torch.float32)[:, None, None].expand(3, 4, 4)
    got = mean_colour(image)
    assert min(abs(got[0] - hue), 1 - abs(got[0] - hue)) < 1e-3 and got[1:] == pytest.approx((1, 1), abs=1e-4)
    both = torch.cat([image, image * 0.0], 2)  # black has no hue and no saturation
    assert mean_colour(both)[0] == pytest.approx(got[0], abs=1e-4) and mean_colour(both)[2] == pytest.approx(
        0.5, abs=1e-4
    )


def test_colour_shows_the_learned_ranges_and_colour_alone():
    aug = make_lively(["crop", "rotate", "hsv"])
    images = torch.rand(2, 3, 24, 30)
    figure = viz.colour_ranges(aug, images, n_views=3)
    fields = aug.distribution(images).parts["hsv"].fields
    assert len(figure.axes) == 12 and figure.axes[3].get_title() == "samples"
    for index in range(2):
        before, wheel, bars, *after = figure.axes[6 * index : 6 * index + 6]
        own = mean_colour(images[index])
        arc = wheel.patches[-1]
        span = 360 * (fields["hue"].hi[index] - fields["hue"].lo[index]).item()
        assert arc.theta2 - arc.theta1 == pytest.approx(span, abs=0.1)
        low = bars.patches[1]
        assert low.get_x() == pytest.approx(min(own[1] * fields["saturation"].lo[index].item(), 1), abs=1e-4)
        assert all(axes.images[0].get_array().shape == (24, 30, 3) for axes in (before, *after))
        shown = torch.tensor(after[0].images[0].get_array().data).permute(2, 0, 1)
        value = rgb_to_hsv(shown[None])[0, 2] / rgb_to_hsv(images[index : index + 1])[0, 2].clamp_min(1e-3)
        unclipped = rgb_to_hsv(shown[None])[0, 2] < 0.999
        assert value[unclipped].std() < 1e-3  # one factor everywhere: no place has moved


def test_training_curves_from_a_fit_and_from_ones_own_loop():
    figure = viz.training_curves(HISTORY, bands={"crop": (1.0, 1.5)}, best=2)
    loss, entropy, weight = figure.axes
    assert list(loss.lines[0].get_ydata()) == [entry["loss"] for entry in HISTORY]
    assert list(entropy.lines[0].get_ydata()) == [1.0, 1.1, 1.2, 1.3] and weight.get_yscale() == "log"
    assert entropy.lines[0].get_linestyle() != entropy.lines[1].get_linestyle()
    held_out = [{**entry, "val_loss": 3.0, "val_entropy": entry["entropy"]} for entry in HISTORY]
    result = ia.FitResult(held_out, 1, False, 0.0, 0.0)
    loss = viz.training_curves(result).axes[0]
    assert list(loss.lines[1].get_ydata()) == [3.0] * 4 and "kept" in loss.texts[0].get_text()
    with pytest.raises(ia.InstaAugError, match="missing entropy, weight; give a FitResult or append"):
        viz.training_curves([{"loss": 1.0}])


def test_accuracy_against_views():
    axes = viz.accuracy_against_views(SOME).axes[0]
    ours = axes.lines[-1]
    assert list(ours.get_xdata()) == [2, 4, 10] and list(ours.get_ydata()) == pytest.approx([54, 58, 70])
    names = [text.get_text() for text in axes.texts]
    assert sorted(names) == ["horizontal flip", "ours", "random views", "single view"]
    heights = [text.xy[1] for text in axes.texts if text.get_text() != "horizontal flip"]
    assert min(b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False)) > 0.5  # names do not overlap
    assert len(viz.accuracy_against_views(SOME, ["ours"]).axes[0].lines) == 2
    assert len(viz.accuracy_against_views(SOME, ["single view"]).axes[0].lines) == 1  # which is drawn in any case
    with pytest.raises(ia.InstaAugError, match="no theirs here; choose from single view"):
        viz.accuracy_against_views(SOME, ["theirs"])
    with pytest.raises(ia.InstaAugError, match="evaluation: expected what tta.evaluate returns, got dict"):
        viz.accuracy_against_views({})


@pytest.mark.parametrize(
    ("draw", "family"),
    [
        (viz.crop_centres, "crop"),
        (viz.crop_sizes, "crop"),
        (viz.rotation_arcs, "rotate"),
        (viz.colour_ranges, "hsv"),
        (viz.likeliest_crops, "crop"),
    ],
)
def test_a_family_that_is_not_there_is_named(draw, family):
    aug = make_lively(["translate"])
    with pytest.raises(ia.InstaAugError, match=f"shows '{family}', and the transform's families are translate"):
        draw(aug, torch.rand(3, 16, 16))


def test_without_matplotlib_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib.figure'] = None\n"
        "import torch, instaaug_transforms as ia\n"
        "try: ia.viz.contact_sheet(ia.LearnedAugment(['rotate']), torch.rand(3, 8, 8))\n"
        "except ia.InstaAugError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "instaaug-transforms[plot]" in run.stdout


def test_lazy_modules_are_reached_by_attribute():
    assert ia.viz is viz and callable(ia.timm.wrap)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ia.nothing


@pytest.mark.parametrize(
    "draw",
    [
        viz.likeliest_crops,
        viz.contact_sheet,
        viz.crop_centres,
        viz.crop_sizes,
        viz.colour_ranges,
        viz.rotation_arcs,
        lambda aug, image: viz.learned_ranges(aug, image[None], n_views=1),
    ],
)
def test_bytes_are_drawn_as_floats_are(draw, tmp_path):
    aug = make_lively(["crop", "rotate", "hsv"]).eval()
    image = torch.randint(256, (3, 32, 40), generator=torch.Generator().manual_seed(0)).byte()
    normalised = copy.deepcopy(aug)
    normalised.normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 3)
    floats = image / 255
    as_given = F.normalize(floats, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    drawn = []
    for maker, given in ((aug, image), (aug, floats), (normalised, image), (normalised, as_given)):
        viz.save(draw(maker, given), tmp_path / "drawn.png")
        drawn.append(imread(tmp_path / "drawn.png"))
    # A byte over 255 is rounded once more on one of the ways: a contour may lie a pixel off.
    assert max(np.abs(drawn[0] - other).mean() for other in drawn[1:]) < 1e-3 and drawn[0].std() > 0.05


def test_pictures_of_one_image_and_numbers_that_cannot_be_are_refused():
    images, crop, turn = torch.rand(3, 3, 20, 30), ia.LearnedAugment(["crop"]), ia.LearnedAugment(["turn"])
    for draw in (viz.likeliest_crops, viz.contact_sheet):
        with pytest.raises(
            ia.InstaAugError, match=r"image: this picture shows one image \(C, H, W\), got 3; give images\[0\]"
        ):
            draw(crop, images)
    for draw in (
        lambda: viz.likeliest_candidates(turn, images, k=0),
        lambda: viz.likeliest_crops(crop, images[0], k=0),
        lambda: viz.crop_centres(crop, images, bins=0),
        lambda: viz.rotation_arcs(ia.LearnedAugment(["rotate"]), images, columns=0),
        lambda: viz.contact_sheet(crop, images[0], rows=1, columns=1),
        lambda: viz.learned_ranges(crop, images, n_views=0),
        lambda: viz.colour_ranges(ia.LearnedAugment(["hsv"]), images, n_views=0),
    ):
        with pytest.raises(ia.InstaAugError, match="expected a whole number ≥"):
            draw()


@pytest.mark.parametrize("size", [(20, 40), (40, 20), (30, 30)])
def test_an_image_in_a_dial_keeps_its_shape(size):
    (dial,) = viz.rotation_arcs(ia.LearnedAugment(["rotate"]), torch.rand(3, *size)).axes
    left, right, bottom, top = dial.images[0].get_extent()
    assert (top - bottom) / (right - left) == size[0] / size[1] and max(top - bottom, right - left) == 2
