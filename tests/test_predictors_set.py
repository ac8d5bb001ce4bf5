"""``aug.predictor = other`` on a transform that is made already."""

import copy

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.families.turn import Turn
from instaaug_transforms.predictors import PatchPredictor

IMAGES = torch.rand(3, 3, 16, 16)


@pytest.mark.parametrize("other", ["global", PatchPredictor(16), None])
def test_a_new_one_is_built_saved_and_loaded(tmp_path, other):
    """One that was not built yet gave an AttributeError, a name a TypeError."""
    aug = ia.LearnedAugment(["turn"])
    aug.recommended = {"recommended": {"n_views": 2}}  # by the φ that goes
    aug.predictor = other if other is not None else ia.LearnedAugment(["turn"]).predictor
    assert aug.recommended is None
    aug.save(tmp_path / "a.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors")
    log_p = [t.distribution(IMAGES).parts["turn"].categorical.logits for t in (aug.eval(), again)]
    assert torch.equal(*log_p) and log_p[0].shape == (3, 4)


@pytest.mark.parametrize(
    ("families", "in_channels", "what"),
    [([Turn(angles=(0, 90))], 3, "turn"), (["crop", "turn"], 3, "crop"), (["turn"], 1, "channels")],
)
def test_one_of_another_transform_is_refused(families, in_channels, what):
    """Two logits were taken for those of four turns; a file of them could not be loaded."""
    aug, other = ia.LearnedAugment(["turn"]), ia.LearnedAugment(families, in_channels=in_channels)
    with pytest.raises(ia.InstaAugError, match=f"predictor: this PatchPredictor was built for another.* other {what}"):
        aug.predictor = other.predictor


def test_what_wraps_it_and_copies_may_take_its_place():
    aug = ia.LearnedAugment(["turn"])
    aug.recommended = known = {"recommended": {"n_views": 2}}
    expected, own = aug.distribution(IMAGES).mode, aug.predictor
    for same in (own, torch.compile(own, backend="eager"), own):
        aug.predictor = same
        assert aug.recommended is known and aug.distribution(IMAGES).mode == expected
    aug.predictor = copy.deepcopy(own)
    assert aug.distribution(IMAGES).mode == expected
    copy.deepcopy(aug).predictor = ia.LearnedAugment(
        [Turn(initial_identity=0.5)]
    ).predictor  # where it starts is no matter
