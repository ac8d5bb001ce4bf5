"""Entropy control, loss table, freezing, contrastive losses."""

import pytest
import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.engine.data import LabelledImages, load
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.contrastive import contrastive_credit, contrastive_losses
from instaaug_transforms.learning.loss_table import Viewer
from instaaug_transforms.utils.modes import frozen


class Linear(nn.Module):
    """A classifier with BatchNorm, to be left exactly as it was."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 5))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.body(x)


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


def test_a_loss_table_takes_names_as_fit_does(tmp_path):
    aug, model, images, labels = (
        ia.LearnedAugment(["turn"]),
        Linear().eval(),
        torch.rand(6, 3, 32, 32),
        torch.arange(6) % 5,
    )
    table = ia.build_loss_table(model, (images, labels), aug, loss="cross_entropy", folder=str(tmp_path))
    expected = nn.functional.cross_entropy(model(images.rot90(1, (-2, -1))), labels, reduction="none")
    assert torch.allclose(table[:, 1], expected, atol=1e-5) and any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, data, aug: (aug, model, data), "aug: expected a LearnedAugment, got tuple"),
        (
            lambda model, data, aug: (model, (data[0], data[1] + 1), aug),
            "data: expected labels .* from 0 to 4.* from 1 to 5",
        ),
        (lambda model, data, aug: (model, (data[0], data[1].float()), aug), "data: expected labels .*torch.float32"),
    ],
)
def test_a_loss_table_names_what_it_cannot_use(change, message):
    """As `fit` does: PyTorch said that a target is out of bounds, and something that it has no in_channels."""
    data = torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 2, 3, 4, 0])
    with pytest.raises(ia.InstaAugError, match=message):
        ia.build_loss_table(*change(Linear().eval(), data, ia.LearnedAugment(["turn"])))


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
