"""What a fit refuses, which λ it tries and keeps, and what it leaves as it was."""

import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages, StreamedImages
from instaaug_transforms.learning import FitResult
from instaaug_transforms.learning.task import Task
from instaaug_transforms.predictors.fixed import ClassPredictor

from .test_fit import Planted, corner_images
from .test_harmless import Corners, corners

fit_module = sys.modules["instaaug_transforms.learning.fit"]  # by its name: `learning.fit` is the function
QUIET = {"progress": False}
TWELVE = (torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2)
TABLE = torch.zeros(12, 4)


def tried(losses, alike, tasks=2):
    """What `_best_of` makes of fits that end with these held-out losses and, image by image, these probabilities."""
    aug = ia.LearnedAugment(["turn"], predictor="global")
    start = aug.predictor.raw["turn"].detach().clone()
    losses, alike, runs = iter(losses), iter(alike), []

    class Fake:
        val = None

        def __init__(self, task, callbacks):
            self.weight = task.config.entropy.initial_weight
            assert torch.equal(aug.predictor.raw["turn"], start)  # every one from the same start
            callbacks[0]({"epoch": 1.0})

        def run(self, resume):
            assert resume == "as asked"
            with torch.no_grad():
                aug.predictor.raw["turn"] += self.weight
            return FitResult([{"weight": self.weight}], 0, False, 0.0, 1.5)

    config = ia.FitConfig()
    all_tasks = [
        Task(aug, Planted(), config=replace(config, entropy=ia.EntropyConfig(initial_weight=weight)))
        for weight in (0.3, 0.1)[:tasks]
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "average_loss", lambda *_: next(losses))
        patch.setattr(fit_module, "joint", lambda *_: next(alike).log())
        result, _ = fit_module._best_of(all_tasks, Fake, [], None, "as asked", [lambda logs: runs.append(logs)])
    moved = (aug.predictor.raw["turn"].detach() - start)[0]
    return result, runs, moved


SAME, APART = torch.tensor([[0.995, 0.005], [0.999, 0.001]]), torch.tensor([[0.995, 0.005], [0.02, 0.98]])


