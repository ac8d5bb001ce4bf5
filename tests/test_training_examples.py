"""The training examples in smoke mode, their resumption, and what they measure with."""

import json
import math
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torchvision.transforms.v2 import functional as TF

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def results(folder):
    assert next(folder.glob("*.png")).stat().st_size > 5_000
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def sprites(tmp_path):
    """Two faces that know up from down."""
    arrays = {name: np.random.default_rng(k).random((1, 3, 32, 32)) for k, name in enumerate(("mario", "iggy"))}
    np.savez(tmp_path / "sprites.npz", **arrays)
    return tmp_path / "sprites.npz"


def test_mario_iggy(sprites, tmp_path, capsys):
    import mario_iggy

    arms = ["--arms", "ours", "one symmetric range", "three modes"]
    mario_iggy.main(["--data", str(sprites), "--out", str(tmp_path / "out"), "--smoke", *arms])
    made = results(tmp_path / "out")
    assert [row["arm"] for row in made["summary"]] == arms[1:]
    assert all(0 <= run["spill"] <= 1 and 0 < run["coverage"] < 0.1 for run in made["runs"])
    assert "coverage" in capsys.readouterr().out


def test_coverage_and_spill_in_closed_form():
    from _sprites import coverage_and_spill

    def measure(lo, hi, tilt, modes=1):
        coverage, spill = coverage_and_spill(torch.tensor([lo]), torch.tensor([hi]), torch.tensor([tilt]), modes)
        return coverage.item(), spill.item()

    assert measure(-90.0, 90.0, 0.0) == pytest.approx((1.0, 0.0))
    assert measure(-120.0, 60.0, 30.0) == pytest.approx((1.0, 0.0))
    assert measure(-45.0, 45.0, 45.0) == pytest.approx((0.5, 0.0))  # the most that a symmetric range has without spill
    assert measure(-180.0, 180.0, 20.0) == pytest.approx((1.0, 0.5))
    assert measure(0.0, 180.0, 0.0) == pytest.approx((0.5, 0.5))
    assert measure(-30.0, 30.0, 0.0, 3) == pytest.approx((1 / 3, 0.0))
    assert measure(-180.0, 180.0, 10.0, 3) == pytest.approx((1.0, 0.5))
    assert measure(90.0, 150.0, 0.0, 3) == pytest.approx((1 / 3, 0.0))


def test_tilts_classes_and_mask_of_the_sprites():
    import _sprites

    sprites = torch.zeros(2, 3, 32, 32)
    sprites[:, :, 4:8, 14:18] = 1.0  # a lamp at the top
    sprites[1] *= 0.5
    images, labels, tilt = _sprites.draw(sprites, 200, 1, torch.Generator().manual_seed(0))
    assert (images[:, :, 0, 0] == 0).all() and tilt.abs().max() <= 45
    brightest = images.amax((1, 2, 3))
    assert torch.equal(brightest < 0.75, labels >= 2)
    top = images[:, :, :16].sum((1, 2, 3)) > images[:, :, 16:].sum((1, 2, 3))
    assert torch.equal(top, labels % 2 == 0)
    counter_clockwise = images[..., :16].sum((1, 2, 3)) > images[..., 16:].sum((1, 2, 3))
    sure = (tilt.abs() > 10) & (labels % 2 == 0)
    assert torch.equal(counter_clockwise[sure], tilt[sure] > 0)


def test_joint_training_on_planted_corners(tmp_path):
    import joint_training

    joint_training.main(
        [
            "--planted",
            "--smoke",
            "--model",
            "test_resnet",
            "--out",
            str(tmp_path),
            "--arms",
            "random crop",
            "augerino",
            "ours",
        ]
    )
    made = results(tmp_path)
    ours = made["summary"][-1]
    assert ours["arm"] == "ours" and ours["interval"][0] <= ours["difference"] <= ours["interval"][1]
    assert "entropy_crop" in made["runs"][-1]["history"][-1] and (tmp_path / "augment.safetensors").exists()
    assert 0 < made["runs"][-1]["object kept"][0] <= 100


