import hashlib
import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import instaaug_transforms as ia
from instaaug_transforms.utils import files, weights


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a.safetensors"
    ia.LearnedAugment(["rotate"]).save(path)
    return path


def test_round_trip(tmp_path):
    tensors = {"b": torch.rand(3, 4), "a": torch.arange(5)}
    weights.write(tmp_path / "x.safetensors", {"families": [], "n": (1, 2)}, tensors)
    config, again = weights.read(tmp_path / "x.safetensors")
    assert config["n"] == [1, 2] and all(torch.equal(again[k], v) for k, v in tensors.items())
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o644


@pytest.mark.parametrize("where", ["header", "config", "tensor", "end"])
def test_one_changed_byte_is_noticed(saved, where):
    data = bytearray(saved.read_bytes())
    header = int.from_bytes(data[:8], "little")
    place = {"header": 20, "config": data.find(b"rotate"), "tensor": 8 + header + 1000, "end": len(data) - 1}[where]
    data[place] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ia.InstaAugError, match="weights"):
        ia.LearnedAugment.from_pretrained(saved)


@pytest.mark.parametrize("size", [0, 7, 300, -100])
def test_a_truncated_file_is_noticed(saved, size):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(ia.InstaAugError, match="not a readable safetensors file|not written by"):
        ia.LearnedAugment.from_pretrained(saved)


def test_another_kind_of_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ia.InstaAugError, match="not written by LearnedAugment.save"):
        ia.LearnedAugment.from_pretrained(tmp_path / "other.safetensors")
    torch.save({"x": torch.zeros(3)}, tmp_path / "pickle.pt")
    with pytest.raises(ia.InstaAugError, match="not a readable safetensors"):
        ia.LearnedAugment.from_pretrained(tmp_path / "pickle.pt")


def test_tampered_tensors_with_the_old_config_are_noticed(saved, tmp_path):
    tensors = load_file(saved)
    config, _ = weights.read(saved)
    tensors[next(iter(tensors))] += 1
    save_file(tensors, tmp_path / "t.safetensors", metadata={"config": json.dumps(config, sort_keys=True)})
    with pytest.raises(ia.InstaAugError, match="do not match their checksum"):
        ia.LearnedAugment.from_pretrained(tmp_path / "t.safetensors")


def test_weights_for_a_family_that_is_not_there(saved, tmp_path):
    config, tensors = weights.read(saved)
    config["families"][0]["name"] = "swirl"
    weights.write(tmp_path / "swirl.safetensors", config, tensors)
    with pytest.raises(ia.InstaAugError, match="unknown family 'swirl'"):
        ia.LearnedAugment.from_pretrained(tmp_path / "swirl.safetensors")


def test_a_newer_format_says_upgrade(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FORMAT", 99)
    ia.LearnedAugment(["rotate"]).save(tmp_path / "new.safetensors")
    monkeypatch.undo()
    with pytest.raises(ia.InstaAugError, match="format 99.*upgrade"):
        ia.LearnedAugment.from_pretrained(tmp_path / "new.safetensors")


def test_unknown_name_lists_the_known():
    with pytest.raises(
        ia.InstaAugError, match="'nope' is neither a file nor a known name; known are.*crop_tinyimagenet"
    ):
        ia.LearnedAugment.from_pretrained("nope")


def test_nothing_is_left_half_written(saved, tmp_path, monkeypatch):
    before = saved.read_bytes()

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(weights.os, "fsync", fails)
    with pytest.raises(ia.InstaAugError, match="disk full"):
        ia.LearnedAugment(["crop"]).save(saved)
    assert saved.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_bad_paths(tmp_path):
    aug = ia.LearnedAugment(["crop"])
    with pytest.raises(ia.InstaAugError, match="saved as .safetensors, got 'a.pt'"):
        aug.save(tmp_path / "a.pt")
    with pytest.raises(ia.InstaAugError, match="does not exist"):
        aug.save(tmp_path / "no" / "a.safetensors")


def test_every_checkpoint_of_the_package_loads_and_is_named_after_its_hash():
    for name, entry in weights.manifest().items():
        assert entry["file"] == f"{name}-{entry['sha256'][:8]}.safetensors"
        aug = ia.LearnedAugment.from_pretrained(name)
        largest = 3_000_000 if aug.predictor.kind == "equivariant" else 1_000_000
        assert (weights.hub_dir() / entry["file"]).stat().st_size == entry["bytes"] < largest
        assert [family.name for family in aug.families] == entry["families"]
        assert aug(torch.rand(2, 3, 80, 100)).shape == (2, 3, 80, 100)
    assert ia.list_weights() == sorted(weights.manifest())


def test_an_altered_checkpoint_of_the_package_is_refused(tmp_path, monkeypatch):
    name, entry = next(iter(weights.manifest().items()))
    data = bytearray((weights.hub_dir() / entry["file"]).read_bytes())
    data[-5] ^= 4
    (tmp_path / entry["file"]).write_bytes(data)
    (tmp_path / "manifest.json").write_text(json.dumps({name: entry}))
    monkeypatch.setattr(weights, "hub_dir", lambda: tmp_path)
    with pytest.raises(ia.InstaAugError, match="altered or cut"):
        ia.LearnedAugment.from_pretrained(name)


@pytest.mark.parametrize("predictor", [[], None, "conv", {}, {"kind": []}])
def test_a_predictor_that_is_none_is_named(saved, tmp_path, predictor):
    config, tensors = weights.read(saved)
    weights.write(tmp_path / "b.safetensors", {**config, "predictor": predictor}, tensors)
    with pytest.raises(ia.InstaAugError, match="weights: "):
        ia.LearnedAugment.from_pretrained(tmp_path / "b.safetensors")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"a": 1}', '{"a": {}}', '{"a": {"file": "../a", "sha256": "0"}}'])
def test_a_damaged_manifest_says_so(text, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "hub_dir", lambda: tmp_path)
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ia.InstaAugError, match=r"weights: .*manifest\.json is damaged"):
        ia.list_weights()


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(ia.InstaAugError, match="weights: "):
        weights.read(tmp_path, "0" * 64)


@pytest.mark.parametrize("checked", [False, True])
def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(tmp_path, monkeypatch, checked):
    """What is checked is what is used: another process, with the same work folder say, may save meanwhile."""
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for place, value in ((path, 1.0), (other, 2.0)):
        weights.write(place, {"value": value}, {"x": torch.full((1000,), value)})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if checked else None
    read, contents = Path.read_bytes, other.read_bytes()

    def replaced(self):
        data = read(self)
        files.replace_file(path, contents)
        return data

    monkeypatch.setattr(Path, "read_bytes", replaced)
    config, tensors = weights.read(path, sha256)
    assert config["value"] == 1.0 and torch.equal(tensors["x"], torch.ones(1000))
