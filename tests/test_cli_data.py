"""Folders of images as the command line reads them: which label each image gets, and what is said before any is read."""

import argparse
import warnings

import pytest
import torch
import torchvision
from torchvision.transforms.v2 import functional as F

from instaaug_transforms import InstaAugError
from instaaug_transforms.cli import datasets, image_files
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.cli.class_map import read_class_map
from instaaug_transforms.cli.datasets import add_data_arguments, add_reading_arguments
from instaaug_transforms.cli.held_out import held_out_of, pack_names


def make(root, *files):
    """Images of one grey level each, by which they are known again."""
    for level, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        F.to_pil_image(torch.full((3, 8, 8), level, dtype=torch.uint8)).save(path)
    return root


def options(data, *more):
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    add_reading_arguments(parser.add_argument_group(), 2, "step")
    parser.add_argument("--num-classes", type=int)
    parser.add_argument("--split")
    base = ["--data", str(data), "--img-size", "8", "--crop-pct", "1", "--interpolation", "bilinear", "--workers", "0"]
    return parser.parse_args([*base, *map(str, more)])


def labels(files):
    return dict(zip(files.paths, files.targets, strict=True))


def test_names_are_numbered_in_their_order_as_torchvision_does(tmp_path):
    make(tmp_path, "b/1.png", "a/2.png", "a/deep/3.png", "c/4.JPEG", ".hidden/5.png", "a/notes.txt.png")
    (tmp_path / "c" / "notes.txt").write_text("no image")
    files = datasets.folder_of(options(tmp_path), None)
    expected = torchvision.datasets.ImageFolder(
        str(tmp_path), is_valid_file=lambda path: not path.endswith("txt") and ".hidden" not in path, allow_empty=True
    )
    names = [name for name in expected.classes if name != ".hidden"]
    assert files.classes == names == ["a", "b", "c"]
    assert [path for path, _ in files.samples] == [path for path, _ in expected.samples]
    assert files.targets == [names.index(path.split("/")[0]) for path in files.paths]
    assert files.paths == ["a/2.png", "a/notes.txt.png", "a/deep/3.png", "b/1.png", "c/4.JPEG"]
    image, label = files[3]
    assert image.shape == (3, 8, 8) and image.dtype == torch.uint8 and (image == 0).all() and label == 1


@pytest.mark.parametrize("named", ["{}", "{:03d}"])
def test_whole_numbers_are_labels(tmp_path, named):
    numbers = [0, 1, 2, 9, 10, 11]
    make(tmp_path, *(f"{named.format(number)}/a.png" for number in numbers))
    files = datasets.folder_of(options(tmp_path), None)
    assert {int(path.split("/")[0]): label for path, label in labels(files).items()} == {n: n for n in numbers}
    assert len(files.classes) == 12 == datasets.count_classes(files)
    assert {int(files[i][0][0, 0, 0]): files[i][1] for i in range(6)} == dict(enumerate(numbers))


def test_one_number_twice_and_numbers_that_are_no_labels(tmp_path):
    make(tmp_path / "twice", "1/a.png", "01/a.png", "2/a.png")
    with pytest.raises(InstaAugError, match="one number has several: 01, 1"):
        datasets.folder_of(options(tmp_path / "twice"), None)
    make(tmp_path / "dates", "20240131/a.png", "20240201/a.png")
    with pytest.raises(InstaAugError, match="20240201 is too large .* --class-map"):
        datasets.folder_of(options(tmp_path / "dates"), None)
    (tmp_path / "map").write_text("20240201\n20240131\n")
    files = datasets.folder_of(options(tmp_path / "dates", "--class-map", tmp_path / "map"), None)
    assert labels(files) == {"20240131/a.png": 1, "20240201/a.png": 0}


def test_class_map_gives_labels_to_some_of_the_classes(tmp_path):
    (tmp_path / "map.txt").write_text("n03\tzebra, striped\nn01\tant\nn02\nn00\tbee\n")
    make(tmp_path / "train", "n00/a.png", "n01/b.png", "n03/c.png")
    make(tmp_path / "val", "n03/a.png")
    arguments = options(tmp_path, "--class-map", tmp_path / "map.txt")
    train, val = (datasets.folder_of(arguments, split) for split in ("train", "val"))
    assert labels(train) == {"n00/a.png": 3, "n01/b.png": 1, "n03/c.png": 0} and labels(val) == {"n03/a.png": 0}
    assert train.classes == val.classes == ["n03", "n01", "n02", "n00"] and datasets.count_classes(train, val) == 4


