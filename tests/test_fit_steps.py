"""Steps, epochs and checkpoints of a fit, against gradients, means and times that are written out here."""

import math
from types import SimpleNamespace

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning import fitting
from instaaug_transforms.learning.fitting import Fitting, flat_logs
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.task import Task

from .test_fit import Planted

STILL = {"rate": 0.0, "initial_weight": 0.3}
SHOWN = SimpleNamespace(update=lambda: None, set_postfix=lambda *_, **__: None)


def table_of(losses, weights=None):
    """N images of which φ sees nothing, and what every candidate costs."""
    n, columns = losses.shape
    rows = {
        "seen-0": Rows(None, n, (1, 0), torch.float32, n, {}),
        "losses": Rows(None, n, (1, columns), torch.float32, n, {}),
    }
    rows["losses"].put(slice(0, n), losses[:, None])
    images = LabelledImages(torch.zeros(n, 3, 8, 8), torch.zeros(n).long())
    return Prepared(images, 1, rows, torch.device("cpu"), weights)


def made(train, val=None, families=("turn",), entropy=None, folder=None, callbacks=(), **config):
    aug = ia.LearnedAugment(list(families), predictor="global")
    entropy = ia.EntropyConfig(**STILL) if entropy is None else entropy
    task = Task(aug, Planted(), config=ia.FitConfig(entropy=entropy, progress=False, **config))
    return Fitting(task, train, train if val is None else val, folder, callbacks=callbacks)


def probabilities(run):
    return run.predictor.raw["turn"].detach()[0].double().softmax(0)


def entropy_of(p):
    return -(p * p.log()).sum().item()


LOSSES = torch.tensor(
    [[1.0, 2.0, 0.5, 3.0], [0.2, 1.0, 4.0, 0.1], [2.0, 0.0, 1.0, 1.0], [0.3, 3.0, 0.7, 2.0], [1.0, 0.1, 0.2, 5.0]]
)
WEIGHTS = torch.tensor([2.5, 0.5, 0.25, 1.0, 0.75])  # 1 on average


def test_a_step_goes_down_the_weighted_mean_of_loss_less_entropy():
    """∂/∂z of Σ p·L is p·(L − Σ p·L), and that of H is −p·(log p + H). Of two steps the second forgets the first's slope."""
    run = made(table_of(LOSSES, WEIGHTS))
    run.optimizer = torch.optim.SGD(run.predictor.parameters(), lr=1.0)
    run.schedule = SimpleNamespace(step=lambda: None)
    run.sums = {"loss": 0.0, "seen": 0, "entropy": {}}
    losses, entropies, raw = 0.0, 0.0, run.predictor.raw["turn"]
    for index in (torch.tensor([0, 3, 4]), torch.tensor([2, 1])):
        p, before, weight = probabilities(run), raw.detach().clone(), WEIGHTS[index].double()
        mean = (weight[:, None] * LOSSES[index].double()).mean(0)
        slope = p * (mean - (p * mean).sum()) + 0.3 * weight.mean() * p * (p.log() + entropy_of(p))
        run._step(index)
        torch.testing.assert_close((before - raw.detach())[0].double(), slope, rtol=1e-4, atol=1e-6)
        losses += (weight * (LOSSES[index].double() @ p)).sum().item()
        entropies += len(index) * entropy_of(p)
    assert run.sums["seen"] == 5
    assert run.sums["loss"] == pytest.approx(losses, rel=1e-5)
    assert run.sums["entropy"] == {"turn": pytest.approx(entropies, rel=1e-5)}


def test_an_epoch_tells_the_means_over_its_rows_and_over_the_held_out_ones():
    """Of parts that are not of one size, and rows that do not count alike."""
    weights = torch.tensor([1.8, 0.2, 1.0])
    run = made(table_of(LOSSES, WEIGHTS), table_of(LOSSES[:3] * 2, weights), lr=1e-12, batch_size=3, table_batch_size=2)
    p = probabilities(run)
    entry = run._epoch(SHOWN)
    assert entry["loss"] == pytest.approx((WEIGHTS.double() * (LOSSES.double() @ p)).mean().item(), rel=1e-5)
    assert entry["val_loss"] == pytest.approx(
        (weights.double() * (2 * LOSSES[:3].double() @ p)).mean().item(), rel=1e-5
    )
    for name in ("entropy", "val_entropy"):
        assert entry[name] == {"turn": pytest.approx(entropy_of(p), rel=1e-5)}
    assert entry["weight"] == {"turn": pytest.approx(0.3)}
    assert (entry["outside"], entry["in_band"], run.step) == (0.0, True, 2)
    assert run._epoch(SHOWN)["loss"] == pytest.approx(entry["loss"], rel=1e-5)  # sums begin anew


