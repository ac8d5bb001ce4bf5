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
from instaaug_transforms.functional.inputs import Normalization
from instaaug_transforms.tta.report import ArmResult, Evaluation
from instaaug_transforms.viz.colour import mean_colour

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


@pytest.mark.parametrize("name", ["draw_crops", "draw_rotation", "draw_hue_wheel", "draw_colour_bars"])
def test_drawings_name_what_they_cannot_draw(name):
    """An index beyond the batch, no distribution, a family that is not there: IndexError, AttributeError, StopIteration."""
    draw, axes, image = getattr(viz, name), viz.new_figure(1, 1).subplots(), torch.rand(3, 16, 16)
    distribution = ia.LearnedAugment(["crop", "rotate", "hsv"]).distribution(image.expand(4, 3, 16, 16))
    draw(axes, image, distribution, -1)
    for arguments, message in (
        ((image, distribution, 4), "index: expected a whole number in -4 … 3, got 4"),
        ((image[None], distribution, 0), r"image: expected one image \(C, H, W\), got \(1, 3, 16, 16\)"),
        ((image, ia.LearnedAugment(["crop"]), 0), "distribution: expected what aug.distribution.* got LearnedAugment"),
        (
            (image, ia.LearnedAugment(["turn"]).distribution(image[None]), 0),
            "viz: this picture shows .* families are turn",
        ),
    ):
        with pytest.raises(ia.InstaAugError, match=message):
            draw(axes, *arguments)
