from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors.torch import save_model
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.cli.show import find_images, names_of, read_pixels

from .conftest import make_lively


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    F.to_pil_image(torch.rand(3, 90, 120)).save(tmp_path / "in" / "a.jpg")
    F.to_pil_image(torch.rand(1, 40, 30)).save(tmp_path / "in" / "deep" / "b.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path


def test_show_draws_files_and_folders(folder, capsys):
    assert main(["show", str(folder / "in"), "--out", str(folder / "out")]) == 0
    written = sorted(p.stem for p in (folder / "out").iterdir())
    each = ["centres", "crops", "samples"]
    assert written == [*(f"a-{kind}" for kind in each), "all-centres", "all-sizes", *(f"b-{kind}" for kind in each)]
    assert len(capsys.readouterr().out.splitlines()) == 8
    with PIL.Image.open(folder / "out" / "a-samples.png") as sheet:
        assert sheet.width > 200 and sheet.height > 100 and sheet.convert("L").getextrema() != (255, 255)


def test_show_for_dark_pages(folder):
    assert main(["show", str(folder / "in" / "a.jpg"), "--dark", "--out", str(folder / "out")]) == 0
    with PIL.Image.open(folder / "out" / "a-centres.png") as picture:
        assert picture.convert("L").getpixel((1, 1)) < 30


def test_show_with_own_weights_of_any_families(folder):
    make_lively(["rotate", "hsv"]).save(folder / "mine.safetensors")
    arguments = ["show", str(folder / "in" / "a.jpg"), "--weights", str(folder / "mine.safetensors")]
    assert main([*arguments, "--out", str(folder / "o")]) == 0
    assert sorted(p.name for p in (folder / "o").iterdir()) == ["a-colour.png", "a-rotation.png", "a-samples.png"]


def test_show_with_weights_that_read_a_classifier(folder, monkeypatch, capsys):
    classifier = ia.timm.create_classifier("test_resnet", num_classes=7).eval()
    save_model(classifier.model, str(folder / "resnet.safetensors"))
    make_lively(["turn"], predictor=ia.FeaturesPredictor(classifier, image_size=32)).save(folder / "mine.safetensors")
    arguments = ["show", str(folder / "in" / "a.jpg"), "--weights", str(folder / "mine.safetensors")]
    assert main([*arguments, "--out", str(folder / "o")]) == 2 and "--model and --checkpoint" in capsys.readouterr().err
    model = ["--model", "test_resnet", "--checkpoint", str(folder / "resnet.safetensors"), "--num-classes", "7"]
    assert main([*arguments, *model, "--out", str(folder / "o")]) == 0
    assert sorted(p.name for p in (folder / "o").iterdir()) == ["a-candidates.png", "a-samples.png"]


def test_show_with_weights_that_read_a_classifier_of_grey_images(folder):
    classifier = ia.timm.create_classifier("test_resnet", num_classes=7, in_chans=1).eval()
    save_model(classifier.model, str(folder / "grey.safetensors"))
    predictor = ia.FeaturesPredictor(classifier, image_size=32)
    make_lively(["turn"], in_channels=1, predictor=predictor).save(folder / "mine.safetensors")
    arguments = ["show", str(folder / "in" / "a.jpg"), "--weights", str(folder / "mine.safetensors")]
    model = ["--model", "test_resnet", "--checkpoint", str(folder / "grey.safetensors"), "--num-classes", "7"]
    assert main([*arguments, *model, "--out", str(folder / "o")]) == 0
    assert (folder / "o" / "a-samples.png").is_file()


def test_images_of_one_name_do_not_overwrite_each_other(folder):
    image = F.to_pil_image(torch.rand(3, 20, 20))
    for place in ("in/a.png", "in/deep/a.png", "in/deep/c.jpg"):
        image.save(folder / place)
    files = find_images([folder / "in"])
    names = names_of(files)
    assert len(set(names)) == len(files) == 5
    by_file = dict(zip([str(f.relative_to(folder)) for f in files], names, strict=True))
    assert (
        by_file["in/a.jpg"] == "a.jpg" and by_file["in/deep/a.png"] == "deep-a.png" and by_file["in/deep/c.jpg"] == "c"
    )


def test_names_that_some_file_systems_take_for_one(tmp_path):
    """And all-crops.png, say, is what pictures of several images are called."""
    files = [tmp_path / name for name in ("x/A.png", "y/a.png", "all.png", "b.png")]
    assert names_of(files) == ["x-A.png", "y-a.png", "all.png", "b"]


def test_what_is_hidden_is_not_drawn_unless_it_is_named(folder, monkeypatch):
    image = F.to_pil_image(torch.rand(3, 20, 20))
    (folder / "in" / ".thumbnails").mkdir()
    for place in ("in/._a.jpg", "in/.thumbnails/a.jpg"):
        image.save(folder / place)
    expected = [folder / "in" / "a.jpg", folder / "in" / "deep" / "b.png"]
    assert find_images([folder / "in"]) == expected
    assert find_images([folder / "in" / ".thumbnails"]) == [folder / "in" / ".thumbnails" / "a.jpg"]
    assert find_images([folder / "in" / "._a.jpg"]) == [folder / "in" / "._a.jpg"]
    monkeypatch.chdir(folder / "in")
    assert find_images([Path()]) == [path.relative_to(folder / "in") for path in expected]


def test_weights_lists_the_checkpoints(capsys):
    assert main(["weights"]) == 0
    assert "crop_tinyimagenet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere.jpg"], "'nowhere.jpg' does not exist"),
        (["show", "{empty}"], "no image in"),
        (["show", "{text}"], "cannot be read as an image"),
        (["show", "{image}", "--weights", "nope"], "known are.*crop_tinyimagenet"),
    ],
)
def test_errors_are_one_line(folder, capsys, arguments, message):
    import re

    (folder / "empty").mkdir()
    names = {"empty": folder / "empty", "text": folder / "in" / "notes.txt", "image": folder / "in" / "a.jpg"}
    assert main([a.format(**names) for a in arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("instaaug: ") and shown.count("\n") == 1 and re.search(message, shown)


def test_images_are_read_upright(tmp_path):
    image = PIL.Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_pixels(tmp_path / "turned.jpg", 3).shape == (3, 40, 20)
    assert read_pixels(tmp_path / "turned.jpg", 1).shape == (1, 40, 20)
    assert find_images([tmp_path]) == [tmp_path / "turned.jpg"]


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert ia.__version__ in capsys.readouterr().out
