"""Entropy control, loss table, freezing, contrastive losses."""

import math

import pytest
import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.engine.data import LabelledImages, load
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.contrastive import contrastive_credit, contrastive_losses
from instaaug_transforms.learning.loss_table import Viewer
from instaaug_transforms.utils.modes import frozen

CROP_ROTATE = families.create(["crop", "rotate"])


def test_dual_control_raises_and_lowers_the_weight():
    control = ia.EntropyController(CROP_ROTATE, {"crop": (0.4, 0.5), "rotate": (-1.0, -0.5)})
    low, high = control.bands["crop"]
    assert (low, high) == pytest.approx((0.4 * math.log(30), 0.5 * math.log(30)))
    for _ in range(50):
        control.step({"crop": torch.full((8,), 0.2), "rotate": torch.full((8,), -0.1)})
    assert control.weight("crop") > 0.1 > control.weight("rotate")
    settled = control.settled_weight("crop")
    for _ in range(200):
        control.step({"crop": torch.full((8,), (low + high) / 2)})
    inside = control.settled_weight("crop")
    control.step({"crop": torch.full((8,), (low + high) / 2)})
    assert control.settled_weight("crop") == inside and inside >= settled
    assert control.weight("crop") == pytest.approx(inside)


def test_control_finds_the_weight_that_meets_the_band():
    """A planted problem with a known answer: mean loss 2·σ, entropy log σ; at weight λ the optimum is σ = λ/2."""
    rotate = families.create(["rotate"])
    control = ia.EntropyController(rotate, ia.EntropyConfig({"rotate": (-1.1, -0.9)}, initial_weight=0.01, rate=0.02))
    raw = torch.tensor([-4.0], requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(1500):
        width = raw.sigmoid()
        entropy = {"rotate": width.log()}
        loss = (2 * width - control.penalty(entropy)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        control.step(entropy)
    assert -1.15 < raw.sigmoid().log().item() < -0.85
    assert control.settled_weight("rotate") == pytest.approx(2 * raw.sigmoid().item(), rel=0.1)


def share_of_updates_in_band(**control: float) -> float:
    """Where φ is trained by Adam, entropy climbs or falls at one speed on either side of the λ that holds it still."""
    control = ia.EntropyController(CROP_ROTATE[:1], ia.EntropyConfig({"crop": (0.5, 0.6)}, rate=0.03, **control))
    (low, high), entropy, inside = control.bands["crop"], 0.6, 0
    for update in range(2000):
        still = 0.1 * 2 ** (-update / 500)  # a model that learns forgives more and more
        entropy = min(max(entropy + 0.02 * math.tanh(3 * math.log(control.weight("crop") / still)), 0.0), 3.4)
        control.step({"crop": torch.tensor([entropy])})
        inside += update >= 200 and low <= entropy <= high
    return inside / 1800


def test_lookahead_and_margin_hold_entropy_in_its_band():
    assert share_of_updates_in_band() < 0.3  # swings through it
    assert share_of_updates_in_band(lookahead=50) < 0.3  # rests beyond its edge
    assert share_of_updates_in_band(lookahead=50, margin=0.2) == 1


def test_paper_control_moves_by_a_fifth_once_an_epoch():
    entropy = ia.EntropyConfig({"crop": (0.4, 0.5)}, initial_weight=0.2, mode="paper")
    control = ia.EntropyController(CROP_ROTATE, entropy)
    for _ in range(10):
        control.step({"crop": torch.zeros(4)})
    assert control.weight("crop") == pytest.approx(0.2)
    control.epoch_end()
    assert control.weight("crop") == pytest.approx(0.24)


def test_paper_control_without_bands_takes_those_of_the_families():
    """Of the crop's 30 candidates 0.52 to 0.61 of log 30, of the angle −1 to −0.3 nats: below, inside and above."""
    assert ia.EntropyConfig(mode="paper").bands == {}
    for crop, rotate, expected in ((0.5, -0.31, (1.2, 1)), (0.53, -0.29, (1, 1 / 1.2)), (0.62, -1.01, (1 / 1.2, 1.2))):
        control = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(mode="paper", initial_weight=0.2))
        control.step({"crop": torch.full((4,), crop * math.log(30)), "rotate": torch.full((4,), rotate)})
        control.epoch_end()
        weights = [control.weight(name) / 0.2 for name in ("crop", "rotate")]
        assert weights == pytest.approx(expected)


def test_weights_stay_in_their_limits_and_state_goes_on():
    control = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(rate=1.0))
    for _ in range(100):
        control.step({"crop": torch.zeros(4), "rotate": torch.full((4,), -0.001)})
    assert control.settled_weight("crop") == pytest.approx(30) and control.settled_weight("rotate") == pytest.approx(
        1e-3
    )
    again = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(rate=1.0))
    again.load_state_dict(control.state_dict())
    assert control.trend["crop"] == 0.0  # the entropy never changed
    assert again.state_dict() == control.state_dict() and again.weight("crop") == control.weight("crop")


