"""Images that look nearly alike: found again where it is known which were made of one scene."""

import logging

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import instaaug_transforms as ia
from instaaug_transforms.engine import alike
from instaaug_transforms.engine.alike import count_alike, grouped_if_alike
from instaaug_transforms.engine.data import load

from ._scenes import moving_scenes

MODEL = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 3)).eval()
CONFIG = ia.FitConfig(max_steps=1, progress=False)


@pytest.mark.parametrize("streamed", [False, True])
def test_frames_of_one_scene_are_a_group(streamed, caplog):
    order = torch.randperm(480, generator=torch.Generator().manual_seed(3))
    frames = moving_scenes(60, 8).flatten(0, 1)[order]
    data = TensorDataset(frames, torch.arange(480) % 3) if streamed else frames
    groups = grouped_if_alike(load(data)).groups
    scene = order // 8
    assert torch.equal(groups[:, None] == groups, scene[:, None] == scene)
    assert "60 groups" in caplog.text


def test_images_of_their_own_have_none(caplog):
    images = load(moving_scenes(400, 1)[:, 0])
    assert grouped_if_alike(images) is images and count_alike(images, images.subset(slice(0, 0))) == (0, 200)
    digits = load(
        torch.tensor(load_digits().images[:, None] / 16).float()
    )  # eight pixels a side: as near as images come
    assert grouped_if_alike(digits) is digits and not caplog.records


def test_a_chain_of_which_each_is_like_the_next_is_left_as_it_is(caplog):
    steps = torch.linspace(0, 1, 300)[:, None, None, None].expand(-1, 3, 8, 8)
    images = load(steps.contiguous())
    assert grouped_if_alike(images) is images and not caplog.records


def test_drawings_of_a_few_kinds_are_left_as_they_are(caplog):
    """Ten pictures and noise: whole groups would be whole classes, of which φ would never see those that are held out."""
    kinds = moving_scenes(10, 1)[:, 0].repeat(30, 1, 1, 1)
    images = load((kinds + 0.05 * torch.randn(kinds.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1))
    assert grouped_if_alike(images) is images and not caplog.records


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images(n, streamed):
    given = torch.rand(n, 3, 8, 8)
    images = load(TensorDataset(given) if streamed else given)
    assert grouped_if_alike(images) is images


def test_a_fit_holds_whole_scenes_out_and_counts_each_once(caplog):
    frames = moving_scenes(60, 8).flatten(0, 1)
    with caplog.at_level(logging.WARNING):
        result = ia.fit(ia.LearnedAugment(["turn"]), MODEL, frames, nuisance=["turn"], config=CONFIG)
    assert "held out together" in caplog.text and "look nearly like one" not in caplog.text
    assert result.report.n_images == 30  # of sixty scenes half, as of sixty images
    alone = ia.fit(
        ia.LearnedAugment(["turn"]), MODEL, frames, nuisance=["turn"], config=CONFIG, groups=np.arange(480) // 8
    )
    assert alone.report.n_images == 30
    assert ia.recommend(ia.LearnedAugment(["turn"]), MODEL, frames, CONFIG, nuisance=["turn"]).n_images == 60


def test_frames_that_are_given_to_choose_on_count_once_too(caplog):
    """Sixty scenes of eight frames, as ``val_data``; of 120 scenes one each."""
    train = moving_scenes(60, 1, seed=1)[:, 0]
    for n, frames in ((60, 8), (120, 1)):
        held = moving_scenes(n, frames).flatten(0, 1)
        caplog.clear()
        result = ia.fit(ia.LearnedAugment(["turn"]), MODEL, train, held, nuisance=["turn"], config=CONFIG)
        assert result.report.n_images == n
        assert ("images that look alike count as one, in 60 groups" in caplog.text) == (frames > 1)


def test_memory_is_that_of_parts(monkeypatch):
    """Distances are never all there at once."""
    largest = []
    cdist = torch.cdist
    monkeypatch.setattr(alike.torch, "cdist", lambda a, b: largest.append(len(a) * len(b)) or cdist(a, b))
    grouped_if_alike(load(moving_scenes(300, 4).flatten(0, 1)))
    assert max(largest) <= 256 * 1200
