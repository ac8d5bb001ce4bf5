"""Files that version 0.1.0 wrote load, and say what they said then."""

from pathlib import Path

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.utils import weights

FILES = sorted((Path(__file__).parent / "fixtures").glob("0.1.0-*.safetensors"))


class Model(nn.Module):
    """The classifier whose features one of them reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.stem(x).relu().mean((2, 3)))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_what_0_1_0_wrote(path, tmp_path):
    classifier = Model() if "features" in path.stem else None
    aug = ia.LearnedAugment.from_pretrained(path, classifier=classifier)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = weights.read(path)[0]["notes"]["raw"]  # what its φ made of these images then
    for name, raw in aug.predictor(images).items():
        assert torch.allclose(raw, torch.tensor(expected[name]), atol=1e-5), name
    assert aug(images).shape == images.shape
    aug.save(tmp_path / "again.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "again.safetensors", classifier=classifier)
    assert all(torch.equal(a, b) for a, b in zip(aug.state_dict().values(), again.state_dict().values(), strict=True))


def test_there_is_a_file_of_every_predictor():
    assert {path.stem.removeprefix("0.1.0-") for path in FILES} == {"class", "conv", "features", "global", "symmetric"}