@pytest.mark.parametrize(("low", "high"), [(0.1, None), (-0.5, -0.1), (0.015, None), (-0.5, -0.015), (0.025, None)])
def test_an_epoch_is_in_its_band_within_a_fiftieth_of_a_nat(low, high):
    """Bands whose nearer edge lies so many nats from the entropy that φ has: above it (low) or below it (high)."""
    entropy = entropy_of(probabilities(made(table_of(LOSSES))))
    edges = [math.log(4) if edge is None else entropy + edge for edge in (max(low, -entropy), high)]
    bands = {"turn": tuple(edge / math.log(4) for edge in edges)}
    run = made(table_of(LOSSES), entropy=ia.EntropyConfig(bands, rate=1e-9), lr=1e-12)
    entry, outside = run._epoch(SHOWN), abs(low if high is None else high)
    assert entry["outside"] == pytest.approx(outside, abs=1e-5) and entry["in_band"] == (outside < 0.02)
    # A λ that stays where it is knows no band.
    still = made(table_of(LOSSES), entropy=ia.EntropyConfig(bands, rate=0.0), lr=1e-12)._epoch(SHOWN)
    assert (still["outside"], still["in_band"]) == (0.0, True)


def test_nats_outside_their_bands_are_those_of_all_families():
    run = made(table_of(torch.zeros(4, 4)), families=["turn"], entropy=ia.EntropyConfig({"turn": (0.8, 0.9)}), lr=1e-12)
    one = run._epoch(SHOWN)["outside"]
    families = ia.LearnedAugment(["turn", "light"]).families
    columns = math.prod(family.n_candidates for family in families)
    entropy = ia.EntropyConfig({"turn": (0.8, 0.9), "light": (0.0, 0.01)})
    entry = made(table_of(torch.zeros(4, columns)), families=["turn", "light"], entropy=entropy, lr=1e-12)._epoch(SHOWN)
    other = entry["entropy"]["light"] - 0.01 * math.log(families[1].n_candidates)
    assert one > 0.1 and other > 0.1 and entry["outside"] == pytest.approx(one + other, rel=1e-4)


@pytest.mark.parametrize("epochs", [100, 11])
def test_the_rate_climbs_for_a_tenth_of_the_steps_and_then_follows_a_cosine_to_zero(epochs, monkeypatch):
    run, rates, real = made(table_of(LOSSES), epochs=epochs, lr=0.02, patience=epochs), [], Fitting._step

    def step(self, index):
        group = self.optimizer.param_groups[0]
        assert group["betas"] == (0.9, 0.999)
        rates.append(group["lr"])
        real(self, index)

    monkeypatch.setattr(Fitting, "_step", step)
    run.run()
    top = epochs / 10 - 1  # where it is at its largest
    for k, rate in enumerate(rates):
        lowest, share = (1 / 25, 1 - k / top) if k < top else (1 / 25e4, (k - top) / (epochs - 1 - top))
        expected = lowest + (1 - lowest) * (1 + math.cos(math.pi * share)) / 2
        assert rate == pytest.approx(0.02 * expected, rel=1e-6)
    assert len(rates) == epochs


@pytest.mark.parametrize("epochs", [1, 9, 10, 12])
def test_a_fit_of_few_steps_has_a_rate(epochs):
    run = made(table_of(LOSSES), epochs=epochs, patience=epochs)
    before = probabilities(run)
    assert len(run.run().history) == epochs and not torch.equal(before, probabilities(run))


