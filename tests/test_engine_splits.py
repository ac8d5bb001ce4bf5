"""What is held out of a fit: images by chance, whole groups where there are any, each of which is one witness."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image

import instaaug_transforms as ia
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.cli.held_out import unpack_names
from instaaug_transforms.engine import hold_out, load
from instaaug_transforms.learning.scores import by_group
from instaaug_transforms.utils import weights

from ._scenes import moving_scenes
from .test_cli_data import make
from .test_engine_data import Numbered


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_held_out_is_not_fitted_on(streamed):
    data = Numbered(50) if streamed else (torch.zeros(50, 3, 4, 4), torch.arange(50))
    fitted, held = (set(part.targets.tolist()) for part in hold_out(load(data), 3, 0.1))
    assert len(held) == 5 and not fitted & held and fitted | held == set(range(50))
    again, other = (set(hold_out(load(data), seed, 0.1)[1].targets.tolist()) for seed in (3, 4))
    assert again == held != other


@pytest.mark.parametrize(("n", "held"), [(2, 1), (60, 30), (200, 100), (900, 100), (1000, 100), (3000, 300)])
def test_enough_is_held_out_by_default(n, held):
    assert len(hold_out(load((torch.zeros(n, 1, 4, 4), torch.arange(n))), 0)[1]) == held


def test_one_image_cannot_be_held_out():
    with pytest.raises(ia.InstaAugError, match="at least two images, got 1"):
        hold_out(load((torch.rand(1, 3, 4, 4), torch.zeros(1))), 0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_whole_groups_are_held_out(streamed, kind):
    data = Numbered(60) if streamed else (torch.zeros(60, 3, 4, 4), torch.arange(60))
    names = kind([i // 7 * 11 for i in range(60)])  # eight of seven, one of four
    held_out = set()
    for seed in range(20):
        fitted, held = hold_out(load(data).grouped(names), seed, 0.2)
        groups = [{int(i) // 7 for i in part.targets} for part in (fitted, held)]
        assert not groups[0] & groups[1] and groups[0] | groups[1] == set(range(9))
        assert len(fitted) + len(held) == 60 and 12 <= len(held) <= 18  # whole groups, so somewhat more
        assert torch.equal(held.groups, held.targets // 7)
        held_out |= groups[1]
    assert held_out == set(range(9))


@pytest.mark.parametrize(("groups", "held"), [(20, 10), (150, 75), (300, 100), (2000, 200)])
def test_as_many_groups_are_held_out_as_of_images_that_are_none(groups, held):
    """Each is one witness: of 300 scenes 100, not the 25 that 100 images with four frames of each are."""
    data = load((torch.zeros(4 * groups, 1, 1, 1), torch.arange(4 * groups))).grouped(torch.arange(4 * groups) // 4)
    chosen = hold_out(data, 0)[1]
    assert len(chosen.groups.unique()) == held and len(chosen) == 4 * held
    assert len(hold_out(data, 0, 0.5)[1]) == 2 * groups


def test_two_groups_are_one_and_one():
    data = load((torch.zeros(50, 3, 4, 4), torch.arange(50))).grouped(["a"] * 45 + ["b"] * 5)
    for seed in range(6):
        fitted, held = hold_out(data, seed)
        assert {len(fitted), len(held)} == {45, 5}


@pytest.mark.parametrize(
    ("groups", "message"),
    [([1, 2, 3], "a name per image, 20, got 3"), ([4] * 20, "all images are of one; or give val_data")],
)
def test_groups_that_are_none(groups, message):
    images = torch.rand(20, 3, 8, 8)
    with pytest.raises(ia.InstaAugError, match=message):
        ia.fit(ia.LearnedAugment(["turn"]), nn.Flatten(), images, nuisance=["turn"], groups=groups)
    with pytest.raises(ia.InstaAugError, match="with val_data leave them out"):
        ia.fit(ia.LearnedAugment(["turn"]), nn.Flatten(), images, images, nuisance=["turn"], groups=[1] * 20)


def test_means_by_group_leave_out_what_is_not_known():
    values = np.array([1.0, np.nan, 3.0, np.nan, 5.0])
    found = by_group(values, torch.tensor([7, 7, 2, 9, 2]))
    assert np.array_equal(found, [4.0, 1.0, np.nan], equal_nan=True)
    assert by_group(values, None) is values


class Dark(nn.Module):
    def forward(self, images):
        level = images.mean((1, 2, 3))
        return 20 * torch.stack([0.5 - level, level - 0.5], 1)


def test_a_group_counts_as_one_image_of_the_report():
    """Thirty scenes of ten frames, each in both nuisance and report as often as a photograph of which there is one."""
    torch.manual_seed(0)
    scenes = torch.rand(30, 3, 8, 8).repeat_interleave(10, 0)
    groups = [f"scene {i // 10}" for i in range(300)]
    config = ia.FitConfig(max_steps=5, progress=False)
    result = ia.fit(ia.LearnedAugment(["turn"]), Dark(), scenes, nuisance=["turn"], config=config, groups=groups)
    assert result.report.n_images == 15 and "15 held-out images tell" not in str(result.report)
    assert all(len(arm.nll) == len(arm.correct) == 15 for arm in result.report.arms)
    report = ia.recommend(ia.LearnedAugment(["turn"]), Dark(), scenes, config, nuisance=["turn"], groups=groups)
    assert report.n_images == 30


def test_groups_on_the_command_line(tmp_path, capsys):
    make(tmp_path / "train", *(f"{'ab'[k % 2]}/video{k}_{i}.png" for k in range(8) for i in range(4)))
    out = tmp_path / "w.safetensors"
    arguments = ["fit", "--model", "tests.test_cli_fit:brightness", "--data", str(tmp_path), "--img-size", "32"]
    arguments += ["--workers", "0", "--transforms", "turn", "--nuisance", "turn", "--epochs", "1", "--out", str(out)]
    assert main([*arguments, "--groups", "video(\\d+)_"]) == 0
    names = weights.read(out)[0]["notes"]["held_out"]
    held = unpack_names(names)
    videos = [name.split("video")[1].split("_")[0] for name in held]
    assert len(held) == 16 and all(videos.count(video) == 4 for video in set(videos))
    assert "4 held-out images" in capsys.readouterr().out
    for pattern, message in (("clip", "'clip' matches nothing in"), ("(", "is no regular expression")):
        assert main([*arguments, "--groups", pattern]) == 2
        assert message in capsys.readouterr().err


def test_frames_of_one_scene_are_held_out_together_on_the_command_line_too(tmp_path, caplog, capsys):
    """Sixty scenes of four frames each; nothing says which belong together."""
    for scene, frames in enumerate(moving_scenes(60, 4)):
        for i, frame in enumerate(frames):
            folder = tmp_path / "train" / "ab"[scene % 2]
            folder.mkdir(parents=True, exist_ok=True)
            to_pil_image(frame).save(folder / f"{scene}_{i}.png")
    out = tmp_path / "w.safetensors"
    arguments = ["fit", "--model", "tests.test_cli_fit:brightness", "--data", str(tmp_path), "--img-size", "32"]
    arguments += ["--workers", "0", "--transforms", "turn", "--nuisance", "turn", "--epochs", "1", "--out", str(out)]
    assert main([*arguments, "--crop-pct", "1"]) == 0
    assert "30 held-out images" in capsys.readouterr().out and "in 60 groups" in caplog.text
    scenes = [name.split("/")[1].split("_")[0] for name in unpack_names(weights.read(out)[0]["notes"]["held_out"])]
    assert len(scenes) == 120 and all(scenes.count(scene) == 4 for scene in scenes)
