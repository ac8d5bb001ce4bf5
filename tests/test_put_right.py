"""Fixed views of held-out copies that φ has put right, against ``rot90``, ``flip`` and torchvision's resize."""

import re
import shutil

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
from instaaug_transforms.learning.task import Task
from instaaug_transforms.tta.arms import with_extras

from .test_harmless import corners

N, DRAWS = 10, 3


class Asymmetric(nn.Module):
    """Numbers that tell every turn, mirror image and zoom apart; counts what it looks at."""

    def __init__(self):
        super().__init__()
        self.looked = 0

    def forward(self, x):
        self.looked += len(x)
        ramp = torch.linspace(0, 1, x.shape[-1])
        return 4 * torch.stack([(x * ramp).mean((1, 2, 3)), (x * ramp[:, None]).mean((1, 2, 3)), x.var((1, 2, 3))], 1)


class Scaled(nn.Module):
    """A layer whose setting no weights tell."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x):
        return self.scale * x


def held_out(model, loss, folder=None):
    """Three copies of each of ten images, what the table knows of them, and what looks at them again."""
    torch.set_num_threads(1)
    generator, aug = torch.Generator().manual_seed(0), ia.LearnedAugment(["turn"])
    targets = torch.arange(N) % 3 if loss is cross_entropy else torch.rand(N, 3, generator=generator)
    pictures = 0.3 * torch.rand(N, 3, 40, 40, generator=generator)
    pictures[:, :, :14, :20] += 0.7
    images = LabelledImages(pictures, targets)
    config = ia.FitConfig(nuisance_draws=DRAWS, table_batch_size=4, progress=False)
    nuisance, candidates = Nuisance("turn", 1.0, 1), with_extras(aug, aug.families[0].candidates())
    task = Task(aug, model, loss, config, nuisance)
    with torch.no_grad():
        held = prepare(task, images, "val_table", candidates, folder, logits=kept_as(loss))
    copies = torch.stack([nuisance(images.images, torch.arange(N), draw) for draw in range(DRAWS)], 1).flatten(0, 1)
    return held, copies, PutRight(task, candidates, folder)


def said_of(copies):
    """φ's log-probabilities of four turns, different for every copy."""
    return torch.randn(len(copies), 4, generator=torch.Generator().manual_seed(2)).log_softmax(1)


def turned(copies, turns):
    return torch.stack([copy.rot90(int(k), (-2, -1)) for copy, k in zip(copies, turns, strict=True)])


def fixed_views(upright):
    """Some of them, by column: as it is, of 32 of 40 pixels, and both mirrored."""
    zoomed = F.resize(upright[:, :, 4:36, 4:36], [40, 40], antialias=True)
    return {0: upright, 2: zoomed, 4: upright.flip(-1), 6: zoomed.flip(-1)}


@pytest.mark.parametrize("kind", ["cross_entropy", "squared_error"])
def test_every_copy_is_put_right_and_then_zoomed_and_mirrored(kind):
    model = Asymmetric()
    held, copies, put_right = held_out(model, find_loss(kind))
    log_p = said_of(copies)
    ((scores, likeliest),) = put_right.look(held, log_p, 1)
    assert torch.equal(likeliest[:, 0], log_p.argmax(1))
    fixed = put_right.fixed
    assert fixed.w.tolist() == pytest.approx([1, 0.9, 0.8, 0.7] * 2) and fixed.flip.tolist() == [0] * 4 + [1] * 4
    outputs = scores.outputs(torch.arange(N * DRAWS))
    for column, views in fixed_views(turned(copies, likeliest[:, 0])).items():
        tolerance = 1e-3 if column in (0, 4) else 4e-3  # kept in half precision; edges of what is enlarged
        # Of logits what all classes have in common is not kept.
        found, by_hand = (
            z.log_softmax(1) if kind == "cross_entropy" else z for z in (outputs[:, column], model(views))
        )
        torch.testing.assert_close(found, by_hand, atol=tolerance, rtol=0)


@pytest.mark.parametrize("at", [1.0, 0.25])
def test_two_candidates_are_averaged_as_likely_as_they_are(at):
    """At the temperature of a view, by which `Scores.outputs` are divided."""
    model = Asymmetric()
    held, copies, put_right = held_out(model, cross_entropy)
    log_p = said_of(copies)
    (one, _), (two, likeliest) = put_right.look(held, log_p, 2, at)
    p, turns = log_p.exp().topk(2, 1)
    assert torch.equal(likeliest, turns)
    rows = torch.arange(N * DRAWS)
    first, second = (fixed_views(turned(copies, column)) for column in turns.T)
    for column in first:
        by_hand = [(model(views[column]) / at).softmax(1) for views in (first, second)]
        torch.testing.assert_close(one.outputs(rows)[:, column].softmax(1), by_hand[0], atol=4e-3 / at, rtol=0)
        average = (p[:, :1] * by_hand[0] + p[:, 1:] * by_hand[1]) / p.sum(1, keepdim=True)
        torch.testing.assert_close(two.outputs(rows)[:, column].softmax(1), average, atol=4e-3 / at, rtol=0)
        spread = (by_hand[0] - by_hand[1]).abs().max()
        assert spread > 0.02  # what would be seen if weights or candidates were mixed up


