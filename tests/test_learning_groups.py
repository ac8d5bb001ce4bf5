"""Images that belong together, frames of a video say, are no witnesses for each other: not in halves, nor as strangers."""

import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import load
from instaaug_transforms.learning.arms import in_halves, nll_on_train, rivals
from instaaug_transforms.learning.report_by_views import report_by_views
from instaaug_transforms.learning.scores import ClassScores, Scores
from instaaug_transforms.learning.task import Task

from .test_learning_arms import held, table

pytestmark = pytest.mark.usefixtures("one_thread")


def test_halves_are_of_whole_groups_in_no_order():
    """Groups come class by class: each half has some of every class."""
    data = held(torch.randn(160, 2, 3), torch.zeros(80).long(), draws=2)
    data.images.groups, classes = torch.arange(80) // 2 + 7, torch.arange(80) // 20
    order = in_halves(ClassScores(data))
    images = order[::2] // 2
    assert torch.equal(images.sort().values, torch.arange(80)) and torch.equal(order // 2, images.repeat_interleave(2))
    assert torch.equal(*data.images.groups[images].view(40, 2).unbind(1))  # those of one group side by side
    for half in images.split(40):
        assert classes[half].unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("sizes", [(3, 1, 4, 1, 5), (1, 9), (7, 1, 1), (6,)])
@pytest.mark.parametrize("draws", [1, 2])
def test_no_group_is_in_both_halves(sizes, draws, monkeypatch):
    """However large groups are: what a half is searched on are the groups of the other."""
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    data = held(torch.randn(len(group) * draws, 2, 3), torch.zeros(len(group)).long(), draws=draws)
    data.images.groups, scores, seen = group + 3, ClassScores(data), []
    monkeypatch.setattr(scores, "search", lambda rows, k, columns=None: seen.append(rows) or [len(seen)] * k)
    views, _ = scores.searched(in_halves(scores), 2)
    halves = [set(group[rows // draws].tolist()) for rows in seen[:2]]
    for k, rows in enumerate(seen[:2], 1):  # what was searched on these is scored on the others
        others = torch.tensor([row for row in range(scores.n) if row not in rows.tolist()], dtype=torch.long)
        assert (views[others] == k).all()
    if len(sizes) > 1:
        assert all(halves) and not halves[0] & halves[1]
    assert sorted(torch.cat(seen[:2]).tolist()) == list(range(scores.n))


def test_the_views_of_another_image_are_not_those_of_its_neighbour():
    """φ is right about every image, and so about those of the same scene."""
    group = torch.arange(40) // 4
    best = group % 4
    outputs = 9 * (torch.arange(4) == best[:, None]).float()[:, :, None] * torch.tensor([1.0, 0.0])
    outputs = torch.where(outputs.any(-1, keepdim=True), outputs, torch.tensor([0.0, 9.0]))  # class 0 by one view alone
    data = held(outputs, torch.zeros(40).long())
    data.images.groups = group
    log_p = (9 * nn.functional.one_hot(best, 4).float()).log_softmax(-1)
    candidates = ia.LearnedAugment(["turn"]).families[0].candidates()
    found = [arm for arm in rivals(ClassScores(data), log_p, candidates, [], None) if "shuffled" in arm.name]
    assert all(arm.correct.mean() < 0.6 for arm in found)


def test_fixed_views_are_searched_on_other_groups_than_they_are_scored_on():
    losses, group = torch.rand(40, 1, 5), torch.arange(40) // 2
    data = table(losses)
    data.images.groups = group + 100
    best = [losses[group % 2 != half, 0].mean(0).argmin() for half in (0, 1)]
    scored = [losses[group == g, 0, best[g % 2]].mean() for g in range(20)]
    assert np.allclose(nll_on_train(data, [1])[1], torch.stack(scored))


def test_without_a_table_too(monkeypatch):
    val = load((torch.rand(16, 3, 8, 8), torch.arange(16) % 2)).grouped([i // 2 for i in range(16)])
    seen = []
    searched = Scores.searched

    def spy(self, order, *rest):
        seen.append(self.held.images.groups[order])
        return searched(self, order, *rest)

    monkeypatch.setattr(Scores, "searched", spy)
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)).eval()
    report_by_views(Task(ia.LearnedAugment(["rotate"]), classifier), val)
    assert not set(seen[0][:8].tolist()) & set(seen[0][8:].tolist())
