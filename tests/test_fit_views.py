"""Which views a fit looks at where no table says all, against expectations and strata that are written out here."""

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.fitting import Fitting
from instaaug_transforms.learning.prepared import Prepared, prepare
from instaaug_transforms.learning.task import Task

from .test_fit import corner_images
from .test_fit_steps import LOSSES, made, table_of


def without_table(families, raw, **config):
    """A fit to images without a table, to which φ says ``raw``, per family."""
    known = table_of(LOSSES)
    images = Prepared(known.images, 1, {"seen-0": known.rows["seen-0"]}, torch.device("cpu"))
    run = made(images, families=families, **config)
    with torch.no_grad():
        for name, numbers in raw.items():
            run.predictor.raw[name].copy_(torch.as_tensor(numbers))
    return run


def said(run, rows):
    """φ's distribution of so many copies of the first image."""
    return run._distribution(run.train.seen(torch.zeros(rows).long()))


def test_held_out_views_have_the_same_noise_at_every_epoch_and_their_mean_is_the_expectation():
    """The square of an angle that is uniform in [a, b] has the mean (a² + a·b + b²) / 3."""
    found = []
    for seed in (0, 0, 1):
        run = without_table(["rotate"], {"rotate": [[0.3, 0.4]]}, val_views=40, table_batch_size=2, seed=seed)
        run._losses = lambda params, data, index: params.angle.square()
        found += [run._validate()["val_loss"] for _ in range(2)]
    angle = said(run, 1).parts["rotate"].fields["angle"]
    low, high = angle.lo.item(), angle.hi.item()
    assert found[0] == found[1] == found[2] == found[3] != found[4] == found[5]
    assert found == pytest.approx([(low**2 + low * high + high**2) / 3] * 6, rel=0.02) and high - low > 10


def taken(run):
    """The parameters of the views that a step looks at, of five images."""
    params = []
    run._losses = lambda given, data, index: params.append(given) or torch.zeros(given.batch_shape)
    run._objective(said(run, 5), torch.zeros(5).long(), None)
    return params[0]


def test_views_of_ranges_are_spread_over_them():
    """Of four views one is in each quarter of the range."""
    run = without_table(["rotate"], {"rotate": [[0.3, 0.4]]}, views=4)
    of = said(run, 5).parts["rotate"].fields["angle"]
    quarter = ((taken(run).angle - of.lo) / (of.hi - of.lo) * 4).floor().sort(0).values
    assert torch.equal(quarter, torch.arange(4.0)[:, None].expand(4, 5))


def test_views_that_are_each_others_baseline_are_drawn_independently():
    """Spread over thirty equally likely crops, each of thirty views would be another one."""
    run = without_table(["crop"], {"crop": torch.zeros(1, 30)}, views=30, objective="sampled")
    assert all(10 < len(column.unique()) < 30 for column in taken(run).anchor.T)


def test_the_gradient_of_sampled_candidates_is_that_of_all_of_them():
    """Two families, a loss of their pair: the mean of many samples' gradients against that of Σ p·q·L."""
    torch.manual_seed(0)
    raw = {
        "turn": 0.5 * torch.randn(1, 4),
        "light": 0.5 * torch.randn(1, len(ia.families.create(["light"])[0].candidates()["light"])),
    }
    run = without_table(["turn", "light"], raw, views=2, objective="sampled")
    logits = [run.predictor.raw[name] for name in raw]
    losses = torch.rand(4, raw["light"].shape[1]) + torch.tensor([2.0, 0.0, 1.0, 0.0])[:, None]
    run._losses = lambda params, data, index: losses[params.turn.long(), params.light.long()]
    expectation = logits[0][0].softmax(0) @ losses @ logits[1][0].softmax(0)
    value = run._objective(said(run, 20_000), torch.zeros(20_000).long(), None).mean()
    assert value.item() == pytest.approx(expectation.item(), rel=0.02)
    found, expected = (torch.cat(torch.autograd.grad(one, logits), 1) for one in (value, expectation))
    assert (found - expected).abs().max() < 0.01 < expected.abs().max() / 10


def test_half_of_the_images_are_mirrored_and_so_are_their_losses():
    """What φ sees is what it sees of the mirror image, and the row is that of a table of mirror images."""
    images, labels, _ = corner_images(60)
    images = images + 0.05 * torch.rand(60, 3, 32, 32)

    class Left(nn.Module):
        def forward(self, x):
            return torch.stack([x[..., :8].mean((1, 2, 3)), x[..., 8:].mean((1, 2, 3))], 1) * 5

    aug = ia.LearnedAugment([Crop(flips=True)])
    task = Task(aug, Left(), config=ia.FitConfig(progress=False))
    views = aug.families[0].candidates()
    data = prepare(task, LabelledImages(images, labels), "table", views)
    run, index = Fitting(task, data, data), torch.arange(60)
    seen, rows = run._mirror_half(index, data.seen(index), data.losses(index))
    plain, flipped = (aug.predictor.encode(x)[0] for x in (images, images.flip(-1)))
    is_plain, is_flipped = (
        torch.tensor([torch.equal(one, other) for one, other in zip(seen[0], every, strict=True)])
        for every in (plain, flipped)
    )
    assert (is_plain ^ is_flipped).all() and 15 < is_flipped.sum() < 45
    tables = [ia.build_loss_table(Left(), (x, labels), aug) for x in (images, images.flip(-1))]
    torch.testing.assert_close(rows, torch.where(is_flipped[:, None], tables[1], tables[0]), atol=1e-5, rtol=1e-4)
    assert (tables[0] - tables[1]).abs().max() > 0.1
