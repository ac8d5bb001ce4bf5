import math
import time

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.entropy import EntropyConfig, EntropyController
from instaaug_transforms.learning.fitting import Fitting
from instaaug_transforms.learning.losses import cross_entropy
from instaaug_transforms.learning.prepared import prepare
from instaaug_transforms.learning.task import Task
from instaaug_transforms.utils import progress

from .test_report_by_views import Classes, pictures

QUIET = {"progress": False}
BAND = {"crop": (0.52, 0.61)}


class Planted(nn.Module):
    """Class 1 where the mean brightness is high: small crops on the bright quarter see it best."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        bright = (x.mean((1, 2, 3)) - 0.35) * 12
        return torch.stack([torch.zeros_like(bright), bright], 1)


def corner_images(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bright patch in one of four corners of a dark image, all of class 1; and which corner."""
    g = torch.Generator().manual_seed(seed)
    images = 0.05 * torch.rand(n, 3, 32, 32, generator=g)
    corner = torch.randint(4, (n,), generator=g)
    for k, c in enumerate(corner.tolist()):
        y, x = 18 * (c // 2) + 1, 18 * (c % 2) + 1
        images[k, :, y : y + 12, x : x + 12] = 0.9
    return images, torch.ones(n, dtype=torch.long), corner


def test_crops_find_the_object():
    images, labels, _ = corner_images(256)
    aug = ia.LearnedAugment(["crop"])
    config = ia.FitConfig(entropy=ia.EntropyConfig({"crop": (0.1, 0.3)}, rate=0.02), epochs=25, batch_size=32, **QUIET)
    result = ia.fit(aug, Planted(), (images, labels), config=config)
    test_images, _, test_corner = corner_images(100, seed=1)
    anchor = aug.distribution(test_images).mode
    assert ((anchor.cx > 0.5).long() == test_corner % 2).float().mean() > 0.95
    assert ((anchor.cy > 0.5).long() == test_corner // 2).float().mean() > 0.95
    assert result.best["val_loss"] < 0.1 * result.history[0]["val_loss"]


class AngleLimited(nn.Module):
    """Class 0 where the red stripe is within ±60° of upright, by its second moments; blue discs are class 0 anyhow."""

    def forward(self, x):
        grid = torch.linspace(-1, 1, x.shape[-1])
        red = x[:, 0]
        mass = red.sum((1, 2)) + 1e-6
        xx = (red * grid**2).sum((1, 2)) / mass
        yy = (red * grid[:, None] ** 2).sum((1, 2)) / mass
        upright = (yy - xx) * 40 * (red.mean((1, 2)) > 0.02)
        disc = x[:, 2].mean((1, 2)) * 100
        return torch.stack([upright + disc, torch.zeros_like(upright)], 1)


def stripes_and_discs(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.zeros(n, 3, 32, 32)
    grid = torch.linspace(-1, 1, 32)
    images[::2, 0, 4:28, 13:19] = 1
    images[1::2, 2] = ((grid[:, None] ** 2 + grid**2) < 0.4).float()
    images += 0.02 * torch.rand(n, 3, 32, 32)
    return images.clamp(0, 1), torch.zeros(n, dtype=torch.long)


def test_ranges_of_rotation_are_learned_per_image():
    images, labels = stripes_and_discs(128)
    aug = ia.LearnedAugment(["rotate"])
    config = ia.FitConfig(entropy={"rotate": (-0.9, -0.6)}, epochs=40, batch_size=16, views=2, patience=40, **QUIET)
    ia.fit(aug, AngleLimited(), (images, labels), config=config)
    angle = aug.distribution(images).parts["rotate"].fields["angle"]
    width = (angle.hi - angle.lo).detach()
    assert width[1::2].mean() > 1.3 * width[::2].mean(), (width[1::2].mean(), width[::2].mean())
    assert 40 < width[::2].mean() < 220


def test_the_exact_gradient_is_that_of_the_gibbs_form():
    """Σ p·L − λ·H(p) = λ·KL(p ‖ softmax(−L/λ)) + const, DESIGN of the method: same gradient in φ's logits."""
    table, logits, weight = torch.rand(5, 30) * 3, torch.randn(5, 30, requires_grad=True), 0.3
    part = Crop().distribution(logits)
    paper = ((part.categorical.probs * table).sum(-1) - weight * part.entropy()).sum()
    target = torch.softmax(-table / weight, -1)
    kl = weight * (part.categorical.probs * (part.categorical.logits - target.log())).sum()
    one, two = (torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (paper, kl))
    assert torch.allclose(one, two, atol=1e-6)


class Recording(Planted):
    """Counts forwards, and remembers how many views each had."""

    def forward(self, x):
        self.sizes = [*getattr(self, "sizes", []), len(x)]
        return super().forward(x)


def test_one_forward_per_step_and_a_control_variate():
    images, labels, _ = corner_images(32)
    model = Recording()
    aug = ia.LearnedAugment(["crop", "rotate"])
    table = ia.build_loss_table(model, (images, labels), aug)
    model.sizes = []
    config = ia.FitConfig(epochs=1, batch_size=8, views=1, val_views=1, table_batch_size=32, **QUIET)
    ia.fit(aug, model, (images, labels), (images, labels), config, table=table)
    # Two looks at its answers, one at what it makes of floats and of bytes, a step each, one validation; the table was given. Then
    # the report, with the same batches.
    assert model.sizes[:9] == [4, 2, 32, 32, 8, 8, 8, 8, 32] and max(model.sizes[9:]) <= 32


def test_the_score_gradient_is_unbiased_and_quieter_than_plain_reinforce():
    """Crop and rotate together, against the gradient by enumeration of anchors; the table is the control variate."""
    torch.manual_seed(0)
    images, labels, _ = corner_images(4)
    aug, model = ia.LearnedAugment(["crop", "rotate"]), Planted()
    with torch.no_grad():
        aug.predictor.heads["crop"].bias.zero_()
        aug.predictor.heads["rotate"].out.bias[0] = -1.0
    config = ia.FitConfig(views=1, **QUIET)
    views = CandidateProduct(aug.anchor_families).candidates()
    task = Task(aug, model, config=config)
    data = prepare(task, LabelledImages(images, labels), "table", views)
    run = Fitting(task, data, data)
    bias, index = aug.predictor.heads["crop"].bias, torch.arange(4)
    generator = torch.Generator().manual_seed(0)
    ours, plain = [], []
    for _ in range(300):
        distribution = run._distribution(run.train.seen(index))
        value = run._objective(distribution, index, run.train.losses(index)).mean()
        ours.append(torch.autograd.grad(value, bias)[0].flatten())
        distribution = run._distribution(run.train.seen(index))
        params = distribution.rsample((1,), generator)
        losses = run._losses(params, run.train, index)[0].detach()
        score = (losses * distribution.parts["crop"].log_prob(params)[0]).mean()
        plain.append(torch.autograd.grad(score, bias)[0].flatten())
    ours, plain = torch.stack(ours), torch.stack(plain)
    error = (ours.var(0) / 300 + plain.var(0) / 300).sqrt()
    assert ((ours.mean(0) - plain.mean(0)).abs() < 4 * error + 1e-6).all()
    assert ours.var(0).sum() < 0.5 * plain.var(0).sum()


def test_nothing_is_chosen_by_the_reported_split_and_control_sees_training_data_alone():
    """Held-out data choose the epoch, nothing else."""
    images, labels, _ = corner_images(64)
    histories = []
    for seed in (1, 2):
        torch.manual_seed(0)
        val = corner_images(16, seed)[:2]
        result = ia.fit(
            ia.LearnedAugment(["crop"]),
            Planted(),
            (images, labels),
            val,
            ia.FitConfig(entropy=BAND, epochs=4, patience=9, **QUIET),
        )
        histories.append([(h["loss"], h["entropy"], h["weight"]) for h in result.history])
    assert histories[0] == histories[1]


def test_the_classifier_is_left_as_it_was_also_after_an_exception():
    images, labels, _ = corner_images(16)
    model = Planted().train()
    model.norm.running_mean.fill_(3.0)
    with pytest.raises(ZeroDivisionError):
        ia.fit(
            ia.LearnedAugment(["rotate"]), model, (images, labels), config=ia.FitConfig(**QUIET), loss=lambda *_: 1 / 0
        )
    assert model.training and model.norm.training and all(p.requires_grad for p in model.parameters())
    assert (model.norm.running_mean == 3).all()


def test_modes_and_jitter_of_the_transform_come_back():
    images, labels, _ = corner_images(16)
    crop = Crop(jitter=True)
    aug = ia.LearnedAugment([crop]).eval().requires_grad_(False)
    before = {k: v.clone() for k, v in aug.state_dict().items()}
    ia.fit(aug, Planted(), (images, labels), config=ia.FitConfig(epochs=2, **QUIET))
    assert crop.jitter and not aug.training and not any(p.requires_grad for p in aug.parameters())
    assert any(not torch.equal(v, before[k]) for k, v in aug.state_dict().items())


def test_what_is_frozen_in_a_part_of_the_predictor_stays():
    """All of it was trained, and the rest of a pretrained φ was lost where one head was to be fitted."""
    images, labels, _ = corner_images(64)
    aug = ia.LearnedAugment(["crop", "turn"]).requires_grad_(False)
    aug.predictor.heads["turn"].requires_grad_(True)
    before = {name: value.clone() for name, value in aug.state_dict().items()}
    ia.fit(aug, Planted(), (images, labels), nuisance=["turn"], config=ia.FitConfig(epochs=2, batch_size=32, **QUIET))
    moved = {name for name, value in aug.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("predictor.heads.turn.") for name in moved)
    assert {name for name, p in aug.named_parameters() if p.requires_grad} >= {
        name for name, _ in aug.named_parameters() if name.startswith("predictor.heads.turn.")
    }
    assert not any(p.requires_grad for p in aug.predictor.heads["crop"].parameters())


@pytest.mark.parametrize("families", [["crop"], ["rotate"]])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_fit_keeps_a_graph_where_nothing_around_it_does(mode, families):
    images, labels, _ = corner_images(24)
    config = ia.FitConfig(epochs=1, batch_size=12, max_steps=2, **QUIET)
    weights = []
    for around in (torch.enable_grad, mode):
        torch.manual_seed(0)
        aug, model = ia.LearnedAugment(families), Planted()
        with around():
            ia.fit(aug, model, (images, labels), config=config)
            assert torch.is_grad_enabled() == (around is torch.enable_grad)
        weights.append(torch.cat([weight.detach().flatten() for weight in aug.parameters()]))
    assert torch.equal(*weights)


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


@pytest.mark.parametrize("families", [["crop"], ["crop", "rotate", "hsv"]])
def test_a_seed_fixes_every_bit(families):
    images, labels, _ = corner_images(24)
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        aug = ia.LearnedAugment(families)
        ia.fit(aug, Planted(), (images, labels), config=ia.FitConfig(epochs=2, batch_size=8, seed=3, **QUIET))
        states.append(aug.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_all_three_families_move_together():
    images, labels, _ = corner_images(48)
    aug = ia.LearnedAugment(["crop", "rotate", "hsv"])
    start = {k: v.mean().item() for k, v in aug.distribution(images).entropies().items()}
    ia.fit(aug, Planted(), (images, labels), config=ia.FitConfig(epochs=15, batch_size=8, lr=5e-3, **QUIET))
    end = {k: v.mean().item() for k, v in aug.distribution(images).entropies().items()}
    assert (
        all(math.isfinite(v) for v in end.values())
        and end["rotate"] > start["rotate"] + 1
        and end["hsv"] > start["hsv"] + 1
    )


def test_mirrored_training_of_flip_anchors():
    images, labels, _ = corner_images(64)
    aug = ia.LearnedAugment([Crop(flips=True)])
    config = ia.FitConfig(entropy={"crop": (0.2, 0.4)}, epochs=20, batch_size=16, **QUIET)
    ia.fit(aug, Planted(), (images, labels), config=config)
    probs = aug.distribution(images).parts["crop"].categorical.probs
    mirrored = aug.distribution(images.flip(-1)).parts["crop"].categorical.probs[:, aug.families[0].mirror_index()]
    assert (probs - mirrored).abs().sum(1).mean() < 0.6


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


def test_without_bands_the_weight_of_entropy_moves_only_where_ranges_are_learned():
    """Of candidates alone each λ is tried as it is, in the paper's mode too; beside a range all take their default bands."""
    images, labels, _ = corner_images(8)
    config = ia.FitConfig(entropy=ia.EntropyConfig(mode="paper"), epochs=2, max_steps=2, **QUIET)
    found = {}
    for families in (["crop"], ["crop", "rotate"]):
        seen = found["-".join(families)] = []
        ia.fit(ia.LearnedAugment(families), Planted(), (images, labels), config=config, callbacks=[seen.append])
    assert [one["lambda/crop"] for one in found["crop"]] == pytest.approx([0.1, 0.1, 0.3, 0.3])
    first, second = found["crop-rotate"]  # both begin narrower than their bands
    for name in ("lambda/crop", "lambda/rotate"):
        assert [first[name], second[name]] == pytest.approx([0.12, 0.144])


def test_beside_large_losses_a_larger_weight_of_entropy_is_tried(one_thread):
    """The same answers, only surer: φ gave all images the view that is best on average, and one view was recommended."""
    torch.manual_seed(0)

    class Sure(Classes):
        def forward(self, x):
            return 100 * super().forward(x)

    aug, seen = ia.LearnedAugment(["turn"], predictor=ia.PatchPredictor(16, 16)), []
    config = ia.FitConfig(epochs=12, lr=5e-3, batch_size=32, **QUIET)
    images = pictures(240)
    report = ia.fit(aug, Sure().eval(), images, nuisance=["turn"], config=config, callbacks=[seen.append]).report
    assert [one["lambda/turn"] for one in seen if one["epoch"] == 1] == pytest.approx([0.1, 0.3, 3.0])
    assert report.recommended.name == "ours"
    assert report.recommended.correct.mean() > 0.95 > report.arms[0].correct.mean() + 0.1


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