def test_no_two_steps_and_no_two_seeds_draw_the_same_noise(monkeypatch):
    """What φ's dropout draws is decided by seed and step, whatever whole number the seed is."""
    drawn = []
    monkeypatch.setattr(fitting, "seed_generators", lambda seed, device: drawn.append(seed))
    for seed in (0, 1, 2, 3, -1, 2**62, 2**62 + 1):
        run = made(table_of(LOSSES), seed=seed, batch_size=1)
        for _ in range(6):
            run._epoch(SHOWN)
    assert len(drawn) == len(set(drawn)) == 7 * 30 and all(0 <= seed < 2**63 for seed in drawn)


# -- when it stops, and what stays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "finished"),
    [
        ("", False), ("1", False), ("1 2", False), ("1 2 3", True), ("3 2 1", False), ("3 1 2", False), ("3 1 2 2", True),
        ("1 2 o", False), ("1 o 2", False), ("1 o 2 2", True), ("1 o o o", False), ("o o o o o", False),
        ("i 1 2 2", False), ("o o o o o o", True), ("6 5 4 3 2 1", True), ("6 5 4 3 2", False),
    ],
)  # fmt: skip
def test_it_stops_after_so_many_epochs_in_the_band_without_a_better_one(epochs, finished):
    """Held-out losses of epochs in their bands; o: far outside, and no better for it; i: outside and best all the same."""
    run = object.__new__(Fitting)
    run.until = None
    run.config = ia.FitConfig(patience=2, epochs=6)
    of = {"o": (7.0, 5.0), "i": (0.0, 0.5)}
    run.history = [
        {"val_loss": loss, "val_entropy": {}, "entropy": {}, "outside": outside, "in_band": not outside}
        for loss, outside in (of.get(epoch) or (float(epoch), 0.0) for epoch in epochs.split())
    ]
    assert run._finished(SHOWN) == finished


