import csv
import os
import stat

import pytest
from matplotlib.figure import Figure
from PIL import Image

import instaaug_transforms as ia
from instaaug_transforms.measure import write_page
from instaaug_transforms.tta import Evaluation
from instaaug_transforms.utils.files import replace_file, save_figure, write_csv


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    replace_file(path, b"old")
    replace_file(str(path), b"new")
    assert path.read_bytes() == b"new"

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"half")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_permissions_and_links_stay(tmp_path):
    path, link = tmp_path / "x.bin", tmp_path / "link.bin"
    (tmp_path / "ordinary").touch()
    replace_file(path, b"1")
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    path.chmod(0o600)
    link.symlink_to(path)
    replace_file(link, b"2")
    assert link.is_symlink() and path.read_bytes() == b"2" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_csv_reads_back(tmp_path):
    rows = [{"name": "a, “b”", "value": 0.1 + 0.2, "n": 3}, {"name": 'c "d"\nnext', "value": -1e-9, "n": 4}]
    write_csv(tmp_path / "x.csv", rows)
    assert b"\r" not in (tmp_path / "x.csv").read_bytes()
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        back = list(csv.DictReader(file))
    assert [(row["name"], float(row["value"]), int(row["n"])) for row in back] == [tuple(row.values()) for row in rows]
    write_csv(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text() == "\n"


@pytest.mark.parametrize("name", ["figure", "figure.txt", "figure.PNG"])
def test_a_figures_suffix_is_one_that_matplotlib_writes(name, tmp_path):
    figure = Figure()
    if name.endswith("PNG"):
        save_figure(figure, tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
    else:
        with pytest.raises(ia.InstaAugError, match=r"path: expected a name that ends in one of .*\.png"):
            save_figure(figure, tmp_path / name)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_csv(path, [{"a": 1}]),
        lambda path: save_figure(Figure(), f"{path}.png"),
        lambda path: write_page(path, None),
        lambda path: ia.LearnedAugment(["turn"]).save(f"{path}.safetensors"),
        lambda path: Evaluation({}, 0, 0).write(str(path)),
    ],
    ids=["table", "picture", "page", "weights", "comparison"],
)
def test_a_folder_that_does_not_exist_is_named(write, tmp_path):
    """And not a temporary file in it."""
    with pytest.raises(
        ia.InstaAugError, match=r"(path|results-file): folder '.*nowhere' does not exist; create it first"
    ):
        write(tmp_path / "nowhere" / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path: write_csv(path, [{"a": 1}]), "results"),
        (lambda path: save_figure(Figure(), path), "picture.png"),
        (lambda path: ia.LearnedAugment(["turn"]).save(path), "w.safetensors"),
    ],
    ids=["table", "picture", "weights"],
)
def test_a_folder_in_place_of_a_file_is_named(write, name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ia.InstaAugError, match=f"path: '.*{name}' is a folder; give the name of a file in it"):
        write(tmp_path / name)