def test_unknown_folders_are_listed(tmp_path):
    (tmp_path / "map.txt").write_text("a\nb\n")
    make(tmp_path / "d", "a/1.png", "dog/1.png", "cat/1.png")
    with pytest.raises(InstaAugError, match="class-map: cat, dog are folders that it does not name"):
        datasets.folder_of(options(tmp_path / "d", "--class-map", tmp_path / "map.txt"), None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a line per class"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\tx\nb\ny\na\tz\n", "line 1 and line 4 both name 'a'"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_class_maps_that_are_none(tmp_path, content, message):
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(InstaAugError, match=f"class-map: .*{message}"):
        read_class_map(tmp_path / "map")


def test_class_map_files(tmp_path):
    with pytest.raises(InstaAugError, match="nowhere' cannot be read"):
        read_class_map(tmp_path / "nowhere")
    (tmp_path / "map").write_bytes("\ufeffé t\twords\r\nb\r\n\r\n".encode())
    assert read_class_map(tmp_path / "map") == ["é t", "b"]


def test_too_few_classes_for_the_labels(tmp_path):
    make(tmp_path, "0/a.png", "7/b.png")
    with pytest.raises(InstaAugError, match=r"num-classes: 7 is too few .* go up to 7 \(7\)"):
        datasets.folder_of(options(tmp_path, "--num-classes", 7), None)
    assert datasets.folder_of(options(tmp_path, "--num-classes", 8), None).targets == [0, 7]


def test_splits_of_other_classes(tmp_path):
    make(tmp_path / "train", "a/1.png", "b/1.png")
    make(tmp_path / "val", "a/1.png", "c/1.png")
    splits = [datasets.folder_of(options(tmp_path), split) for split in ("train", "val")]
    with pytest.raises(InstaAugError, match="train and val hold different classes"):
        datasets.count_classes(*splits)
    make(tmp_path / "numbers", "0/1.png", "4/1.png")
    make(tmp_path / "fewer", "2/1.png")
    splits = [datasets.folder_of(options(tmp_path), split) for split in ("numbers", "fewer")]
    assert datasets.count_classes(*splits) == 5


@pytest.mark.parametrize("how", ["auto", "none"])
def test_photographs_without_class_folders(tmp_path, how):
    make(tmp_path, "b.png", "a.jpg", "c.JPEG")
    files = datasets.folder_of(options(tmp_path), None, how)
    assert labels(files) == {"a.jpg": -1, "b.png": -1, "c.JPEG": -1} and files.classes is None
    assert datasets.count_classes(files) is None and files[1][1] == -1
    read = datasets.read(options(tmp_path), files)
    assert read.in_memory().images.shape == (3, 3, 8, 8) and read.targets is None


def test_nested_photographs_without_labels(tmp_path):
    make(tmp_path, "a.png", "2019/rome/b.png", "2020/c.png")
    assert labels(datasets.folder_of(options(tmp_path), None, "none")) == {
        "a.png": -1,
        "2019/rome/b.png": -1,
        "2020/c.png": -1,
    }
    for how in ("auto", "folders"):  # nobody can tell whether 2019 is a class
        with pytest.raises(InstaAugError, match="1 images? lie in .* beside folders .2019, 2020.*--no-labels"):
            datasets.folder_of(options(tmp_path), None, how)


def test_what_is_hidden_is_no_image_at_any_depth(tmp_path):
    """Thumbnails and trash are copies: of an image and its copy one may be held out and the other learned from."""
    root = tmp_path / ".cache" / "data"  # what holds them all may be hidden
    make(root / "flat", "a.png", ".b.png", "2019/c.png", ".thumbnails/a.png", "2019/.trash/deep/c.png")
    files = datasets.folder_of(options(root / "flat"), None, "none")
    assert sorted(files.paths) == ["2019/c.png", "a.png"]
    make(root / "classes", "cat/a.png", "cat/.thumbnails/a.png", "cat/._a.png", "dog/b.png", "._b.png")
    assert labels(datasets.folder_of(options(root / "classes"), None)) == {"cat/a.png": 0, "dog/b.png": 1}
    assert datasets.find_split(options(root / "classes"), "train") is None
    make(root / "empty", "cat/a.png", "dog/.thumbnails/a.png")
    with pytest.raises(InstaAugError, match="dog"):
        datasets.folder_of(options(root / "empty"), None)


def test_class_folders_are_needed_where_labels_are(tmp_path):
    make(tmp_path / "flat", "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "map").write_text("a\n")
    (tmp_path / "flat" / "labels.csv").write_text("a.png,0\n")  # it was to be converted to what is read
    for folder, said in (
        ("flat", "; 1 images? lie in it without: move them .*lists of labels are not read"),
        ("empty", ""),
    ):
        with pytest.raises(InstaAugError, match=f"holds no folders of images, one per class{said}"):
            datasets.folder_of(options(tmp_path), folder)
    with pytest.raises(InstaAugError, match="holds no folders of images, one per class"):
        datasets.folder_of(options(tmp_path, "--class-map", tmp_path / "map"), "flat", "auto")
    with pytest.raises(InstaAugError, match="holds no images"):
        datasets.folder_of(options(tmp_path), "empty", "none")
    (tmp_path / "flat2" / "a").mkdir(parents=True)
    with pytest.raises(InstaAugError, match="no valid file for the classes a"):
        datasets.folder_of(options(tmp_path), "flat2")


@pytest.mark.parametrize("kind", ["auto", "folders", "none"])
def test_files_that_are_not_read_are_named(tmp_path, kind):
    (tmp_path / "a").mkdir()
    for name in ("1.HEIC", "a/2.heic", "a/3.CR2", "a/.hidden.txt"):
        (tmp_path / name).write_bytes(b"")
    said = r"end in \.cr2, \.heic; convert them to what is read: \.jpg, \.jpeg, \.jfif, \.png"
    with pytest.raises(InstaAugError, match=f"holds no .*{said}"):
        datasets.folder_of(options(tmp_path), None, kind)
    if kind != "none":
        with pytest.raises(InstaAugError, match=f"holds neither images .*{said}"):
            datasets.find_split(options(tmp_path), "train", kind)


def test_images_of_kinds_that_are_not_read_are_counted(tmp_path, capsys):
    """As a telephone exports them, beside others: the fit was to the others alone, without a word. Lists and texts are no images."""
    make(tmp_path, "a/1.png", "b/1.png")
    for name in ("a/2.HEIC", "b/3.heic", "b/c/4.dng", "b/.5.heic", "labels.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    folder = datasets.folder_of(options(tmp_path), None)
    assert len(datasets.chosen(options(tmp_path), folder)) == 2
    assert capsys.readouterr().err == "left out 3 images that end in .dng, .heic; convert them first\n"
    assert datasets.chosen(options(tmp_path), folder, False) and not capsys.readouterr().err
    main(["measure", "--model", "test_resnet", "--data", str(tmp_path), "--layer", "none"])  # which there is not
    assert "left out 3 images" in capsys.readouterr().err


def test_the_split_that_is_read(tmp_path):
    make(tmp_path / "splits", "train/a/1.png", "val/a/1.png")
    make(tmp_path / "other", "policy/a/1.png", "val/a/1.png")
    make(tmp_path / "classes", "a/1.png", "b/1.png")
    make(tmp_path / "photographs", "1.png", "2.png")
    make(tmp_path / "nested", "2019/rome/1.png")
    found = {}
    for name, more in (
        ("splits", ()),
        ("splits", ("--split", "val")),
        ("other", ("--split", "policy")),
        ("classes", ()),
        ("photographs", ()),
    ):
        found[name, more[1:]] = datasets.find_split(options(tmp_path / name, *more), "train")
    assert found == {
        ("splits", ()): "train",
        ("splits", ("val",)): "val",
        ("other", ("policy",)): "policy",
        ("classes", ()): None,
        ("photographs", ()): None,
    }
    with pytest.raises(InstaAugError, match="'.*other' holds neither images .* but policy, val; name one of them"):
        datasets.find_split(options(tmp_path / "other"), "train")  # policy and val are no classes
    assert datasets.find_split(options(tmp_path / "nested"), "train", "none") is None


def test_a_class_that_is_called_as_a_split_is_not_taken_for_one(tmp_path):
    make(tmp_path / "voc", "aeroplane/1.png", "train/1.png", "tvmonitor/1.png")
    make(tmp_path / "flat", "train/1.png", "val/1.png")
    for labels in ("auto", "none", "folders"):
        with pytest.raises(
            InstaAugError, match="holds images in 'train', the name of a split, and in aeroplane, tvmonitor; for"
        ):
            datasets.find_split(options(tmp_path / "voc"), "train", labels)
    assert datasets.find_split(options(tmp_path / "voc", "--split", "train"), "train") == "train"
    assert datasets.find_split(options(tmp_path / "flat"), "train", "auto") == "train"
    whole = options(tmp_path, "--split", "voc")
    assert datasets.folder_of(whole, datasets.find_split(whole, "train")).classes == ["aeroplane", "train", "tvmonitor"]


@pytest.fixture
def damaged(tmp_path):
    make(tmp_path, *(f"{'ab'[i % 2]}/{i}.png" for i in range(10)))
    for name in ("a/4.png", "b/7.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50])
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(damaged, workers):
    arguments = options(damaged, "--workers", workers)
    with pytest.raises(InstaAugError, match=r"a.4\.png' cannot be read as an image"):
        datasets.read(arguments, datasets.folder_of(arguments, None)).in_memory()


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_skipped_and_counted(damaged, capsys, workers):
    arguments = options(damaged, "--skip-unreadable", "--workers", workers)
    files = datasets.chosen(arguments, datasets.folder_of(arguments, None))
    assert "skipped 2 of 10 files that cannot be read: a/4.png, b/7.png\n" in capsys.readouterr().err
    assert labels(files) == {f"{'ab'[i % 2]}/{i}.png": i % 2 for i in range(10) if i not in (4, 7)}
    read = datasets.read(arguments, files)
    assert read.targets.tolist() == files.targets  # each label with its own image
    assert read.in_memory().images[:, 0, 0, 0].tolist() == [int(path[2:-4]) for path in files.paths]


def test_nothing_readable(tmp_path):
    make(tmp_path, "a/1.png")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    arguments = options(tmp_path, "--skip-unreadable")
    with pytest.raises(InstaAugError, match=r"1\.png' cannot be read .*; nor can any other of 1 files"):
        datasets.read(arguments, datasets.folder_of(arguments, None))


def test_max_images_are_drawn_by_the_seed_and_keep_their_labels(tmp_path):
    make(tmp_path, *(f"{i % 3}/{i}.png" for i in range(12)))
    drawn = []
    for seed in (0, 0, 1):
        arguments = options(tmp_path, "--max-images", 5, "--seed", seed)
        files = datasets.chosen(arguments, datasets.folder_of(arguments, None))
        assert len(files) == 5 and files.targets == [int(path[0]) for path in files.paths]
        read = datasets.read(arguments, datasets.folder_of(arguments, None))
        assert read.targets.tolist() == files.targets
        assert read.in_memory().images[:, 0, 0, 0].tolist() == [int(path[2:-4]) for path in files.paths]
        drawn.append(files.paths)
    assert drawn[0] == drawn[1] != drawn[2]


def test_listing_reads_no_image(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png")
    monkeypatch.setattr(image_files, "read_image", lambda *_, **__: pytest.fail("an image was read"))
    assert len(datasets.folder_of(options(tmp_path), None)) == 1


def test_one_channel_and_the_centre(tmp_path):
    image = torch.randint(0, 256, (3, 12, 20), dtype=torch.uint8)
    (tmp_path / "a").mkdir()
    F.to_pil_image(image).save(tmp_path / "a" / "1.png")
    arguments = options(tmp_path, "--in-chans", 1, "--crop-pct", 8 / 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = datasets.folder_of(arguments, None)[0][0]
    expected = F.pil_to_tensor(F.to_pil_image(image).convert("L"))[:, 2:10, 6:14]  # at its own size, the middle 8 × 8
    assert torch.equal(found.as_subclass(torch.Tensor), expected)


def test_images_that_were_held_out_are_found_by_name_or_missed(tmp_path):
    make(tmp_path, *(f"a/{i}.png" for i in range(6)))
    data = datasets.read(options(tmp_path), datasets.folder_of(options(tmp_path), None))
    packed = pack_names(["a/4.png", "a/1.png"])
    assert held_out_of(data, packed, seed=0).identities == ["a/1.png", "a/4.png"]
    with pytest.raises(
        InstaAugError, match=r"1 of the 2 images that the fit held out are not there \(a/4.png.*max-images"
    ):
        held_out_of(data.subset(slice(0, 4)), packed, seed=0)  # not others in their place
