"""Training together: planted corners, folders, every rival arm, resumption, the GPU script's smoke run."""

import argparse
import json
import types

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages

pytestmark = pytest.mark.usefixtures("example")  # the experiments can be imported


def results(folder):
    return json.loads((folder / "results.json").read_text())


def options(**changed):
    import joint

    return argparse.Namespace(**joint.OPTIONS | {"band": None} | changed)


def test_joint_training_on_planted_corners(tmp_path):
    import joint_training

    arms = ["random crop", "augerino", "ours"]
    common = ["--planted", "--smoke", "--model", "test_resnet", "--out", str(tmp_path)]
    joint_training.main([*common, "--arms", *arms])
    made = results(tmp_path)
    assert [row["arm"] for row in made["summary"]] == arms and made["settings"]["planted"] == "True"
    mean, low, high = made["summary"][-1]["over random crop"]
    assert low <= mean <= high and made["runs"][-1]["n"] == 597
    assert "entropy_crop" in made["runs"][-1]["history"][-1] and (tmp_path / "augment-ours-0.safetensors").exists()
    assert 0 < made["runs"][-1]["object kept"][0] <= 100
    assert (tmp_path / "learned-ours-0.png").stat().st_size > 5_000


def test_share_of_the_planted_object():
    """A transform that always takes the corner of the digit keeps all of it; with another image's corner, a quarter."""
    from joint_training import object_kept, planted

    from instaaug_transforms.families.crop import Crop

    _, test, boxes = planted(0)
    crop = Crop(scales=(1.0, 0.5), grids=(1, 2))
    aug = ia.LearnedAugment([crop])
    x, y = boxes[:, ::2].mean(1), boxes[:, 1::2].mean(1)
    inside = [((x - cx).abs() < w / 2) & ((y - cy).abs() < w / 2) for cx, cy, w in crop.anchors[1:, :3]]
    right = 1 + torch.stack(inside, 1).int().argmax(1)
    brightness = test.images.float().sum((1, 2, 3))  # tells the images apart, in whatever batches they come

    def distribution(images):
        rows = torch.tensor([int((brightness - 255 * image.sum()).abs().argmin()) for image in images])
        return types.SimpleNamespace(log_prob=lambda params: (params.anchor == right[rows]).float().log())

    aug.distribution = distribution
    found = object_kept(aug, test, boxes)
    assert found["object kept"][0] == pytest.approx(100, abs=1)  # a few images are equally bright
    assert found["more than shuffled"][0] == pytest.approx(75, abs=8)


def test_joint_training_on_a_folder(tmp_path, class_folders):
    import joint_training

    data = class_folders({"train": range(40), "val": range(40)}, ["cat", "cow", "dog"], size=20)
    own = ["--classes", "2", "--per-class", "32", "--image-size", "64", "--model", "test_resnet", "--arms", "none"]
    joint_training.main(["--data", str(data), "--smoke", "--out", str(tmp_path / "out"), *own])
    (run,) = results(tmp_path / "out")["runs"]
    assert run["n"] == 80 and len(run["history"]) == 2


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    import joint

    data = LabelledImages(torch.randint(256, (48, 3, 32, 32), dtype=torch.uint8), torch.arange(48) % 3)

    def run(name, stop_after=3):
        torch.manual_seed(0)
        model = ia.timm.create_classifier("test_resnet", num_classes=3)
        settings = options(epochs=3, batch_size=16, lr=0.01)
        notes = joint.Arm.notes

        def stop(arm, epoch):
            if epoch == stop_after:
                raise KeyboardInterrupt
            return notes(arm, epoch)

        joint.Arm.notes = stop
        try:
            return joint.train("ours", model, data, settings, 0, tmp_path / name)
        finally:
            joint.Arm.notes = notes

    whole, _ = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop_after=1)
    again, history = run("stopped")
    for one, two in zip(whole.modules, again.modules, strict=True):
        for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), name
    assert [entry["epoch"] for entry in history] == [0, 1, 2]


