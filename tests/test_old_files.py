"""Files that older versions wrote load, and say what they said then (`tests/write_fixtures.py` writes and records them)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning.checkpoint import load_state, state_file
from instaaug_transforms.utils import weights

FIXTURES = Path(__file__).parent / "fixtures"
RECORDED = {path.stem: json.loads(path.read_text()) for path in sorted(FIXTURES.glob("*.json"))}
WEIGHTS = [
    FIXTURES / f"{version}-{name}.safetensors"
    for version, known in RECORDED.items()
    for name in known
    if name not in ("table", "checkpoint")
]


class Model(nn.Module):
    """The classifier whose features some of them read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.stem(x).relu().mean((2, 3)))


def some_images(n):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def said(aug):
    """What a transform says of two images, as JSON values: φ's raw outputs, and the two likeliest views."""
    images = some_images(2)
    distribution = aug.distribution(images)
    return {
        "raw": {name: raw.tolist() for name, raw in aug.predictor(images).items()},
        "entropy": {name: entropy.tolist() for name, entropy in distribution.entropies().items()},
        "likeliest": {name: field.tolist() for name, field in distribution.top(2).items()},
        "recommended": aug.recommended,
    }


def said_by_table(folder):
    """The rows of a table, all chunks of which must be whole."""
    about = json.loads((folder / "about.json").read_text())
    rest = {key: value for key, value in about.items() if key not in ("shape", "dtype", "chunk")}
    n, *shape = about["shape"]
    rows = Rows(folder, n, tuple(shape), getattr(torch, about["dtype"]), about["chunk"], rest)
    assert all(rows.done(slice(start, min(start + rows.chunk, n))) for start in range(0, n, rows.chunk))
    return rows.tensor().tolist()


def said_by_checkpoint(path, scratch):
    """What a fit would go on from: its numbers, and the norm of every tensor."""
    about = weights.read(path)[0]["about"]
    shutil.copy(path, state_file(scratch, about))
    values, tensors = load_state(scratch, about)
    for entry in values["history"]:
        del entry["seconds"]
    return {name: values[name] for name in ("step", "history", "sums", "controller", "schedule")} | norms(tensors)


def norms(tensors, where=""):
    if isinstance(tensors, torch.Tensor):
        return {where: tensors.double().norm().item()}
    parts = tensors.items() if isinstance(tensors, dict) else enumerate(tensors if isinstance(tensors, list) else ())
    return {key: norm for name, part in parts for key, norm in norms(part, f"{where}/{name}").items()}


def close(found, expected, where=""):
    """Whether JSON values are the same, numbers to five digits."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for name in expected:
            close(found[name], expected[name], f"{where}/{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            close(one, other, f"{where}/{place}")
    else:
        assert found == (pytest.approx(expected, rel=1e-4, abs=1e-5) if isinstance(expected, float) else expected), (
            where
        )


@pytest.mark.parametrize("path", WEIGHTS, ids=[path.stem for path in WEIGHTS])
def test_weights_say_what_they_said(path):
    version, name = path.stem.split("-")
    aug = ia.LearnedAugment.from_pretrained(path, classifier=Model() if name == "features" else None)
    close(said(aug), RECORDED[version][name])
    images = some_images(2)
    assert aug(images).shape == images.shape


@pytest.mark.parametrize("version", RECORDED)
def test_a_fit_goes_on_from_the_numbers_that_were_kept(version, tmp_path):
    shutil.copytree(FIXTURES / f"{version}-table", tmp_path / "table")
    close(said_by_table(tmp_path / "table"), RECORDED[version]["table"])
    close(said_by_checkpoint(FIXTURES / f"{version}-checkpoint.safetensors", tmp_path), RECORDED[version]["checkpoint"])


@pytest.mark.parametrize("version", RECORDED)
def test_the_recommended_setting_is_read(version):
    aug = ia.LearnedAugment.from_pretrained(FIXTURES / f"{version}-fitted.safetensors")
    known = RECORDED[version]["fitted"]["recommended"]["recommended"]
    assert ia.TTAModel.recommended(Model().eval(), aug).n_views == known["n_views"]


def test_the_latest_files_are_of_every_predictor_and_every_family():
    """A new one is given a file by `tests/write_fixtures.py`, of the next version."""
    configs = [weights.read(path)[0] for path in WEIGHTS]
    assert {config["predictor"]["kind"] for config in configs} == {
        "class", "conv", "equivariant", "features", "global", "patches", "symmetric"
    }  # fmt: skip
    assert {family["name"] for config in configs for family in config["families"]} == set(families.available())


# -- version 0.1.0, whose files hold in their notes what they said ---------------------------------------------------------

FILES = sorted(FIXTURES.glob("0.1.0-*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_what_0_1_0_wrote(path, tmp_path):
    classifier = Model() if "features" in path.stem else None
    aug = ia.LearnedAugment.from_pretrained(path, classifier=classifier)
    images = some_images(2)
    for name, raw in weights.read(path)[0]["notes"]["raw"].items():
        assert torch.allclose(aug.predictor(images)[name], torch.tensor(raw), atol=1e-5), name
    assert aug(images).shape == images.shape
    aug.save(tmp_path / "again.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "again.safetensors", classifier=classifier)
    assert all(torch.equal(a, b) for a, b in zip(aug.state_dict().values(), again.state_dict().values(), strict=True))


def test_there_is_a_file_of_every_predictor_of_0_1_0():
    assert {path.stem.removeprefix("0.1.0-") for path in FILES} == {"class", "conv", "features", "global", "symmetric"}
