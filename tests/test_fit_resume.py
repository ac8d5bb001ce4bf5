"""Interrupted fits go on to the same bits; several processes give what one gives."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.learning.fitting import Fitting
from instaaug_transforms.utils import weights

from .test_fit import Planted, corner_images

BAND = {"crop": (0.52, 0.61)}
FAMILIES = {"crop": ["crop"], "crop and rotate": ["crop", "rotate"]}


def config(**changes):
    return ia.FitConfig(
        **{
            "epochs": 4,
            "batch_size": 8,
            "table_batch_size": 8,
            "seed": 3,
            "progress": False,
            "patience": 9,
            "entropy": BAND,
            "held_out": 0.1,
            **changes,
        }
    )


def fitted(families, **kwargs):
    torch.manual_seed(0)
    aug = ia.LearnedAugment(families)
    images, labels, _ = corner_images(40)
    changes = {name: kwargs.pop(name) for name in ("checkpoint_seconds",) if name in kwargs}
    return aug, ia.fit(aug, kwargs.pop("model", Planted()), (images, labels), config=config(**changes), **kwargs)


class Counting(Planted):
    """Counts its forwards; the one after ``fuse`` of them is interrupted, as by Ctrl-C."""

    def __init__(self, fuse=10**9):
        super().__init__()
        self.fuse = [fuse]  # a number would be a setting

    def forward(self, x):
        if self.calls == self.fuse[0]:
            raise KeyboardInterrupt
        return super().forward(x)


def equal(first, second):
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("families", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("done", [5, 7])  # of five steps an epoch: between two epochs, and in the middle of one
def test_an_interrupted_fit_resumes_to_the_same_bits(tmp_path, monkeypatch, families, done):
    expected, whole = fitted(families)
    steps, real = [], Fitting._step

    def step(self, index):
        if len(steps) == done:
            raise KeyboardInterrupt
        steps.append(1)
        real(self, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Fitting, "_step", step)
        fitted(families, workdir=tmp_path, checkpoint_seconds=1e-9)
    later = []
    # Fits for evidence alone, which take less time than the table and come last, keep no state.
    monkeypatch.setattr(
        Fitting, "_step", lambda self, index: later.extend([1] * bool(self.folder)) or real(self, index)
    )
    aug, result = fitted(families, workdir=tmp_path, resume=True)
    assert len(later) == 4 * 5 - done  # what was done is not done again
    assert equal(expected, aug)
    for key in ("loss", "val_loss", "entropy", "weight"):
        assert [h[key] for h in whole.history] == [h[key] for h in result.history]


def test_an_interrupted_table_goes_on_where_it_was(tmp_path):
    whole, model = Counting(), Counting()
    expected, _ = fitted(["crop"], workdir=tmp_path / "whole", model=whole)
    with pytest.raises(KeyboardInterrupt):
        fitted(["crop"], workdir=tmp_path / "work", model=Counting(fuse=107))
    aug, _ = fitted(["crop"], workdir=tmp_path / "work", resume=True, model=model)
    # A few images tell whether answers and labels go together, and one what may be in the folder already. Then five chunks of 8 images, plain and
    # under 30 candidates and 15 zooms and mirror images, the first of which was done; four held-out images likewise; and zooms
    # and mirror images of what φ put right, as many as it has to.
    counted = 1 + (1 + 5 + 2) * (1 + 30 + 15)
    assert counted < whole.calls <= counted + 2 * 16
    assert model.calls == whole.calls - 46 and equal(expected, aug)


def test_another_loss_is_another_table(tmp_path):
    images, labels, _ = corner_images(40)
    aug = ia.LearnedAugment(["crop"])
    smooth = torch.nn.CrossEntropyLoss(label_smoothing=0.9, reduction="none")
    plain = torch.nn.CrossEntropyLoss(reduction="none")
    ia.fit(aug, Planted(), (images, labels), config=config(), loss=plain, workdir=tmp_path)
    with pytest.raises(ia.InstaAugError, match="computed with another loss"):
        ia.fit(aug, Planted(), (images, labels), config=config(), loss=smooth, workdir=tmp_path)


def edited(self, x):
    return torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)


@pytest.mark.parametrize(("families", "what"), [(["crop"], "computed"), (["rotate"], "the state of a fit|computed")])
def test_a_classifier_whose_code_was_edited_is_another(tmp_path, monkeypatch, families, what):
    """No weights tell: the losses of views were those of the code that is no more."""
    images, labels, _ = corner_images(20)
    settings = config(epochs=1, entropy={})
    for expected in (None, None, f"({what}) with another code of the classifier"):
        if expected:
            monkeypatch.setattr(Planted, "forward", edited)
        with pytest.raises(ia.InstaAugError, match=expected) if expected else contextlib.nullcontext():
            ia.fit(
                ia.LearnedAugment(families), Planted(), (images, labels), config=settings, workdir=tmp_path, resume=True
            )


def test_a_finished_fit_gives_its_weights_again(tmp_path):
    first, _ = fitted(["crop"], workdir=tmp_path)
    again, result = fitted(["crop"], workdir=tmp_path, resume=True, model=Planted())
    assert len(result.history) == 4
    assert equal(first, again)


def test_the_state_of_another_fit_is_refused(tmp_path):
    fitted(["crop"], workdir=tmp_path)
    torch.manual_seed(0)
    aug, (images, labels, _) = ia.LearnedAugment(["crop"]), corner_images(40)
    before = {n: t.clone() for n, t in aug.state_dict().items()}
    with pytest.raises(ia.InstaAugError, match="state of a fit with another lr"):
        ia.fit(aug, Planted(), (images, labels), config=config(lr=0.1), workdir=tmp_path, resume=True)
    assert all(torch.equal(t, before[n]) for n, t in aug.state_dict().items())
    with pytest.raises(ia.InstaAugError, match="computed with another images"):
        ia.fit(aug, Planted(), (images.flip(0) * 0.5, labels), config=config(), workdir=tmp_path)
    with pytest.raises(ia.InstaAugError, match="resume: give the workdir"):
        ia.fit(aug, Planted(), (images, labels), resume=True)


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
import instaaug_transforms as ia
from tests.test_fit import Planted, corner_images
torch.set_num_threads(1)
images, labels, _ = corner_images(40)
torch.manual_seed(0)
aug = ia.LearnedAugment({families!r})
if "RANK" in __import__("os").environ:
    torch.distributed.init_process_group("gloo")
result = ia.fit(aug, Planted(), (images, labels), config=ia.FitConfig(
    epochs={epochs}, batch_size=8, views=2, table_batch_size=5, seed=3, progress=False, checkpoint_seconds=0.01),
    workdir={workdir}, resume={resume})
table = ia.build_loss_table(Planted(), (images, labels), aug, batch_size=7)
if int(__import__("os").environ.get("RANK", 0)) == 0:
    aug.save({out!r}, table=table.tolist())
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def run_script(tmp_path, out, processes=1, wait=True, **values):
    root = str(Path(__file__).parent.parent)
    values = {"families": ["crop", "rotate"], "epochs": 2, "workdir": None, "resume": False, **values}
    script = tmp_path / f"{out}.py"
    script.write_text(SCRIPT.format(tests=root, out=str(tmp_path / out), **values))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *launch, str(script)], env=environment, stderr=subprocess.PIPE)
    if wait:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    return process


@pytest.mark.slow
def test_two_processes_give_the_table_and_the_weights_of_one(tmp_path):
    for processes, out in ((1, "one.safetensors"), (2, "two.safetensors")):
        run_script(tmp_path, out, processes)
    (about1, one), (about2, two) = (weights.read(tmp_path / f"{n}.safetensors") for n in ("one", "two"))
    table1, table2 = (torch.tensor(about["notes"]["table"]) for about in (about1, about2))
    assert table1.abs().sum() > 0 and (table1 - table2).abs().max() <= 1e-6
    assert all((one[name] - two[name]).abs().max() <= 1e-6 for name in one)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    """kill -9: no handler runs."""
    run_script(tmp_path, "whole.safetensors", epochs=6)
    work = tmp_path / "work"
    process = run_script(tmp_path, "killed.safetensors", wait=False, epochs=6, workdir=repr(str(work)))
    deadline = time.time() + 120
    while not any(work.glob("fit-state-*.safetensors")) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed.safetensors").exists()
    run_script(tmp_path, "resumed.safetensors", epochs=6, workdir=repr(str(work)), resume=True)
    whole, resumed = (weights.read(tmp_path / f"{n}.safetensors")[1] for n in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_another_output_size_is_another_table(tmp_path):
    images, labels, _ = corner_images(20)
    fit_to = {"config": config(), "workdir": tmp_path}
    ia.fit(ia.LearnedAugment(["crop"]), Planted(), (images, labels), **fit_to)
    with pytest.raises(ia.InstaAugError, match="computed with another output_size"):
        ia.fit(ia.LearnedAugment(["crop"], output_size=16), Planted(), (images, labels), **fit_to)


@pytest.mark.parametrize("families", FAMILIES.values(), ids=FAMILIES)
def test_another_interpolation_is_another_table(tmp_path, families):
    images, labels, _ = corner_images(20)
    for how, expected in (("bilinear", None), ("bicubic", "computed with another interpolation")):
        aug = ia.LearnedAugment(families, interpolation=how)
        with pytest.raises(ia.InstaAugError, match=expected) if expected else contextlib.nullcontext():
            ia.fit(aug, Planted(), (images, labels), config=config(epochs=1), workdir=tmp_path)


def test_the_order_of_families_in_a_checkpoint_changes_no_bit():
    """JSON has them sorted; in floating point 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1."""
    fitting, names = object.__new__(Fitting), ("crop", "turn", "light")
    fitting.controller = ia.EntropyController(ia.LearnedAugment(names).families, ia.EntropyConfig(initial_weight=1.0))
    entropies = dict(zip(names, (0.1, 0.2, 0.3), strict=True))
    orders = [entropies, dict(sorted(entropies.items())), dict(reversed(entropies.items()))]
    ranks = {fitting._rank({"val_loss": 0.0, "in_band": True, "val_entropy": order}) for order in orders}
    assert len(ranks) == 1


def test_ranges_are_not_resumed_under_another_loss(tmp_path):
    """They have no table that would tell."""
    images, labels, _ = corner_images(20)
    for smoothing, expected in ((0.0, None), (0.9, "state of a fit with another loss")):
        loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
        aug, settings = ia.LearnedAugment(["rotate"]), config(epochs=1, entropy={})
        with pytest.raises(ia.InstaAugError, match=expected) if expected else contextlib.nullcontext():
            ia.fit(aug, Planted(), (images, labels), config=settings, loss=loss, workdir=tmp_path, resume=True)


def test_a_workdir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "fit.py").touch()
    with pytest.raises(ia.InstaAugError, match=r"workdir: .*fit\.py cannot be used"):
        fitted(["crop"], workdir=tmp_path / "fit.py")
