import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.cli.show import find_images, read_image

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
    written = sorted(p.name for p in (folder / "out").iterdir())
    assert written == ["a-crops.png", "a-samples.png", "b-crops.png", "b-samples.png"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    with PIL.Image.open(folder / "out" / "a-samples.png") as sheet:
        assert min(sheet.size) > 200 and sheet.convert("L").getextrema() != (255, 255)


def test_show_with_own_weights_of_any_families(folder):
    make_lively(["rotate", "hsv"]).save(folder / "mine.safetensors")
    arguments = ["show", str(folder / "in" / "a.jpg"), "--weights", str(folder / "mine.safetensors")]
    assert main([*arguments, "--out", str(folder / "o")]) == 0
    assert [p.name for p in (folder / "o").iterdir()] == ["a-samples.png"]


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
    assert read_image(tmp_path / "turned.jpg", 3).shape == (3, 40, 20)
    assert read_image(tmp_path / "turned.jpg", 1).shape == (1, 40, 20)
    assert find_images([tmp_path]) == [tmp_path / "turned.jpg"]


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert ia.__version__ in capsys.readouterr().out