@pytest.mark.parametrize("name", ["without input", "mean-field", "class-specific", "augerino", "fixed weight"])
def test_every_rival_arm_trains(name, monkeypatch):
    import joint

    data = LabelledImages(torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8), torch.arange(8) % 2)
    model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    made, before = ia.LearnedAugment.to, []

    def to(aug, *arguments):
        before.extend(parameter.detach().clone() for parameter in aug.parameters())
        return made(aug, *arguments)

    monkeypatch.setattr(ia.LearnedAugment, "to", to)
    settings = options(epochs=2, batch_size=4, lr=0.01, band=(1.0, 1.5), views=2)
    arm, history = joint.train(name, model, data, settings, 0)
    assert any(not torch.equal(a, b) for a, b in zip(before, arm.aug.parameters(), strict=True))
    assert 0 <= history[1]["steps_in_band"] <= 1 and len(history[0]) == 3  # the first epoch is plain
    if name in ("without input", "class-specific", "fixed weight"):
        assert arm.objective.controller.bands["crop"] == pytest.approx((1.0, 1.5))
    if name == "fixed weight":
        assert arm.objective.weights["crop"] == pytest.approx(0.1)
    right = joint.test(arm, data, 2, 0)
    assert right.shape == (8,) and right.dtype == torch.bool


def test_random_crop_has_the_areas_it_says():
    import joint

    images = torch.linspace(0, 1, 32).expand(400, 1, 32, 32).contiguous()  # brightness is the column
    out = joint.random_crop(0.1, 0.3)(images, torch.Generator().manual_seed(0))
    width = (out[:, 0, 0, -1] - out[:, 0, 0, 0]) * 31 / 32
    assert width.min() > (0.1 * 3 / 4) ** 0.5 - 0.07 and width.max() < (0.3 * 4 / 3) ** 0.5 + 0.02


def test_gpu_script_in_smoke_mode(tmp_path):
    import gpu_tinyimagenet

    arms = ["--arms", "random crop", "ours", "--bands", "3,3.5", "2,2.5"]
    gpu_tinyimagenet.main(["--smoke", "--out", str(tmp_path), *arms])
    assert [row["arm"] for row in results(tmp_path)["summary"]] == ["random crop", "ours 3,3.5", "ours 2,2.5"]
    model = gpu_tinyimagenet.preact_resnet18(200)
    features = model.model.stem(torch.rand(1, 3, 64, 64))
    assert features.shape == (1, 64, 64, 64) and sum(p.numel() for p in model.parameters()) < 12e6
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="no GPU"):
            gpu_tinyimagenet.main(["--data", str(tmp_path), "--out", str(tmp_path)])


@pytest.mark.parametrize("name", ["hub", "from hub", "held-out losses"])
def test_arms_that_start_from_pretrained_weights_or_learn_from_held_out_losses(name):
    import joint

    one_colour = torch.arange(0, 160, 10).view(16, 1, 1, 1).expand(16, 3, 16, 16).to(torch.uint8)  # so is every crop
    data = LabelledImages(one_colour, torch.arange(16) // 2 % 2)
    model = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    seen: list[tuple[torch.nn.Module, set[int]]] = []

    class Watched(torch.nn.Linear):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append((self, set((x[:, 0] * 25.5).round().int().tolist())))
            return super().forward(x)

    model[2] = Watched(48, 2)
    arm, history = joint.train(name, model, data, options(epochs=5, batch_size=8, lr=0.01, views=2), 0)
    hub = ia.LearnedAugment.from_pretrained(joint.HUB).state_dict()
    if name == "hub":
        assert arm.aug is None and "information/crop" not in history[-1]
        assert not torch.equal(arm.predict(data.batch(slice(8))[0], 1, arm.generator), model(data.batch(slice(8))[0]))
        return
    same = [torch.equal(value, hub[key]) for key, value in arm.aug.state_dict().items() if key in hub]
    assert history[-1]["information/crop"] >= -1e-6 and {"signal_1", "signal_4", "signal_all"} <= set(history[-1])
    assert (len(same) > 4 and not all(same)) if name == "from hub" else len(arm.critics) == 2
    if name == "held-out losses":  # neither critic learns from an image of the other's half
        first, second = (set().union(*(rows for owner, rows in seen if owner is critic[2])) for critic in arm.critics)
        assert first == set(range(0, 16, 2)) and second == set(range(1, 16, 2))


def test_jobs_have_every_strength():
    import joint

    jobs = joint.jobs_of(["none", "random crop", "ours", "hub"], [0.35, 0.08], ["1,2", "2,3"])
    assert list(jobs) == ["none", "random crop 0.35", "random crop 0.08", "ours 1,2", "ours 2,3", "hub"]
    assert jobs["random crop 0.08"] == ("random crop", {"area": (0.08, 1.0)})
    assert jobs["ours 2,3"] == ("ours", {"band": (2.0, 3.0)})
    assert list(joint.jobs_of(["random crop", "ours"])) == ["random crop", "ours"]
