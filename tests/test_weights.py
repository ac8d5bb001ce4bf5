import errno
import hashlib
import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

import instaaug_transforms as ia
from instaaug_transforms.utils import files, hf, weights


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


def test_what_was_recommended_is_of_the_weights_that_it_was_found_with():
    """A search keeps the best `state_dict`; loaded into the transform of the last fit, it was deployed with that fit's setting."""
    aug, setting = ia.LearnedAugment(["rotate"]), {"recommended": {"n_views": 4}}
    best = {name: value.clone() for name, value in aug.state_dict().items()}
    aug.recommended = setting
    aug.load_state_dict(best)
    assert aug.recommended is setting  # these very weights
    with torch.no_grad():
        next(aug.parameters()).add_(1)
    torch.nn.Sequential(aug).load_state_dict({f"0.{name}": value for name, value in best.items()})
    assert aug.recommended is None


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


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [NESTED, '{"a": {"file": "a"}}', '{"a": {"file": "a", "sha256": 0}}', '{"a": {"file": 3, "sha256": "0"}}', '{"a": {"file": "b/a", "sha256": "0"}}',
     '{"a": {"file": "a", "sha256": "0"}, "b": {"file": "/b", "sha256": "0"}}', '{"a": null}', "3"],
    ids=lambda text: text[:50],
)  # fmt: skip
def test_a_manifest_that_names_no_files_of_its_folder_says_so(text, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "hub_dir", lambda: tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ia.InstaAugError, match=r"weights: .*manifest\.json is damaged .*; reinstall the package"):
        weights.manifest()


def test_names_are_files_beside_the_manifest_with_its_sha256_unless_another_is_given(tmp_path, monkeypatch):
    entry = {"file": "b.safetensors", "sha256": "12"}
    (tmp_path / "manifest.json").write_text(json.dumps({"b": entry, "a": entry}))
    monkeypatch.setattr(weights, "hub_dir", lambda: tmp_path)
    assert weights.list_weights() == ["a", "b"] and weights.manifest()["b"] == entry
    assert weights.resolve("b") == (tmp_path / "b.safetensors", "12")
    assert weights.resolve("b", "34") == (tmp_path / "b.safetensors", "34")
    (tmp_path / "mine").touch()
    assert weights.resolve(tmp_path / "mine") == (tmp_path / "mine", None)
    assert weights.resolve(str(tmp_path / "mine"), "56") == (tmp_path / "mine", "56")
    monkeypatch.setattr(hf, "download", lambda *given: given)
    assert weights.resolve(f"{hf.PREFIX}who/what", "78") == (f"{hf.PREFIX}who/what", "78")
    for nothing in ("c", tmp_path, tmp_path / "none"):
        with pytest.raises(ia.InstaAugError, match="neither a file nor a known name; known are a, b"):
            weights.resolve(nothing)


@pytest.mark.parametrize("inside", [False, True])
def test_checkpoints_lie_inside_a_wheel_and_beside_a_checkout(inside, tmp_path, monkeypatch):
    """A file of that name is no folder."""
    package = tmp_path / "instaaug_transforms"
    (package / "utils").mkdir(parents=True)
    (package / "_hub").mkdir() if inside else (package / "_hub").touch()
    monkeypatch.setattr(weights, "__file__", str(package / "utils" / "weights.py"))
    assert weights.hub_dir() == (package / "_hub" if inside else tmp_path / "hub")


def test_the_same_contents_are_the_same_bytes_in_whatever_order_they_come():
    tensors = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.ones(2, requires_grad=True)}
    first = weights.to_bytes({"x": {"p": 1, "q": (2, 3)}, "a": None}, tensors)
    second = weights.to_bytes(
        {"a": None, "x": {"q": [2, 3], "p": 1}, "format": 7, weights.DIGEST: "old"}, dict(reversed(tensors.items()))
    )
    assert first == second
    header = json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])
    config = json.loads(header["__metadata__"]["config"])
    assert list(header["__metadata__"]) == ["config"] and config["format"] == 1 and len(config[weights.DIGEST]) == 64
    assert list(config) == sorted(config) and list(config["x"]) == ["p", "q"]


@pytest.mark.parametrize("config", ["{", NESTED, "3", "null", "[]", '"text"', "{}", '{"format": 1}', f'{{"{weights.DIGEST}": "0"}}'],
                         ids=lambda text: text[:40])  # fmt: skip
def test_a_config_that_is_none_says_who_did_not_write_it(config, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"x": torch.zeros(2)}, metadata={"config": config}))
    with pytest.raises(ia.InstaAugError, match=r"weights: .*a\.safetensors was not written by LearnedAugment\.save"):
        weights.read(tmp_path / "a.safetensors")


def test_an_altered_config_is_noticed(tmp_path):
    weights.write(tmp_path / "a.safetensors", {"value": 1}, {"x": torch.zeros(2)})
    config, tensors = weights.read(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(save(tensors, metadata={"config": json.dumps({**config, "value": 2})}))
    with pytest.raises(ia.InstaAugError, match="contents of .* do not match their checksum"):
        weights.read(tmp_path / "b.safetensors")
    for version in (0, 2, "1"):
        (tmp_path / "c.safetensors").write_bytes(
            save(tensors, metadata={"config": json.dumps({**config, "format": version})})
        )
        with pytest.raises(ia.InstaAugError, match=f"has format {version}, this version reads 1; upgrade"):
            weights.read(tmp_path / "c.safetensors")


@pytest.mark.parametrize(("sha256", "fix"), [(None, "save it again"), ("0" * 64, "reinstall the package")])
def test_a_file_that_the_system_does_not_let_read_says_so(saved, monkeypatch, sha256, fix):
    def fails(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(ia.InstaAugError, match=rf"weights: .* cannot be read \(.*Permission denied.*\); {fix}"):
        weights.read(saved, sha256)


def test_a_file_of_another_sha256_is_refused_and_one_of_the_right_one_read(saved):
    sha256 = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert weights.read(saved, sha256)[0] == weights.read(saved)[0]
    other = "0" * 64
    with pytest.raises(ia.InstaAugError, match=f"has sha256 {sha256[:12]}…, expected {other[:12]}…"):
        weights.read(saved, other)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("quota")])
def test_what_cannot_be_written_says_why(tmp_path, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(weights, "replace_file", fails)
    why = error.strerror or str(error)
    with pytest.raises(ia.InstaAugError, match=rf"path: .*a\.safetensors' cannot be written \({why}\)"):
        weights.write(tmp_path / "a.safetensors", {}, {})
    monkeypatch.undo()
    assert weights.write(str(tmp_path / "a.safetensors"), {}, {"x": torch.zeros(1)}) == tmp_path / "a.safetensors"


def test_notes_are_kept_as_python_has_them(tmp_path):
    """As scripts have them at hand when a fit is done; a TypeError there cost the fit."""
    aug, file = ia.LearnedAugment(["turn"]), tmp_path / "a.safetensors"
    aug.save(file, a=np.float32(0.5), b=torch.tensor(2), c=np.arange(2), d=tmp_path, e=[{"f": np.int64(3)}])
    expected = {"a": 0.5, "b": 2, "c": [0, 1], "d": str(tmp_path), "e": [{"f": 3}]}
    assert weights.read(file)[0]["notes"] == expected
    assert ia.LearnedAugment.from_pretrained(file).in_channels == 3
    with pytest.raises(ia.InstaAugError, match="notes: expected numbers, text, lists .*, got a set"):
        aug.save(tmp_path / "b.safetensors", classes={"cat"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
