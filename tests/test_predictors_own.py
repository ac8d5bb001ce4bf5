"""A predictor of one's own: fitted, saved, loaded."""

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.families import Features, FeatureSpec


@ia.register_predictor("test-brightness")
class Brightness(ia.Predictor):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.layer = nn.Linear(1, width)

    def encode(self, images):
        return (images.mean((1, 2, 3))[:, None],)

    def spec(self):
        return FeatureSpec(map_channels=1, map_size=(1, 1), vector_size=self.width)

    def features(self, brightness):
        return Features(brightness[:, :, None, None], torch.relu(self.layer(brightness)))


class Sideways(nn.Module):
    """Sure of class 0 where the left half is the brighter one."""

    def forward(self, x):
        left, right = x.chunk(2, -1)
        return torch.stack([10 * (left - right).mean((1, 2, 3)), torch.zeros(len(x))], 1)


def test_it_fits_saves_and_loads(tmp_path):
    images = torch.rand(40, 3, 16, 16)
    images[::2, ..., 8:] *= 0.1
    images[1::2, ..., :8] *= 0.1
    aug = ia.LearnedAugment(["turn"], predictor=Brightness(width=4))
    config = ia.FitConfig(epochs=3, progress=False)
    ia.fit(aug, Sideways(), (images, torch.zeros(40, dtype=torch.long)), config=config)
    path = tmp_path / "own.safetensors"
    aug.save(path)
    again = ia.LearnedAugment.from_pretrained(path)
    assert isinstance(again.predictor, Brightness) and again.predictor.width == 4
    assert torch.equal(again.predictor(images)["turn"], aug.eval().predictor(images)["turn"])


def test_an_unknown_kind_says_what_to_import(tmp_path):
    from instaaug_transforms.utils import weights

    aug, path = ia.LearnedAugment(["turn"], predictor="test-brightness"), tmp_path / "own.safetensors"
    config = aug.config()
    config["predictor"]["kind"] = "somebody's"
    weights.write(path, config, aug.predictor.state_dict())
    with pytest.raises(ia.InstaAugError, match='kind "somebody\'s", which is not known here; import the module'):
        ia.LearnedAugment.from_pretrained(path)


def test_errors():
    with pytest.raises(ia.InstaAugError, match="unknown name 'best'; known are class, conv, equivariant, features"):
        ia.LearnedAugment(["crop"], predictor="best")
    with pytest.raises(
        ia.InstaAugError, match=r"'features' needs arguments; give an object, FeaturesPredictor\(classifier=…\)"
    ):
        ia.LearnedAugment(["crop"], predictor="features")
    with pytest.raises(ia.InstaAugError, match="expected a name .* or a Predictor, got Linear"):
        ia.LearnedAugment(["crop"], predictor=nn.Linear(1, 1))
    for options in ({"channels": 64}, {"blocks": None}, {"blocks": (0, 1.5, 2)}, {"channels": (8, 12, 16)}):
        with pytest.raises(ia.InstaAugError, match=next(iter(options))):
            ia.EquivariantPredictor(**options)
    with pytest.raises(ia.InstaAugError, match="classifier: expected a torch.nn.Module, got int"):
        ia.FeaturesPredictor(3)
    with pytest.raises(ia.InstaAugError, match=r"dropout: expected a number in \[0, 1\], got 2"):
        ia.FeaturesPredictor(nn.Linear(1, 1), dropout=2)
    shared = ia.ConvPredictor()
    ia.LearnedAugment(["crop"], predictor=shared)
    with pytest.raises(ia.InstaAugError, match="belongs to a transform already"):
        ia.LearnedAugment(["turn"], predictor=shared)
    with pytest.raises(ia.InstaAugError, match=r"kind: expected the name in brackets, @register_predictor\('mine'\)"):
        ia.register_predictor(Brightness)
    with pytest.raises(ia.InstaAugError, match="is taken by"):
        ia.register_predictor("conv")(Brightness)