def test_share_of_the_planted_object():
    """A transform that always takes the corner of the digit keeps all of it; with another image's corner, a quarter."""
    from _planted import object_kept, planted

    from instaaug_transforms.families.crop import Crop

    _, test, boxes = planted(0)
    crop = Crop(scales=(1.0, 0.5), grids=(1, 2))
    aug = ia.LearnedAugment([crop])
    x, y = boxes[:, ::2].mean(1), boxes[:, 1::2].mean(1)
    inside = [((x - cx).abs() < w / 2) & ((y - cy).abs() < w / 2) for cx, cy, w in crop.anchors[1:, :3]]
    right = 1 + torch.stack(inside, 1).int().argmax(1)
    brightness = test.images.float().sum((1, 2, 3))  # tells the images apart, in whatever batches they come

    def distribution(images):
        rows = [int((brightness - 255 * image.sum()).abs().argmin()) for image in images]
        probs = torch.nn.functional.one_hot(right[rows], crop.n_candidates).float()
        part = types.SimpleNamespace(anchors=types.SimpleNamespace(probs=probs))
        return types.SimpleNamespace(parts={"crop": part})

    aug.distribution = distribution
    found = object_kept(aug, test, boxes)
    assert found["object kept"][0] == pytest.approx(100, abs=1)  # a few images are equally bright
    assert found["more than shuffled"][0] == pytest.approx(75, abs=8)


def test_joint_training_on_a_folder(tmp_path):
    import joint_training

    for split in ("train", "val"):
        for label in ("cat", "cow", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for k in range(40):
                TF.to_pil_image(torch.rand(3, 20, 24)).save(tmp_path / split / label / f"{k}.png")
    options = ["--classes", "2", "--per-class", "32", "--image-size", "64", "--model", "test_resnet", "--arms", "none"]
    joint_training.main(["--data", str(tmp_path), "--smoke", "--out", str(tmp_path / "out"), *options])
    (run,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert run["n"] == 80 and len(run["history"]) == 2


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    import _joint

    data = LabelledImages(torch.randint(256, (48, 3, 32, 32), dtype=torch.uint8), torch.arange(48) % 3)
    settings = _joint.Settings(epochs=3, batch_size=16, lr=0.01, table="paper_224px", save_seconds=0.0)

    def run(name):
        torch.manual_seed(0)
        model = ia.timm.wrap(timm.create_model("test_resnet", num_classes=3))
        return _joint.Run("ours", model, data, settings, 0, tmp_path / f"{name}.safetensors")

    whole = run("whole")
    whole.train(resume=False)

    def stop(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_joint.Run, "end_epoch", stop)
        run("stopped").train(resume=False)
    again = run("stopped")
    again.train(resume=True)
    for one, two in ((whole.model, again.model), (whole.objective, again.objective)):
        for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), name
    assert [entry["epoch"] for entry in again.history] == [0, 1, 2]


@pytest.mark.parametrize("arm", ["without input", "mean-field", "class-specific", "augerino", "fixed weight"])
def test_every_rival_arm_trains(arm, tmp_path):
    import _joint

    data = LabelledImages(torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8), torch.arange(8) % 2)
    settings = _joint.Settings(epochs=2, batch_size=4, lr=0.01, band=(1.0, 1.5), table="paper_224px", views=2)
    model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    run = _joint.Run(arm, model, data, settings, 0, tmp_path / "a.safetensors")
    before = [p.detach().clone() for p in run.aug.parameters()]
    run.train(resume=False)
    assert any(not torch.equal(a, b) for a, b in zip(before, run.aug.parameters(), strict=True))
    if arm in ("without input", "class-specific", "fixed weight"):
        assert run.objective.controller.bands["crop"] == pytest.approx((1.0, 1.5))
    if arm == "fixed weight":
        assert run.objective.weights["crop"] == pytest.approx(0.1)
    assert run.result(data)["top1"] in (0.0, 12.5, 25.0, 37.5, 50.0, 62.5, 75.0, 87.5, 100.0)


