"""Image files of every kind: the right pixels, or an error that names the file."""

import io
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest

from instaaug_transforms import InstaAugError
from instaaug_transforms.cli.images import is_image, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def save(image, path, **options):
    image.save(path, **options)
    return path


def pixels(path, mode="RGB"):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(read_image(path, mode=mode))


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tif", "webp", "PNG"])
def test_lossless_formats(tmp_path, kind):
    options = {"lossless": True} if kind == "webp" else {}
    path = save(PIL.Image.fromarray(PIXELS), tmp_path / f"a.{kind}", **options)
    assert is_image(path) and (pixels(path) == PIXELS).all()


def test_a_jpeg_as_some_browsers_name_it(tmp_path):
    path = save(PIL.Image.fromarray(PIXELS), tmp_path / "a.jfif", format="JPEG")
    assert is_image(path) and (pixels(path) == np.asarray(PIL.Image.open(path))).all()


def test_grey_becomes_three_equal_channels(tmp_path):
    path = save(PIL.Image.fromarray(GREY), tmp_path / "a.png")
    assert (pixels(path) == GREY[..., None]).all() and (pixels(path, "L") == GREY).all()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, kind):
    path = save(PIL.Image.fromarray(GREY.astype(np.uint16) * 257), tmp_path / f"a.{kind}")
    assert (pixels(path) == GREY[..., None]).all() and (pixels(path, "L") == GREY).all()


def test_sixteen_bits_big_endian(tmp_path):
    big = PIL.Image.frombytes("I;16B", (30, 20), (GREY.astype(">u2") * 257).tobytes())
    assert (pixels(save(big, tmp_path / "a.tif"), "L") == GREY).all()


def test_cmyk(tmp_path):
    """Ink on white: (1 − c)·(1 − k)."""
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:, :8, 0], ink[8:, :, 3] = 255, 128
    shown = pixels(save(PIL.Image.fromarray(ink, "CMYK"), tmp_path / "a.jpg", quality=100)).astype(int)
    expected = 255 * (1 - ink[..., :3] / 255) * (1 - ink[..., 3:] / 255)
    assert np.abs(shown - expected).max() <= 4


def test_palette_with_transparency(tmp_path):
    image = PIL.Image.new("P", (8, 8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1] * 32)
    path = save(image, tmp_path / "a.png", transparency=bytes([0, 128]))
    shown = pixels(path)
    assert (shown[:, 0::2] == [10, 20, 30]).all() and (shown[:, 1::2] == [200, 100, 50]).all()


def test_alpha_is_dropped(tmp_path):
    image = np.dstack([PIXELS, GREY])
    assert (pixels(save(PIL.Image.fromarray(image), tmp_path / "a.png")) == PIXELS).all()


@pytest.mark.parametrize("kind", ["png", "gif", "webp"])
def test_the_first_picture_of_an_animation(tmp_path, kind):
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if kind == "webp" else {}
    path = save(frames[0], tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], duration=100, **options)
    assert (pixels(path) == [255, 0, 0]).all()


TURNS = {1: 0, 3: 2, 6: 3, 8: 1}  # orientation in EXIF: quarter turns counter-clockwise that make it upright


@pytest.mark.parametrize("orientation", TURNS)
def test_upright_as_the_camera_meant_it(tmp_path, orientation):
    image = PIL.Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = save(image, tmp_path / "a.png", exif=exif)
    assert (pixels(path) == np.rot90(PIXELS, TURNS[orientation])).all()


def test_a_broken_exif_entry_does_not_cost_the_pixels(tmp_path):
    path = save(PIL.Image.fromarray(PIXELS), tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffnonsense")
    assert (np.asarray(read_image(path)) == PIXELS).all()


def jpeg(**options):
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.tile(PIXELS, (8, 8, 1))).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def bomb():
    """A PNG that says it has 40,000 × 40,000 pixels."""
    buffer = io.BytesIO()
    PIL.Image.new("L", (1, 1)).save(buffer, "PNG")
    data = buffer.getvalue()
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BROKEN = {
    "empty.jpg": (b"", "cannot identify"),
    "text.png": (b"not an image at all, only text", "cannot identify"),
    "truncated.jpg": (jpeg()[:-2000], "truncated"),
    "progressive.jpg": (jpeg(progressive=True)[:-2000], "truncated"),
    "header.jpg": (jpeg()[:30], ""),
    "bomb.png": (bomb(), "exceeds limit"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "cannot identify"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named(tmp_path, name):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InstaAugError, match=rf"data: '.*{name}' cannot be read as an image .*{reason}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["png", "gif", "webp", "tif", "bmp", "ppm"])
def test_truncated_files_of_every_kind(tmp_path, kind, cut):
    path = save(PIL.Image.fromarray(PIXELS), tmp_path / f"a.{kind}")
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(InstaAugError, match=rf"a\.{kind}' cannot be read"):
        read_image(path)


@pytest.mark.parametrize(("mode", "dtype"), [("F", np.float32), ("I", np.int32)])
def test_values_without_a_known_white_are_refused(tmp_path, mode, dtype):
    path = save(PIL.Image.fromarray(GREY.astype(dtype)), tmp_path / "a.tif")
    with pytest.raises(InstaAugError, match=f"a.tif' .*mode '{mode}': it is not known which value is white"):
        read_image(path)


def test_slivers_are_refused(tmp_path):
    with pytest.raises(InstaAugError, match=r"2001 × 2 pixels: one side is over 1000 times"):
        read_image(save(PIL.Image.new("L", (2001, 2)), tmp_path / "a.png"))


def test_a_file_that_vanished(tmp_path):
    with pytest.raises(InstaAugError, match="gone.png' cannot be read .*No such file"):
        read_image(tmp_path / "gone.png")