@pytest.mark.parametrize("interrupted", [0, 2])
def test_the_best_weights_so_far_stay_after_an_interruption(interrupted, monkeypatch):
    """The held-out images like another candidate, so that the first epoch is the best; before it is over nothing has changed."""
    train, val = torch.tensor([[9.0, 0.0, 9.0, 9.0]] * 4), torch.tensor([[0.0, 9.0, 9.0, 9.0]] * 2)
    run, states, real = made(table_of(train), table_of(val), lr=0.1, epochs=9, batch_size=2), [], Fitting._step
    run.callbacks = [lambda _: states.append(run.predictor.raw["turn"].detach().clone())]
    before = run.predictor.raw["turn"].detach().clone()
    run.predictor.eval().requires_grad_(False)

    def step(self, index):
        if self.step == 2 * interrupted + 1:
            raise KeyboardInterrupt
        real(self, index)

    monkeypatch.setattr(Fitting, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert len(states) == interrupted
    weight = run.predictor.raw["turn"]
    assert torch.equal(weight, states[0] if interrupted else before) and torch.equal(weight, before) == (
        not interrupted
    )
    assert not run.predictor.training and not weight.requires_grad and weight.grad is None


def test_phi_learns_in_training_mode_and_is_judged_in_eval_mode():
    run, modes = made(table_of(LOSSES), epochs=2), []
    decode = run.predictor.decode
    run.predictor.decode = lambda *seen: modes.append(run.predictor.training) or decode(*seen)
    run.predictor.eval()
    run.run()
    assert modes == [True, False] * 2


def test_what_is_kept_outside_its_band_is_said_where_a_weight_follows_bands(caplog):
    for rate in (0.0, 1e-9):
        made(table_of(LOSSES), entropy=ia.EntropyConfig({"turn": (0.8, 0.9)}, rate=rate), lr=1e-12, epochs=1).run()
        assert ("turn: the epoch that was kept has entropy" in caplog.text) == bool(rate)


def test_a_fit_that_ran_all_of_its_epochs_did_not_stop_early():
    results = [made(table_of(LOSSES), lr=1e-12, epochs=n, patience=3).run() for n in (3, 9)]
    assert [(len(result.history), result.stopped_early) for result in results] == [(3, False), (4, True)]
    assert results[0].table_seconds == 0.0


# -- checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A step takes a second, and nothing else takes time."""
    now, real = SimpleNamespace(seconds=1000.0), Fitting._step

    def step(self, index):
        real(self, index)
        now.seconds += 1

    monkeypatch.setattr(fitting, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(Fitting, "_step", step)
    return now


def test_a_checkpoint_is_made_after_so_many_seconds_and_after_every_epoch(clock, monkeypatch):
    saved, real = [], Fitting._save
    monkeypatch.setattr(Fitting, "_save", lambda self: saved.append(self.step) or real(self))
    made(table_of(LOSSES), batch_size=1, epochs=2, checkpoint_seconds=1.5).run()
    assert saved == [2, 4, 5, 7, 9, 10]


def test_the_seconds_of_a_resumed_fit_go_on_from_those_it_had(clock, tmp_path, monkeypatch):
    def stop(logs):
        if logs["epoch"] == 3:
            clock.seconds += 5000
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(table_of(LOSSES), batch_size=2, epochs=4, folder=tmp_path, callbacks=[stop]).run()
    clock.seconds += 5000
    result = made(table_of(LOSSES), batch_size=2, epochs=4, folder=tmp_path).run(resume=True)
    assert [entry["seconds"] for entry in result.history] == [3.0, 6.0, 9.0, 12.0] and result.fit_seconds == 12.0


def test_a_fit_that_is_not_to_go_on_begins_anew(tmp_path):
    """Beside a checkpoint of its own: every step is done again, from where φ is."""
    taken = []
    for resume in (False, False, True):
        run = made(table_of(LOSSES), batch_size=2, epochs=2, folder=tmp_path)
        run.callbacks = [lambda logs: taken.append(logs["epoch"])]
        assert len(run.run(resume).history) == 2
    assert taken == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda values, tensors: values.pop("step"), KeyError),
        (lambda values, tensors: values.update(controller=None), TypeError),
        (lambda values, tensors: tensors["optimizer"].update(param_groups=[]), ValueError),
        (lambda values, tensors: tensors["predictor"].update({"raw.turn": torch.zeros(1, 5)}), RuntimeError),
        (lambda values, tensors: tensors.update(order=[0, 1]), AttributeError),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_named_and_changes_nothing(damage, kind, tmp_path, monkeypatch):
    made(table_of(LOSSES), epochs=2, lr=0.1, folder=tmp_path).run()
    load = fitting.load_state

    def damaged(*arguments):
        state = load(*arguments)
        damage(*state)
        return state

    monkeypatch.setattr(fitting, "load_state", damaged)
    run = made(table_of(LOSSES), epochs=2, lr=0.1, folder=tmp_path)
    before = {name: value.clone() for name, value in run.predictor.state_dict().items()}
    with pytest.raises(
        ia.InstaAugError, match=r"(?s)resume: .* holds no state of this fit .*; fit without resume"
    ) as raised:
        run.run(resume=True)
    assert isinstance(raised.value.__cause__, kind)
    assert all(torch.equal(value, before[name]) for name, value in run.predictor.state_dict().items())


def test_an_entry_of_the_history_as_flat_numbers():
    entry = {"loss": 1, "weight": {"crop": 0.1, "turn": 2}, "entropy": {"crop": 3.0}, "in_band": True}
    logs = flat_logs(entry, 7)
    assert logs == {
        "epoch": 7.0,
        "loss": 1.0,
        "lambda/crop": 0.1,
        "lambda/turn": 2.0,
        "entropy/crop": 3.0,
        "in_band": 1.0,
    }
    assert all(type(value) is float for value in logs.values())


def test_until_an_epoch_that_was_known_before_nothing_is_validated():
    """The held-out images like another candidate, so that the first epoch would be the best."""
    train, val = torch.tensor([[9.0, 0.0, 9.0, 9.0]] * 4), torch.tensor([[0.0, 9.0, 9.0, 9.0]] * 2)
    states = []
    for until in (None, 3):
        run = made(table_of(train), table_of(val), lr=0.1, epochs=9, batch_size=2)
        run.until = until
        if until:
            run._validate = lambda: pytest.fail("validated")
        run.callbacks = [lambda _, run=run: states.append(run.predictor.raw["turn"].detach().clone())]
        result = run.run()
        assert (result.best_epoch, len(result.history) == 3) == ((2, True) if until else (0, False))
        assert torch.equal(run.predictor.raw["turn"], states[-1] if until else states[0])
    assert torch.equal(states[-1], states[2])  # of the same schedule