def test_random_crop_has_the_areas_it_says():
    import _joint

    images = torch.zeros(400, 1, 32, 32)
    images[:, :, :, :] = torch.linspace(0, 1, 32)  # brightness is the column
    crop = _joint.RandomCrop((0.1, 0.3))
    crop.aug = ia.LearnedAugment(["crop"], in_channels=1)
    out = crop(images, torch.Generator().manual_seed(0))
    width = (out[:, 0, 0, -1] - out[:, 0, 0, 0]) * 31 / 32
    assert width.min() > (0.1 * 3 / 4) ** 0.5 - 0.07 and width.max() < (0.3 * 4 / 3) ** 0.5 + 0.02


def test_gpu_script_in_smoke_mode(tmp_path):
    import gpu_tinyimagenet

    gpu_tinyimagenet.main(
        ["--smoke", "--out", str(tmp_path), "--arms", "random crop", "ours", "--bands", "3,3.5", "2,2.5"]
    )
    assert [row["arm"] for row in results(tmp_path)["summary"]] == ["random crop", "ours 3,3.5", "ours 2,2.5"]
    model = gpu_tinyimagenet.preact_resnet18(200, smoke=False)
    features = model.model.stem(torch.rand(1, 3, 64, 64))
    assert features.shape == (1, 64, 64, 64) and sum(p.numel() for p in model.parameters()) < 12e6
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu_tinyimagenet.main(["--data", str(tmp_path), "--out", str(tmp_path)])


def test_colour_lights(tmp_path):
    import colour_lights

    colour_lights.main(["--smoke", "--out", str(tmp_path)])
    made = results(tmp_path)
    assert [run["lights"] for run in made] == [1, 2] and made[0]["simulated"]
    assert set(made[0]["arms"]) == {"none", "global hsv", "hsv, without input", "ours, hsv", "ours, local field"}
    colour_lights.main(["--smoke", "--out", str(tmp_path), "--resume"])
    assert results(tmp_path) == made


def test_the_linear_probe_is_trained_to_the_end():
    """With 100 classes the first gradient is small already: a loose tolerance stops where nothing has been learned."""
    import simclr
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rng = np.random.default_rng(0)
    y = rng.integers(100, size=3000)
    x = 0.3 * rng.normal(size=(100, 16))[y] + 3 * rng.normal(size=(3000, 1)) + 0.25 * rng.normal(size=(3000, 16))
    halves = (x[:2000], y[:2000]), (x[2000:], y[2000:])
    held, right = simclr.probes(*halves)["linear"]
    best = LinearDiscriminantAnalysis().fit(*halves[0]).score(*halves[1])  # the truth's own family
    assert best > 0.8 and right.mean() > best - 0.05 and held > best - 0.1


def test_the_widest_range_that_held_out_images_allow():
    import _lights_arms

    noise = np.random.default_rng(0).normal(size=400)  # standard error 0.05
    at = [1.0 + noise, 1.02 + noise, 1.2 + noise]
    assert _lights_arms.widest_within_one_error(at) == 1
    assert _lights_arms.widest_within_one_error(at[::-1]) == 2
    assert _lights_arms.widest_within_one_error(at[2:]) == 0