@pytest.mark.parametrize("start", [1e-9, 100.0])
def test_a_weight_that_does_not_move_stays_where_it_starts(start):
    still = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(rate=0.0, initial_weight=start))
    paper = ia.EntropyController(CROP_ROTATE, ia.EntropyConfig(mode="paper", initial_weight=start))
    for control in (still, paper):
        control.step({"crop": torch.zeros(4), "rotate": torch.full((4,), -0.001)})
        control.epoch_end()
    assert still.weight("crop") == pytest.approx(start) and still.weight("rotate") == pytest.approx(start)
    assert paper.weight("crop") == pytest.approx(min(1.2 * start, max(start, 30)))


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"hsv": (-1, 0)}, "bands for hsv, but the families are crop, rotate"),
        ({"crop": (0.5, 1.5)}, "≤ 1 .fractions"),
        ({"rotate": (-0.5, 0.5)}, "≤ 0 .nats"),
        ({"rotate": (-0.5, -0.9)}, "low < high"),
        ({"crop": 0.5}, r"entropy\['crop'\]: expected a pair of numbers, \(low, high\), got 0.5"),
        ({"crop": (0.1, 0.2, 0.3)}, "expected a pair of numbers"),
        ({"crop": ("low", "high")}, "expected a pair of numbers"),
    ],
)
def test_bad_bands(bands, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.EntropyController(CROP_ROTATE, bands)


class Linear(nn.Module):
    """A classifier with BatchNorm, to be left exactly as it was."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 5))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.body(x)


def test_bad_lookahead_and_margin():
    with pytest.raises(ia.InstaAugError, match=r"lookahead: expected a number in \[0, ∞\), or None, got -1"):
        ia.EntropyConfig(lookahead=-1)
    with pytest.raises(ia.InstaAugError, match=r"margin: expected a number in \[0, 0.5\), or None, got 0.5"):
        ia.EntropyConfig(margin=0.5)
    with pytest.raises(ia.InstaAugError, match="entropy: expected bands"):
        ia.FitConfig(entropy=(0.3, 0.5))


def test_loss_table_is_the_loss_of_every_crop():
    aug, model = ia.LearnedAugment(["crop"]), Linear().eval()
    crop, data = aug.families[0], LabelledImages(torch.rand(7, 3, 32, 32), torch.randint(5, (7,)))
    table = ia.build_loss_table(model, data, aug, batch_size=3)
    for a in (0, 4, 29):
        params = crop.candidates().map(lambda f, a=a: f[a].expand(7))
        expected = nn.functional.cross_entropy(
            model(functional.apply(data.images, params, [crop])), data.targets, reduction="none"
        )
        assert torch.allclose(table[:, a], expected, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_leaves_everything_as_it_was(fails):
    model = Linear()
    model.body[1].eval()
    model.body[3].bias.requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    try:
        with frozen(model):
            x = torch.rand(4, 3, 32, 32, requires_grad=True)
            model.body[1].train()
            model(x).sum().backward()
            assert x.grad.abs().sum() > 0 and all(p.grad is None for p in model.parameters())
            if fails:
                raise KeyError("inside")
    except KeyError:
        pass
    assert modes == [m.training for m in model.modules()] and needs == [p.requires_grad for p in model.parameters()]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_contrastive_losses_match_an_explicit_sum():
    a, b = torch.randn(4, 8), torch.randn(4, 8)
    z = nn.functional.normalize(torch.cat([a, b]), dim=1)
    expected = []
    for i in range(8):
        sims = [(z[i] @ z[j] / 0.5).exp() for j in range(8) if j != i]
        expected.append(-((z[i] @ z[(i + 4) % 8] / 0.5).exp() / sum(sims)).log())
    per_pair = [(expected[i] + expected[(i + 4) % 8]) / 2 for i in range(8)]
    assert torch.allclose(contrastive_losses(a, b), torch.stack(per_pair), atol=1e-5)


def test_the_credit_of_a_view_gives_the_exact_gradient():
    """Two views of each of two or three images, two anchors each; every combination is enumerated.

    Credited with its own pair alone, a view's part in the other pairs' negatives is missing.
    """
    for images in (2, 3):
        torch.manual_seed(images)
        embedding, rows = torch.randn(images, 2, 6), torch.arange(images)  # image, anchor, dimension
        logits = torch.randn(images, 2, requires_grad=True)
        log_p = torch.log_softmax(logits, -1)
        exact = estimate = pair_alone = 0.0
        for combo in torch.cartesian_prod(*[torch.arange(2)] * (2 * images)):
            one, two = combo.chunk(2)
            views = embedding[rows, one], embedding[rows, two]
            losses = contrastive_losses(*views)
            score = torch.cat([log_p[rows, one], log_p[rows, two]])
            p = score.sum().exp()
            exact = exact + p * losses.sum()
            estimate = estimate + p.detach() * (score * contrastive_credit(*views)).sum()
            pair_alone = pair_alone + p.detach() * (score * 2 * losses).sum()
        wanted, credited, paired = (
            torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (exact, estimate, pair_alone)
        )
        assert torch.allclose(credited, wanted, atol=1e-5)
        assert (paired - wanted).abs().max() > 0.01


def test_a_credit_under_autocast_is_that_of_full_precision():
    first, second = torch.randn(2, 256, 32, generator=torch.Generator().manual_seed(0))
    exact = contrastive_credit(first.double(), second.double())
    with torch.autocast("cpu", torch.bfloat16):
        credit = contrastive_credit(first, second)
    assert (credit - exact).abs().max() < 1e-4 * exact.std()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "expected images, .images, labels. tensors.*int"),
        ((torch.rand(4, 3, 8, 8), torch.zeros(5)), "one target each"),
        ((torch.rand(4, 3, 8, 8) * 9, torch.zeros(4)), r"lie in \[0, 1\]"),
        ((torch.zeros(4, 3, 8, 8, dtype=torch.int64), torch.zeros(4)), "uint8 or float"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(ia.InstaAugError, match=f"(?s){message}"):
        load(data)


def test_datasets_of_pil_images_and_of_mixed_sizes():
    import PIL.Image

    class Mixed(torch.utils.data.Dataset):
        sizes = [(8, 8), (8, 8)]

        def __len__(self):
            return len(self.sizes)

        def __getitem__(self, i):
            return PIL.Image.new("RGB", self.sizes[i], (255, 0, 0)), i

    data = load(torch.utils.data.DataLoader(Mixed())).in_memory()
    assert data.images.dtype == torch.uint8 and data.images.shape == (2, 3, 8, 8) and data.targets.tolist() == [0, 1]
    Mixed.sizes = [(8, 8), (9, 8)]
    with pytest.raises(ia.InstaAugError, match="resizes them"):
        load(Mixed()).in_memory()


def test_own_answers_are_those_at_the_size_of_the_views():
    """Large frames, small views: what the classifier says of the whole frame is asked at the size it knows."""
    sizes = set()

    class Sized(nn.Module):
        def forward(self, x):
            sizes.add(tuple(x.shape[-2:]))
            return x.mean((2, 3)) * 5

    images = torch.rand(12, 3, 40, 40)
    aug = ia.LearnedAugment(["crop"], output_size=(20, 20))
    view = Viewer(aug, Sized())
    expected = Sized()(F.resize(images, [20, 20], antialias=True))
    torch.testing.assert_close(view.plain(images), expected, atol=1e-4, rtol=1e-4)
    config = ia.FitConfig(epochs=1, held_out=0.5, progress=False)
    ia.fit(aug, Sized(), images, nuisance=v2.RandomErasing(p=1), config=config)
    assert sizes == {(20, 20)}


def test_the_table_looks_as_the_transform_does():
    """Every pixel of a quarter of the image twice, as the nearest neighbour is, and no other interpolation."""
    images, labels, model = torch.rand(5, 3, 32, 32), torch.randint(5, (5,)), Linear().eval()
    crop = Crop(scales=(1.0, 0.5), grids=(1, 2))
    aug = ia.LearnedAugment([crop], interpolation="nearest")
    table, boxes = ia.build_loss_table(model, (images, labels), aug), crop.candidates()
    for a in range(1, 5):
        x, y = (int((centre - 0.25) * 32) for centre in (boxes.cx[a], boxes.cy[a]))
        seen = images[..., y : y + 16, x : x + 16].repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert torch.allclose(
            table[:, a], nn.functional.cross_entropy(model(seen), labels, reduction="none"), atol=1e-5
        )


def test_views_without_a_way_back_are_refused():
    objective = ia.InstaAugObjective(ia.LearnedAugment(["crop"]))
    losses = torch.rand(4, requires_grad=True)
    with torch.no_grad():
        _, sample = objective.aug.sample(torch.rand(4, 3, 16, 16))
    with pytest.raises(ia.InstaAugError, match=r"sample: it has no way back to φ.*torch.no_grad"):
        objective(losses, sample)
    objective.eval()(losses, sample).backward()
    assert torch.equal(losses.grad, torch.full((4,), 0.25))
    objective.train().aug.requires_grad_(False)  # a classifier that learns from views that stay as they are
    objective(losses, sample)


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_forgets_lets_lambda_fall_until_it_has_learned_again(trained, caplog):
    """A range of ±30° is all that labels allow here (made up: a loss that explodes beyond); the band asks for ten times as much. A
    frozen model forgets nothing, and gets what the band asks for."""
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["rotate"], predictor="global")
    objective = ia.InstaAugObjective(aug, ia.EntropyConfig({"rotate": (-0.5, -0.1)}, initial_weight=5.0, rate=0.05))
    objective.warm_up.over = True
    optimizer, images = torch.optim.Adam(objective.parameters(), 0.05), torch.rand(64, 3, 8, 8)
    weights, widths, model = [], [], torch.ones((), requires_grad=trained)
    for _ in range(400):
        sample = aug.sample(images)[1]
        wrong = (sample.params.angle[0].abs() - 30).relu() / 10
        objective(model * (0.01 + 2 * wrong.clamp(max=1)), sample).backward()
        optimizer.step()
        optimizer.zero_grad()
        weights.append(objective.weights["rotate"])
        widths.append(math.exp(objective.entropies["rotate"]))
    if not trained:
        assert max(weights) > 20 and widths[-1] > math.exp(-0.5) and "has risen" not in caplog.text
        return
    assert "the loss has risen from 0.01" in caplog.text and caplog.text.count("lower the band") == 1
    assert (
        weights[-1] < max(weights) and objective.controller.losses["recent"] < 1.0
    )  # 2 is what a model that knows nothing loses
    again = ia.InstaAugObjective(aug, {"rotate": (-0.5, -0.1)})
    again.load_state_dict(objective.state_dict())
    assert (
        again.controller.losses == objective.controller.losses
        and again.controller.forgets == objective.controller.forgets
    )


def test_states_of_before_losses_were_kept_load():
    objective = ia.InstaAugObjective(ia.LearnedAugment(["rotate"]))
    old = torch.tensor([[-1.0, -2.0, 0.01]], dtype=torch.float64)
    objective.set_extra_state(old)
    state = objective.get_extra_state()
    assert torch.equal(state[:, :3], old) and state[:, 4:7].isnan().all() and objective.controller.losses == {}
    assert objective.warm_up.over and objective.controller.reached == {"rotate": True}  # long past its beginning