def test_what_the_table_has_is_not_looked_at_again_and_what_a_folder_has_is_kept(tmp_path):
    model = Asymmetric()
    held, _, put_right = held_out(model, cross_entropy, tmp_path)
    turns = torch.arange(N * DRAWS) % 4
    log_p = torch.eye(4)[turns].log_softmax(1)
    model.looked = 0
    first = put_right.look(held, log_p, 1)[0][0].losses
    # Of copies that are left alone all is known; of the others the turn itself, and seven views of it are not.
    assert model.looked == 7 * int((turns != 0).sum()) + 14  # the first image's copies twice, to know what is kept
    model.looked = 0
    assert torch.equal(put_right.look(held, log_p, 1)[0][0].losses, first) and model.looked <= 14
    assert not torch.equal(put_right.look(held, log_p.roll(1, 1), 1)[0][0].losses, first)


def test_nothing_follows_a_crop_that_turns():
    for names, follows in ((["turn"], True), (["crop"], True), (["crop", "light"], True), (["crop", "turn"], False)):
        aug = ia.LearnedAugment(names)
        assert (PutRight(Task(aug, None), None, None).fixed is not None) == follows


class LeftHalf(nn.Module):
    """Whether red is at the top or at the bottom, by what is at the left alone; a third class is of images whose green is not at the bottom."""

    def forward(self, x):
        left, green = x[:, 0, :, :6], x[:, 1]
        upright = (2 * (green[:, 8:] - green[:, :8]).mean((1, 2))).clamp(0, 1)
        evidence = 10 * upright * (left[:, :8].mean((1, 2)) - left[:, 8:].mean((1, 2)))
        return torch.stack([evidence, -evidence, 6 - 12 * upright], 1)


def test_images_are_put_right_and_then_averaged_with_their_mirror_images():
    """Turned at random, red at the left or at the right: neither a turn nor fixed views by themselves are right for all."""
    torch.set_num_threads(1)

    def turned(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        upright, corner = corners(n)[0], torch.arange(n) % 4
        upright[:, 1] = torch.linspace(0, 1, 16)[:, None]
        turns = torch.arange(n) // 4 % 4
        images = [image.rot90(int(k), (-2, -1)) for image, k in zip(upright, turns, strict=True)]
        return upright, torch.stack(images), (corner > 1).long()

    torch.manual_seed(0)
    (_, *given), (upright, held, right) = turned(320), turned(160)
    aug = ia.LearnedAugment(["turn"], predictor=ia.ConvPredictor(32))
    config = ia.FitConfig(max_steps=150, batch_size=64, lr=1e-2, progress=False)
    report = ia.fit(aug, LeftHalf(), tuple(given), (held, right), config).report
    recommended = report.recommended
    assert (recommended.name, recommended.n_views, recommended.setting.get("put_right")) == ("ours", 2, 1)
    assert recommended.correct.all() and "φ puts each image right" in str(report)
    found = ia.TTAModel.recommended(LeftHalf(), aug)(held).softmax(1)
    at = recommended.setting["temperature"]
    mean = sum((LeftHalf()(view) / at).softmax(1) for view in (upright, upright.flip(-1))) / 2
    expected = (at * mean.log()).softmax(1)
    assert torch.equal(found.argmax(1), right)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_what_is_kept_is_of_one_classifier(tmp_path):
    """Folders that a message says to delete are not all there is: each says itself what it is of."""
    torch.set_num_threads(1)
    images, config, aug = torch.rand(20, 3, 16, 16), ia.FitConfig(progress=False), ia.LearnedAugment(["turn"])

    def rows(scale, folder):
        model = nn.Sequential(Scaled(scale), Asymmetric())
        report = ia.recommend(aug, model, images, config, nuisance=["turn"], workdir=tmp_path / folder)
        return [(arm.name, arm.n_views, float(arm.nll.mean())) for arm in report.arms]

    before, named = rows(1.0, "kept"), []
    while True:
        try:
            after = rows(-1.0, "kept")
            break
        except ia.InstaAugError as error:
            assert "another classifier" in str(error)
            named.append(re.search(r"workdir: (\S+) was", str(error))[1])
            shutil.rmtree(named[-1])
    assert any("put-right" in name for name in named) and len(named) > 1
    assert after == rows(-1.0, "fresh") != before
