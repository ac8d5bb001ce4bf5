"""What a fit refuses, and what it says of its epochs."""

import math
import time

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.learning.entropy import EntropyConfig, EntropyController
from instaaug_transforms.learning.fitting import Fitting
from instaaug_transforms.learning.losses import cross_entropy
from instaaug_transforms.utils import progress

from .test_fit import BAND, QUIET, Planted, corner_images
from .test_report_by_views import Classes, pictures


def test_the_kept_epoch_is_the_one_that_is_reported():
    images, labels, _ = corner_images(64)
    aug = ia.LearnedAugment(["crop"])
    val = corner_images(16, 3)[:2]
    config = ia.FitConfig(entropy=BAND, epochs=12, lr=2e-2, **QUIET)
    # With a loss of one's own nothing is averaged on held-out images, and φ stays as the epoch left it.
    result = ia.fit(aug, Planted(), (images, labels), val, config, loss=lambda *pair: cross_entropy(*pair))
    table = ia.build_loss_table(Planted(), val, aug)
    probs = aug.distribution((val[0] * 255).round() / 255).parts["crop"].categorical.probs
    assert (probs * table).sum(-1).mean().item() == pytest.approx(result.best["val_loss"], abs=1e-4)


def test_early_stop():
    images, labels, _ = corner_images(32)
    config = ia.FitConfig(entropy={"crop": (0.0, 1.0)}, epochs=50, patience=2, lr=0.5, **QUIET)
    result = ia.fit(ia.LearnedAugment(["crop"]), Planted(), (images, labels), config=config)
    assert result.stopped_early and len(result.history) == result.best_epoch + 3 < 50


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"objective": "best"}, "objective"), ({"epochs": 0}, "epochs: expected a whole number ≥ 1, got 0"), ({"lr": -1.0}, "lr"),
        ({"lr": math.inf}, "lr: expected .* got inf"), ({"batch_size": 8.0}, "batch_size: expected a whole number ≥ 1, got 8.0"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a number in \[0, ∞\), got -1.0"), ({"seed": 1.5}, "seed: expected a whole number"),
        ({"held_out": "0.1"}, r"held_out: expected a number in \(0, 1\), or None, got '0.1'"), ({"entropy_weights": ("a",)}, r"entropy_weights: expected a number in \(0, ∞\], got 'a'"),
    ],
)  # fmt: skip
def test_bad_configuration(kwargs, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.FitConfig(**kwargs)


def test_bad_tables():
    images, labels, _ = corner_images(16)
    data = (images, labels)
    with pytest.raises(ia.InstaAugError, match=r"table: expected shape \(16, 30\).*got \(16, 29\)"):
        ia.fit(ia.LearnedAugment(["crop"]), Planted(), data, data, ia.FitConfig(**QUIET), table=torch.zeros(16, 29))
    with pytest.raises(ia.InstaAugError, match="not finite"):
        ia.fit(
            ia.LearnedAugment(["crop"]),
            Planted(),
            data,
            data,
            ia.FitConfig(**QUIET),
            table=torch.full((16, 30), math.nan),
        )


def test_no_bar_where_there_is_no_terminal(capfd, monkeypatch):
    images, labels, _ = corner_images(16)
    ia.fit(ia.LearnedAugment(["crop"]), Planted(), (images, labels), config=ia.FitConfig(epochs=1))
    time.sleep(0.05)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(progress, "EVERY", 0.0)  # lines are for work that takes some time
    ia.fit(ia.LearnedAugment(["crop"]), Planted(), (images, labels), config=ia.FitConfig(epochs=1, progress=True))
    shown = capfd.readouterr().err
    assert "loss table" in shown and "fit" in shown


def test_callbacks_get_flat_numbers_after_every_epoch():
    images, labels, _ = corner_images(24)
    seen, config = [], ia.FitConfig(epochs=2, **QUIET)
    result = ia.fit(ia.LearnedAugment(["crop"]), Planted(), (images, labels), config=config, callbacks=[seen.append])
    # A fit for each λ to try, one after the other; the result is one of them.
    assert [(one["run"], one["epoch"]) for one in seen] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(type(value) is float and math.isfinite(value) for one in seen for value in one.values())
    assert [seen[0]["lambda/crop"], seen[2]["lambda/crop"]] == pytest.approx(list(config.entropy_weights))
    of = {(one["run"], one["epoch"]): one for one in seen}
    kept = [run for run in (1, 2) if of[run, 2]["val_loss"] == result.history[1]["val_loss"]]
    assert kept and of[kept[0], 1]["entropy/crop"] == result.history[0]["entropy"]["crop"]
    assert {"loss", "val_entropy/crop", "in_band", "outside", "seconds"} < set(seen[0])


@pytest.mark.parametrize("bands", [{}, {"turn": (0.8, 0.95)}])
def test_an_epoch_says_its_mean_loss_and_how_far_entropies_are_from_their_bands(bands, one_thread):
    """Of a φ that hardly moves both are those of what it says now; a λ that stays where it is knows no band."""
    torch.manual_seed(0)
    model, images, aug = (
        Classes().eval(),
        pictures(40),
        ia.LearnedAugment(["turn"], predictor=ia.PatchPredictor(16, 16)),
    )
    labels = torch.arange(40) % 3
    config = ia.FitConfig(entropy=bands, entropy_weights=(0.1,), epochs=1, lr=1e-9, batch_size=16, **QUIET)
    (epoch,) = ia.fit(aug, model, (images, labels), (images, labels), config).history
    p = aug.distribution(images).parts["turn"].categorical.probs.detach().double()
    answers = [model(images.rot90(k, (-2, -1))) for k in range(4)]
    losses = torch.stack([nn.functional.cross_entropy(a, labels, reduction="none") for a in answers], 1).detach()
    turns = [ia.families.create(["turn"])[0].candidates().turn_angle.tolist().index(90.0 * k) for k in range(4)]
    assert epoch["loss"] == pytest.approx((p[:, turns] * losses).sum(1).mean().item(), rel=0.01)
    entropy = -(p * p.log()).sum(1).mean().item()
    outside = max(0.8 * math.log(4) - entropy, 0) if bands else 0.0
    assert epoch["outside"] == pytest.approx(outside, abs=0.02) and bool(bands) == (outside > 0.1)


def test_where_there_is_no_report_it_is_said_why(one_thread, caplog):
    model, images, config = nn.Conv2d(3, 2, 1).eval(), torch.rand(12, 3, 8, 8), ia.FitConfig(max_steps=1, **QUIET)
    for made, targets, loss in (
        (nn.Sequential(model, nn.AvgPool2d(8), nn.Flatten()), torch.arange(12) % 2, "cross_entropy"),
        (model, torch.zeros(12), lambda maps, _: maps.square().mean((1, 2, 3))),
    ):
        caplog.clear()
        report = ia.fit(ia.LearnedAugment(["turn"]), made, (images, targets), config=config, loss=loss).report
        assert (report is None) == ("report: none, because averages" in caplog.text) == (made is model)


def test_a_nat_outside_the_band_costs_a_nat():
    """Loss − λ·H + nats outside; the epoch with the lowest is kept."""
    fitting = object.__new__(Fitting)
    fitting.until = None
    fitting.controller = EntropyController(ia.LearnedAugment(["crop"]).families, EntropyConfig(initial_weight=0.5))
    epochs = [(1.0, 0.5), (1.2, 0.0), (1.3, 0.0)]
    fitting.history = [
        {"val_loss": loss, "val_entropy": {"crop": 2.0}, "in_band": not outside, "outside": outside}
        for loss, outside in epochs
    ]
    assert [fitting._rank(entry) for entry in fitting.history] == pytest.approx([0.5, 0.2, 0.3])
    assert fitting.best_epoch == 1


def test_a_held_out_loss_that_is_infinite_is_named():
    """Not an epoch that looks as good as any other."""
    images = corner_images(16)[0]
    targets = torch.cat([torch.zeros(12), torch.ones(4)]).long()

    def loss(outputs, targets):
        return torch.where(targets == 1, torch.inf, outputs.square().mean(1))

    for family in ("rotate", "crop"):
        with pytest.raises(ia.InstaAugError, match="not finite"):
            ia.fit(
                ia.LearnedAugment([family]),
                Planted(),
                (images[:12], targets[:12]),
                (images[12:], targets[12:]),
                ia.FitConfig(epochs=1, **QUIET),
                loss=loss,
            )