def test_lights_are_physical():
    import _lights

    warm, cold = _lights.planckian(2700), _lights.planckian(9500)
    assert _lights.planckian(6500.0) == pytest.approx((1, 1, 1))
    assert warm[0] > 1 > warm[2] and cold[0] < 1 < cold[2]
    # Wien's approximation, exact to a few per mille at these wavelengths and temperatures.
    wien = math.exp(1.438777e-2 * (1 / 610e-9 - 1 / 550e-9) * (1 / 6500 - 1 / 2700))
    assert warm[0] == pytest.approx(wien, rel=0.03)
    lights = _lights.all_lights()
    assert lights[0].name == "neutral" and len({light.name for light in lights}) == len(lights) == 23
    grey = torch.full((1, 3, 4, 8), 0.5)
    assert torch.allclose(_lights.shine(grey, lights[0]), grey, atol=1e-5)
    half = next(light for light in lights if light.name == "intensity 0.5")
    linear = ((0.5 + 0.055) / 1.055) ** 2.4 / 2
    assert _lights.shine(grey, half)[0, 0, 0, 0].item() == pytest.approx(1.055 * linear ** (1 / 2.4) - 0.055, abs=1e-4)
    gradient = _lights.shine(grey, next(light for light in lights if light.name == "gradient dark to bright"))
    assert (gradient[0, 0, 0].diff() > 0).all()


def test_simclr(tmp_path):
    import simclr

    simclr.main(["--smoke", "--out", str(tmp_path)])
    made = results(tmp_path)
    assert [row["arm"] for row in made["summary"]] == ["random crop", "without input", "ours"]
    assert all(len(run["history"]) == 1 and run["n"] == 32 for run in made["runs"])
    simclr.main(["--smoke", "--out", str(tmp_path), "--resume"])  # nothing is left to pretrain
    assert [run["history"] for run in results(tmp_path)["runs"]] == [run["history"] for run in made["runs"]]


@pytest.mark.slow
def test_timm_pipeline(tmp_path):
    # In a process of its own: timm 1.0 leaves image files for the garbage collector to close, which warns.
    command = [sys.executable, str(EXAMPLES / "timm_pipeline.py"), "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path)["history"]) == 1


def test_lightning_module(tmp_path):
    pytest.importorskip("lightning", reason="lightning is not installed")
    import lightning_module

    lightning_module.main(["--smoke", "--out", str(tmp_path)])
    assert results(tmp_path)["entropy"]


def test_lightning_module_says_what_is_missing(tmp_path, monkeypatch):
    import lightning_module

    monkeypatch.setattr(lightning_module, "lightning", None)
    with pytest.raises(SystemExit, match="pip install lightning"):
        lightning_module.main(["--smoke", "--out", str(tmp_path)])
    assert len((EXAMPLES / "lightning_module.py").read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize(
    "name", ["mario_iggy", "joint_training", "colour_lights", "simclr", "timm_pipeline", "gpu_tinyimagenet"]
)
def test_help_names_the_common_options(name, capsys):
    module = __import__(name)
    with pytest.raises(SystemExit):
        module.main(["--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--data", "--out", "--seeds", "--resume", "--smoke"))


def test_segmentation_by_learned_views(tmp_path, capsys):
    import segmentation_tta

    segmentation_tta.main(["--smoke", "--out", str(tmp_path), "--views", "2"])
    (made,) = results(tmp_path)
    assert [row["arm"] for row in made["rows"]] == ["single view", "horizontal flip", "ours", "without input"]
    assert made["n"] == 597 and all(0 <= row["iou"] <= 1 for row in made["rows"])
    assert "mean IoU of the ink" in capsys.readouterr().out


def test_soft_labels_and_ink_accuracy_in_closed_form():
    import segmentation_tta as example

    labels = torch.full((2, 8, 8), example.BACKGROUND)
    labels[0, :4], labels[1, :, :4] = 3, 7
    turn = ia.AugmentParams(angle=torch.tensor([180.0, 90.0]))
    moved = example.soft_labels(labels, turn, ia.families.create(["rotate"]))
    assert torch.allclose(moved.sum(1), torch.ones(2, 8, 8), atol=1e-5)
    expected = torch.stack([labels[0].rot90(2), labels[1].rot90(1)])
    assert torch.equal(moved.argmax(1)[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1])

    class Says(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(labels, 11).movedim(-1, 1).float()

    truth = labels.clone()
    truth[0, 2:4] = example.BACKGROUND  # half of what is said is ink, all of the ink is hit
    assert example.ink_accuracy(Says(), torch.zeros(2, 1, 8, 8), truth).tolist() == [0.5, 1.0]