@pytest.mark.parametrize(
    ("alike", "weights"),
    [
        ([APART, APART], [0.3, 0.1]), ([APART, SAME], [0.3, 0.1]), ([SAME, APART], [0.3, 0.1]),
        ([SAME, SAME, APART], [0.3, 0.1, 3.0]), ([SAME] * 5, [0.3, 0.1, 3.0, 30.0, 300.0]),
        ([SAME.flip(1), SAME.flip(1), APART], [0.3, 0.1, 3.0]), ([SAME - 0.01, SAME - 0.01], [0.3, 0.1]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("best", [0, 1])
def test_ten_times_the_largest_weight_is_tried_where_all_gave_every_image_the_same(alike, weights, best):
    """Up to three times; the fit that is kept is the one with the lowest held-out loss, and its weights."""
    losses = [2.0 + k for k in range(len(alike))]
    losses[best] = 1.0
    result, runs, moved = tried(losses, alike)
    assert [logs["run"] for logs in runs] == [1.0 + k for k in range(len(weights))]
    assert result.history[0]["weight"] == pytest.approx(weights[best])
    torch.testing.assert_close(moved, torch.full((4,), weights[best]))
    assert result.fit_seconds == 1.5 * len(weights)


def test_the_largest_weight_is_ten_times_as_large_each_time():
    for best, weight in enumerate([0.3, 0.1, 3.0, 30.0, 300.0]):
        losses = [float(k != best) for k in range(5)]
        assert tried(losses, [SAME] * 5)[0].history[0]["weight"] == pytest.approx(weight)


def test_one_setting_alone_is_not_chosen_among():
    result, runs, moved = tried([], [], tasks=1)
    assert runs == [{"run": 1.0, "epoch": 1.0}] and result.fit_seconds == 1.5
    torch.testing.assert_close(moved, torch.full((4,), 0.3))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("bands", [{}, {"turn": (0.1, 0.5)}])
def test_weights_are_tried_one_after_another_where_candidates_are_alone_and_no_band_is_asked_for(alone, bands):
    config = ia.FitConfig(entropy=bands, entropy_weights=(0.2, 0.7), max_steps=10, batch_size=3, epochs=9)
    task = Task(ia.LearnedAugment(["turn"]), Planted(), config=config)
    for rows, epochs in ((1, 9), (3, 9), (4, 7), (10, 3), (30, 1), (31, 1), (10**6, 1)):  # no more than ten steps
        tasks = fit_module._settings(task, alone, rows)
        if bands or not alone:
            assert tasks == [task]
            continue
        assert [one.config.entropy.initial_weight for one in tasks] == [0.2, 0.7]
        assert all((one.config.entropy.rate, one.config.entropy.mode) == (0.0, "dual") for one in tasks)
        assert {one.config.epochs for one in tasks} == {epochs}


# -- what it refuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("families", "arguments", "message"),
    [
        (["turn"], {"table": TABLE}, "table: give val_data too"),
        (["turn"], {"val_table": TABLE}, "table: give val_data too"),
        (["turn"], {"val_data": TWELVE, "groups": range(12)}, "groups: they say what is held out of train_data"),
        (["turn"], {"val_data": TWELVE[0]}, "val_data: it has no labels, and train_data has"),
        (["turn"], {"val_data": TWELVE, "table": TABLE, "nuisance": "turn"}, "this fit is to disturbed images"),
        (["turn"], {"val_data": TWELVE, "val_table": TABLE, "nuisance": "turn", "labels": True}, "to disturbed images"),
        (["turn"], {"val_data": TWELVE, "table": TABLE, "labels": False}, "this fit is to own answers"),
        (["turn"], {"val_data": TWELVE, "val_table": TABLE, "labels": False}, "this fit is to own answers"),
        (["turn", "rotate"], {"val_data": TWELVE, "val_table": TABLE}, "val_table: ranges and objective='sampled'"),
        (["turn"], {"val_data": TWELVE, "val_table": TABLE, "objective": "sampled"}, "val_table: ranges and objective="),
        (["turn"], {"resume": True}, "resume: give the workdir"),
        (["turn"], {"entropy": {"turn": (0.5, 0.4)}}, r"entropy\['turn'\]: expected low < high"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_the_classifier_sees_an_image(families, arguments, message):
    settings = {name: arguments.pop(name) for name in ("objective", "entropy") if name in arguments}
    model = Planted()
    with pytest.raises(ia.InstaAugError, match=message):
        ia.fit(ia.LearnedAugment(families), model, TWELVE, config=ia.FitConfig(**settings, **QUIET), **arguments)
    assert model.calls == 0


def test_phi_of_half_precision_and_phi_that_reads_labels_are_refused():
    for aug, message in (
        (ia.LearnedAugment(["turn"]).half(), "its weights are float16, too coarse for an optimiser"),
        (ia.LearnedAugment(["turn"], predictor=ClassPredictor(2)), "learns which label means what"),
    ):
        with pytest.raises(ia.InstaAugError, match=message):
            ia.fit(aug, Planted(), TWELVE, config=ia.FitConfig(**QUIET))


# -- what it gives, and leaves -------------------------------------------------------------------------------------------


def test_the_report_is_there_unless_the_held_out_table_was_given():
    """Of a table alone nobody knows the outputs that averages are made of."""
    model, config = Planted(), ia.FitConfig(max_steps=1, **QUIET)
    table = ia.build_loss_table(model, TWELVE, ia.LearnedAugment(["turn"]))
    for name, reported in (("table", True), ("val_table", False)):
        aug = ia.LearnedAugment(["turn"])
        result = ia.fit(aug, model, TWELVE, TWELVE, config, **{name: table})
        assert (result.report is not None) == reported == ((aug.recommended or {}).get("model") is not None)


def test_a_fit_takes_the_time_it_takes_makes_its_folder_and_leaves_chance_as_it_was(tmp_path):
    """And needs no settings."""
    folder, aug = tmp_path / "a" / "b", ia.LearnedAugment(["turn"], predictor="global")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    start = time.perf_counter()
    result = ia.fit(aug, Planted(), TWELVE, workdir=folder)
    seconds = time.perf_counter() - start
    assert torch.equal(torch.rand(3), expected) and any(folder.iterdir())
    assert 0 < result.table_seconds < seconds and 0 < result.fit_seconds < seconds and len(result.history) > 1


def test_an_objective_is_known_by_its_letters(monkeypatch):
    """Words that were put together or read from a file are other objects than those of the code."""
    made, real = [], fit_module.prepare
    monkeypatch.setattr(fit_module, "prepare", lambda *a, **k: made.append(a[3]) or real(*a, **k))
    config = ia.FitConfig(objective="".join(["samp", "led"]), epochs=1, batch_size=4, **QUIET)
    ia.fit(ia.LearnedAugment(["turn"]), Planted(), TWELVE, TWELVE, config)
    assert made == [None, None]  # no table


@pytest.mark.parametrize(("families", "objective"), [(["rotate"], "paper"), (["turn"], "sampled")])
def test_a_dataset_is_fitted_to_as_its_tensors_are(families, objective):
    images, labels, _ = corner_images(20)
    config, weights = ia.FitConfig(epochs=1, batch_size=10, objective=objective, **QUIET), []
    for data in ((images, labels), TensorDataset(images, labels)):
        torch.manual_seed(0)
        aug = ia.LearnedAugment(families)
        ia.fit(aug, Planted(), data, config=config)
        weights.append(torch.cat([weight.detach().flatten() for weight in aug.parameters()]))
    assert torch.equal(*weights)


def test_a_dataset_is_read_once_where_every_step_looks_at_images_and_never_into_memory_where_a_table_says_all(
    monkeypatch,
):
    class Counted(TensorDataset):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    reads = []
    for epochs in (1, 3):
        data = Counted(*TWELVE)
        ia.fit(ia.LearnedAugment(["rotate"]), Planted(), data, TWELVE, ia.FitConfig(epochs=epochs, patience=9, **QUIET))
        reads.append(data.read)
    assert reads[0] == reads[1] > 0
    monkeypatch.setattr(StreamedImages, "in_memory", None)
    ia.fit(ia.LearnedAugment(["turn"]), Planted(), Counted(*TWELVE), config=ia.FitConfig(max_steps=1, **QUIET))


@pytest.mark.parametrize(
    ("most", "outputs", "known"), [(40, 2**40, True), (39, 2**40, False), (40, 0, True), (40, -1, False)]
)
def test_outputs_of_what_phi_learns_from_are_kept_up_to_a_number(most, outputs, known, monkeypatch):
    """Of 40 images, 4 turns with 15 zooms and mirror images, and 4 classes: 3040 numbers."""
    monkeypatch.setattr(fit_module, "FEW", most)
    monkeypatch.setattr(fit_module, "MOST_OUTPUTS", 40 * (4 + 15) * 4 + outputs)
    report = ia.fit(
        ia.LearnedAugment(["turn"]), Corners(), corners(40), corners(12), ia.FitConfig(max_steps=1, **QUIET)
    ).report
    assert (getattr(report.arms[0].more, "correct", None) is not None) == known


@pytest.mark.parametrize("soft", [False, True])
def test_images_learned_from_are_evidence_of_fixed_views_where_their_targets_are_labels(soft, monkeypatch):
    monkeypatch.setattr(fit_module, "FEW", 39)  # losses alone
    (images, _), (others, _) = corners(40), corners(40)
    # As sure as it is right.
    labels, theirs = (torch.multinomial(Corners()(each).softmax(1), 1)[:, 0] for each in (images, others))
    if soft:
        labels, theirs = (nn.functional.one_hot(each, 4).float() for each in (labels, theirs))
    report = ia.fit(
        ia.LearnedAugment(["turn"]), Corners(), (images, labels), (others, theirs), ia.FitConfig(max_steps=1, **QUIET)
    ).report
    assert any(arm.more is not None for arm in report.arms) == (not soft)


def test_names_of_what_is_held_out_are_told():
    images, labels, _ = corner_images(20)
    data = LabelledImages(images, labels, [f"{k}.png" for k in range(20)])
    result = ia.fit(
        ia.LearnedAugment(["turn"]), Planted(), data, config=ia.FitConfig(max_steps=1, held_out=0.3, **QUIET)
    )
    assert len(set(result.held_out)) == 6 and set(result.held_out) < {f"{k}.png" for k in range(20)}
    nameless = ia.fit(ia.LearnedAugment(["turn"]), Planted(), TWELVE, config=ia.FitConfig(max_steps=1, **QUIET))
    assert nameless.held_out is None


@pytest.mark.parametrize(
    ("images", "classes", "kept"),
    [(2000, 2, True), (2001, 2, False), (2000, 5263, True), (2000, 5264, False), (1000, 10_526, True), (1000, 10_527, False)],
)  # fmt: skip
def test_outputs_are_kept_of_2000_images_and_200_million_numbers(images, classes, kept, monkeypatch):
    """Of 4 turns and 15 zooms and mirror images: 2000 · 19 · 5263 is 199 994 000."""

    class Decided(Exception):
        pass

    def decided(*_, logits, **__):
        assert (logits is not None) == kept
        raise Decided

    monkeypatch.setattr(fit_module, "check_answers", lambda *_: classes)
    monkeypatch.setattr(fit_module, "prepare", decided)
    data = torch.zeros(images, 3, 2, 2), torch.zeros(images).long()
    with pytest.raises(Decided):
        ia.fit(ia.LearnedAugment(["turn"]), Planted(), data, TWELVE, ia.FitConfig(**QUIET))
