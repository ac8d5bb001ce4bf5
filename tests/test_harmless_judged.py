"""What a report is judged by: images and labels as the classifier takes them, and losses that say something."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning.arms import rivals
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.scores import ClassScores

from .test_harmless import Corners, corners

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.2, 0.25)


@pytest.mark.parametrize("families", [["turn"], ["crop", "rotate"]])
def test_behind_a_transform_of_normalised_images_the_classifier_gets_such(families):
    """A classifier without its normalisation inside: the report is of what `TTAModel` then makes of normalised images."""
    torch.manual_seed(0)
    images, labels = corners(160)
    normalise = v2.Normalize(MEAN, STD)

    class Bare(Corners):
        shifts = []

        def forward(self, x):
            self.shifts.append(float(x.min() < -0.5))  # as no image in [0, 1] is
            return super().forward(x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None])

    labels = Corners()(images).argmax(1)
    aug = ia.LearnedAugment(families, normalization=(MEAN, STD))
    config = ia.FitConfig(max_steps=4, progress=False)
    report = ia.fit(aug, Bare(), (images[:80], labels[:80]), (images[80:], labels[80:]), config=config).report
    assert report.arms[0].correct.mean() == 1
    assert sum(Bare.shifts) > 0.5 * len(Bare.shifts)
    model = ia.TTAModel.recommended(Bare(), aug)
    assert (model(normalise(images[80:])).argmax(1) == labels[80:]).float().mean() == 1
    assert ia.recommend(aug, Bare(), (images, labels), config).arms[0].correct.mean() == 1
    both = (images[:80], labels[:80]), (images[80:], labels[80:])
    compared = ia.tta.evaluate(Bare(), aug, *both, n_views=(1, 2), only=["greedy policy"], progress=False)
    assert compared.arms["single view", 1].correct.all()


def test_a_table_of_images_as_they_are_is_refused_where_they_are_disturbed():
    images, labels = corners(20)
    aug = ia.LearnedAugment(["turn"])
    table = ia.build_loss_table(Corners(), (images, labels), aug)
    for options in ({"nuisance": ["turn"], "labels": True}, {"labels": False}):
        with pytest.raises(ia.InstaAugError, match="table: build_loss_table knows labelled images as they are"):
            ia.fit(aug, Corners(), (images, labels), (images, labels), table=table, **options)


def test_labels_that_are_to_be_ignored_are_not_looked_at():
    """Wrong ones, and ones that are no classes of the classifier, make no difference."""
    images, labels = corners(60)
    config, seen = ia.FitConfig(max_steps=4, progress=False), []
    for data in ((images, labels), (images, 100 + labels), images):
        for run in (ia.fit, ia.recommend):
            torch.manual_seed(0)
            made = run(ia.LearnedAugment(["turn"]), Corners(), data, config=config, labels=False, nuisance=["turn"])
            report = getattr(made, "report", made)
            assert "own answers" in report.against
            seen.append([float(arm.nll.mean()) for arm in report.arms])
    assert seen[0] == seen[2] == seen[4] and seen[1] == seen[3] == seen[5]


def test_what_a_classifier_is_too_sure_of_is_judged_after_its_temperature_alone():
    """Soft views of a classifier whose logits are nine times too large have a lower loss, and are no better. Where losses alone are kept of
    the images that φ learned from, these say nothing then; where logits are, they are taken at their own temperature, too."""

    def prepared(logits, labels, names=("logits", "plain", "losses")):
        n, columns, _ = logits.shape
        losses = nn.functional.cross_entropy(logits.mT, labels[:, None].expand(-1, columns), reduction="none")
        rows = {}
        for name, values in {"logits": logits[:, None], "plain": logits[:, 0], "losses": losses[:, None]}.items():
            rows[name] = Rows(None, n, values.shape[1:], torch.float32, n, {})
            rows[name].put(slice(0, n), values)
        rows = {name: rows[name] for name in names}
        return Prepared(LabelledImages(torch.zeros(n, 1), labels), 1, rows, torch.device("cpu"))

    def known_of_train(sureness, *names):
        generator = torch.Generator().manual_seed(0)
        plain, noise = torch.randn(2, 400, 1, 3, generator=generator)
        labels = (plain[:, 0] + torch.randn(400, 3, generator=generator)).argmax(1)
        views = sureness * torch.cat([2 * plain, 0.5 * plain + 0.05 * noise], 1)
        held, train = prepared(views[:200], labels[:200]), prepared(views[200:], labels[200:], names)
        log_p = torch.full((200, 2), 0.5).log()
        train = ClassScores(train) if "logits" in names else train
        arms = rivals(ClassScores(held), log_p, ia.AugmentParams(turn_angle=torch.tensor([0.0, 90.0])), [1, 0], train)
        return [arm for arm in arms if arm.more is not None]

    assert known_of_train(1.0, "losses") and not known_of_train(9.0, "losses") and not known_of_train(0.2, "losses")
    gains = []
    for sureness in (0.2, 1.0, 9.0):
        single, *others = known_of_train(sureness, "losses", "plain", "logits")
        gains += [
            [single.more.nll.mean() - arm.more.nll.mean(), arm.more.correct.mean() - single.more.correct.mean()]
            for arm in others
        ]
    assert len(gains) == 12 and np.array(gains)[:, 0].max() < 0.01


class Sides(nn.Module):
    def forward(self, x):
        left, right = (half.mean((1, 2, 3)) for half in x.chunk(2, -1))
        return 40 * torch.stack([left - right, right - left], 1)


@pytest.mark.parametrize("family", ["crop", "erase"])
def test_views_are_not_better_for_being_less_sure_of_what_cannot_be_known(family):
    """Left is told from right, for sure, and half of the images are mirrored: no view helps, and one shy answer for all would not either."""

    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.rand(200, 3, 16, 16, generator=generator)
    images[::2, :, 4:12, 1:7] += 0.6
    images[1::2, :, 4:12, 9:15] += 0.6
    torch.manual_seed(0)
    aug = ia.LearnedAugment([family])
    config = ia.FitConfig(max_steps=20, progress=False)
    report = ia.fit(aug, Sides(), images, nuisance=lambda image: image.flip(-1), config=config).report
    assert all(arm.nll.mean() <= math.log(2) + 1e-3 for arm in report.arms)
    answers = ia.TTAModel.recommended(Sides(), aug)(images).argmax(1)
    assert torch.equal(answers, torch.arange(200) % 2)
