import math

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.fitting import Fitting
from instaaug_transforms.learning.prepared import prepare
from instaaug_transforms.learning.task import Task

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
