import subprocess
import sys

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms import viz

from .conftest import make_lively


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
    (box,) = axes.patches
    mode = aug.distribution(image).mode
    assert box.get_width() == pytest.approx(80 * mode.w.item(), rel=1e-5)
    assert box.get_x() + box.get_width() / 2 == pytest.approx(80 * mode.cx.item() - 0.5, abs=1e-3)
    assert box.get_y() + box.get_height() / 2 == pytest.approx(60 * mode.cy.item() - 0.5, abs=1e-3)


def test_contact_sheet_starts_with_the_image():
    image = torch.rand(3, 30, 30)
    figure = viz.contact_sheet(make_lively(["rotate"]), image, rows=2, columns=3)
    assert len(figure.axes) == 6
    assert torch.allclose(torch.tensor(figure.axes[0].images[0].get_array().data).permute(2, 0, 1), image, atol=1e-6)


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
