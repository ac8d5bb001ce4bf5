"""What the experiments share: the command line, finished stages, checkpoints, tables."""

import json

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("example")  # the experiments can be imported

OPTIONS = {"epochs": 3, "band": (float, float), "lights": [1, 2], "amp": False, "classes": int, "smoke": {"epochs": 1}}


def parse(tmp_path, *arguments):
    import harness

    given = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), *arguments]
    return harness.parse(given, "about", "folder", **OPTIONS)


def test_options_and_their_defaults(tmp_path):
    options = parse(tmp_path, "--band", "1", "2", "--amp")
    assert (options.epochs, options.band, options.lights, options.amp, options.classes) == (
        3,
        [1, 2],
        [1, 2],
        True,
        None,
    )
    assert parse(tmp_path, "--smoke").epochs == 1


def test_what_is_chosen_among_and_what_needs_data(tmp_path, capsys):
    import harness

    known = {"arms": ["one"], "choices": {"arms": ("one", "two")}, "smoke": {}, "optional": "smoke"}
    assert harness.parse(["--smoke", "--out", str(tmp_path)], "about", "folder of it", **known).arms == ["one"]
    for arguments, message in ((["--arms", "three", "--smoke"], "two"), ([], "folder of it")):
        with pytest.raises(SystemExit):
            harness.parse([*arguments, "--out", str(tmp_path)], "about", "folder of it", **known)
        assert message in capsys.readouterr().err


def test_stages_are_gone_through_once(tmp_path):
    import harness

    made = []
    for arguments in ([], [], ["--resume"]):
        options = parse(tmp_path, *arguments)
        for _ in range(2):  # the second time, and the first time too with --resume, the file is read
            found = harness.stage(options, "one", lambda: made.append(1) or {"n": len(made)})
        assert found["n"] == len(made)
    assert len(made) == 2  # another run, without --resume, begins anew


def test_resuming_with_other_settings_is_refused(tmp_path, capsys):
    parse(tmp_path)
    parse(tmp_path, "--resume", "--seeds", "7")  # other seeds are other stages
    with pytest.raises(SystemExit):
        parse(tmp_path, "--resume", "--epochs", "4")
    assert "other settings" in capsys.readouterr().err


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    import harness

    def train(folder, epochs):
        torch.manual_seed(0)
        model, generator = nn.Linear(3, 1), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

        def loss(batch, epoch):
            return model(torch.randn(4, 3, generator=generator)).square().mean()

        schedule = harness.warmup_cosine(optimizer, 12, 3)
        history = harness.train(loss, lambda epoch: range(3), epochs, [model], [schedule], folder, generator, clip=0.5)
        return model.weight.detach(), history, generator.get_state()

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "part", 2)
    resumed = train(tmp_path / "part", 4)
    assert torch.equal(whole[0], resumed[0]) and torch.equal(whole[2], resumed[2])
    assert [entry["objective"] for entry in whole[1]] == [entry["objective"] for entry in resumed[1]]
    assert resumed[1][-1]["seconds"] > resumed[1][1]["seconds"]


def test_learning_rates_climb_and_follow_a_cosine():
    import harness

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, rates = harness.warmup_cosine(optimizer, 10, 4), []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    cosine = 1 + torch.cos(torch.pi * torch.arange(10) / 10)
    climb = (torch.arange(1, 11) / 4).clamp(max=1)
    assert rates == pytest.approx((climb * cosine).tolist()) and optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_the_seed_table(tmp_path):
    import harness

    runs = [
        {"arm": arm, "seed": seed, "top1": top1, "correct": [right] * 50 + [0] * 50}
        for arm, seed, top1, right in (("plain", 0, 50.0, 0), ("ours", 0, 60.0, 1), ("ours", 1, 70.0, 1))
    ]
    plain, ours = harness.seed_table(runs, ["top1"], "plain")
    assert plain == {"arm": "plain", "seeds": 1, "top1": [50.0, 50.0, 50.0]}
    assert ours["top1"] == [65.0, 60.0, 70.0] and ours["seeds"] == 2
    mean, low, high = ours["over plain"]
    assert mean == 50 and 35 < low < 50 < high < 65  # 100 coins: a standard error of 5 points
    text = harness.show([plain, ours], 1)
    assert "65.0 [60.0, 70.0]" in text and "+50.0 [+" in text


def test_images_of_some_classes(tmp_path, class_folders):
    import harness

    data = class_folders({"train": range(4)}, ["ant", "bee", "cat"], size=20)
    found = harness.read(data / "train", 16, classes=["bee", "cat"], per_class=slice(1, 3))
    assert found.images.shape == (4, 3, 16, 16) and found.images.dtype == torch.uint8
    assert found.targets.tolist() == [0, 0, 1, 1]
    drawn = [harness.read(data / "train", 16, most=5) for _ in range(2)]
    assert len(drawn[0]) == 5 and torch.equal(drawn[0].images, drawn[1].images)
    every = harness.read(data / "train", 16)
    assert torch.equal(every.images[5:7], found.images[:2]) and every.targets.bincount().tolist() == [4, 4, 4]


def test_results_are_one_json(tmp_path):
    import harness

    options = parse(tmp_path, "--seeds", "1", "2")
    runs = harness.sweep(options, ["a, b"], lambda arm, seed: {"top1": 10.0 * seed}, ["top1"])
    written = json.loads((options.out / "results.json").read_text())
    assert written["runs"] == runs and written["summary"][0]["top1"] == [15, 10, 20]
    assert written["settings"]["epochs"] == "3" and (options.out / "stages" / "a-b-2.json").exists()
