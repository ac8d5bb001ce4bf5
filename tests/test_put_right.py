"""Fixed views of held-out copies that φ has put right, against ``rot90``, ``flip`` and torchvision's resize."""

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.nuisance import Nuisance
from instaaug_transforms.learning.losses import cross_entropy, find_loss
from instaaug_transforms.learning.prepared import prepare
from instaaug_transforms.learning.put_right import PutRight
from instaaug_transforms.learning.scores import kept_as
from instaaug_transforms.tta.arms import with_extras

N, DRAWS = 10, 3


class Asymmetric(nn.Module):
    """Numbers that tell every turn, mirror image and zoom apart; counts what it looks at."""

    def __init__(self):
        super().__init__()
        self.looked = 0

    def forward(self, x):
        self.looked += len(x)
        ramp = torch.linspace(0, 1, x.shape[-1])
        return torch.stack([(x * ramp).mean((1, 2, 3)), (x * ramp[:, None]).mean((1, 2, 3)), x.var((1, 2, 3))], 1)


def held_out(model, loss, folder=None):
    """Three copies of each of ten images, what the table knows of them, and what looks at them again."""
    torch.set_num_threads(1)
    generator, aug = torch.Generator().manual_seed(0), ia.LearnedAugment(["turn"])
    targets = torch.arange(N) % 3 if loss is cross_entropy else torch.rand(N, 3, generator=generator)
    images = LabelledImages(torch.rand(N, 3, 40, 40, generator=generator), targets)
    config = ia.FitConfig(nuisance_draws=DRAWS, table_batch_size=4, progress=False)
    nuisance, candidates = Nuisance("turn", 0.7, 1), with_extras(aug, aug.families[0].candidates())
    shared = aug, model, loss, config
    with torch.no_grad():
        held = prepare(images, None, "val_table", *shared, candidates, nuisance, None, folder, logits=kept_as(loss))
    copies = torch.stack([nuisance(images.images, torch.arange(N), draw) for draw in range(DRAWS)], 1).flatten(0, 1)
    return held, copies, PutRight(*shared, nuisance, candidates, folder)


@pytest.mark.parametrize("kind", ["cross_entropy", "squared_error"])
def test_every_copy_is_put_right_and_then_zoomed_and_mirrored(kind):
    model = Asymmetric()
    held, copies, put_right = held_out(model, find_loss(kind))
    turns = torch.randint(4, (N * DRAWS,), generator=torch.Generator().manual_seed(2))
    scores = put_right.look(held, turns)
    upright = torch.stack([copy.rot90(int(k), (-2, -1)) for copy, k in zip(copies, turns, strict=True)])
    zoomed = F.resize(upright[:, :, 4:36, 4:36], [40, 40], antialias=True)  # 32 of 40 pixels
    fixed = put_right.fixed
    assert fixed.w.tolist() == pytest.approx([1, 0.9, 0.8, 0.7] * 2) and fixed.flip.tolist() == [0] * 4 + [1] * 4
    outputs = scores.outputs(torch.arange(N * DRAWS))
    for column, views in ((0, upright), (2, zoomed), (4, upright.flip(-1)), (6, zoomed.flip(-1))):
        tolerance = 1e-3 if column in (0, 4) else 4e-3  # kept in half precision; edges of what is enlarged
        torch.testing.assert_close(outputs[:, column], model(views), atol=tolerance, rtol=0)


def test_what_the_table_has_is_not_looked_at_again_and_what_a_folder_has_is_kept(tmp_path):
    model = Asymmetric()
    held, _, put_right = held_out(model, cross_entropy, tmp_path)
    turns = torch.arange(N * DRAWS) % 4
    model.looked = 0
    first = put_right.look(held, turns).losses
    # Of copies that are left alone all is known; of the others the turn itself, and seven views of it are not.
    assert model.looked == 7 * int((turns != 0).sum()) + 14  # the first image's copies twice, to know what is kept
    model.looked = 0
    assert torch.equal(put_right.look(held, turns).losses, first) and model.looked <= 14
    assert not torch.equal(put_right.look(held, (turns + 1) % 4).losses, first)


def test_nothing_follows_a_crop_that_turns():
    for names, follows in ((["turn"], True), (["crop"], True), (["crop", "light"], True), (["crop", "turn"], False)):
        aug = ia.LearnedAugment(names)
        assert (PutRight(aug, None, None, None, None, None, None).fixed is not None) == follows
