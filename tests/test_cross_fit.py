"""Cross-fitting: nothing is asked of a φ that has learned from the image, and what comes of it decides as held-out images do."""

import dataclasses

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.nuisance import Nuisance
from instaaug_transforms.engine.rows import Rows, SomeRows
from instaaug_transforms.engine.splits import folds
from instaaug_transforms.learning.cross_fit import FOLDS, RawSaid, Said, can_be_parted, cross_fit, raw_outputs
from instaaug_transforms.learning.fitting import Fitting
from instaaug_transforms.learning.harm import costs_others, may_cost_others
from instaaug_transforms.learning.losses import cross_entropy, own_answers
from instaaug_transforms.learning.our_arms import likeliest_views, plain_view
from instaaug_transforms.learning.prepared import prepare
from instaaug_transforms.learning.report import HeldOutArm
from instaaug_transforms.learning.scores import ClassScores
from instaaug_transforms.learning.strength import leave_alone, log_p_of, shrink
from instaaug_transforms.learning.task import Task

from .conftest import make_lively
from .test_harmless import Reader, pictures
from .test_learning_arms import held, made_up


@pytest.mark.parametrize("groups", [None, [i // 3 for i in range(23)]])
def test_every_image_is_in_one_fold_beside_all_of_its_group(groups):
    data = LabelledImages(torch.rand(23, 3, 4, 4)).grouped(groups)
    parts = list(folds(data, 5, seed=1))
    assert len(parts) == 5
    assert sorted(torch.cat([fold for fold, _ in parts]).tolist()) == list(range(23))
    for fold, others in parts:
        assert sorted([*fold.tolist(), *others.tolist()]) == list(range(23))
        if groups:
            assert not {i // 3 for i in fold.tolist()} & {i // 3 for i in others.tolist()}
        else:
            assert len(fold) in (4, 5)
    assert not torch.equal(parts[0][0], next(folds(data, 5, seed=2))[0])
    for few, enough in ((3, False), (4, True)):
        assert can_be_parted(data.grouped(None).subset(slice(3 * few))) == (enough or groups is None)
        assert can_be_parted(data.grouped([i % few for i in range(23)])) == enough


def test_a_part_reads_the_rows_of_its_images():
    scores, *_ = made_up(12, draws=2, weights=torch.rand(24))
    index, data = torch.tensor([7, 0, 4]), scores.held
    part = data.part(index)
    rows = data.copies(index)
    assert len(part) == 6 and torch.equal(part.images.targets, data.images.targets[index])
    assert torch.equal(part.take("logits", torch.arange(6)), data.take("logits", rows))
    assert torch.equal(part.weight(torch.arange(6)), data.weights[rows])
    some = SomeRows(Rows.of(torch.arange(8.0).view(4, 2)), torch.tensor([3, 1]))
    assert len(some) == 2 and some[torch.tensor([1, 0]), torch.tensor([0, 1])].tolist() == [2.0, 7.0]


def fitted_task(n=20):
    """A task, what it learns from and what it chooses by; φ before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    aug = ia.LearnedAugment(["turn"])
    config = ia.FitConfig(epochs=3, batch_size=8, lr=0.05, progress=False)
    nuisance = Nuisance(["turn"], 0.5, 0)
    task = Task(aug, Reader(), cross_entropy, config, nuisance, own_answers(cross_entropy))
    views = aug.families[0].candidates()
    make = lambda images, name: prepare(task, LabelledImages(images), name, views, logits=torch.float16)  # noqa: E731
    images, others = pictures(n, 0)[0], pictures(10, 1)[0]
    start = {name: value.clone() for name, value in aug.predictor.state_dict().items()}
    return task, make, images, others, start


def test_what_is_said_of_a_fold_is_that_of_a_fit_without_it():
    """Tables of the other images alone, made for themselves, give the same φ."""
    task, make, images, others, start = fitted_task()
    with torch.no_grad():
        train, val = make(images, "table"), make(others, "val_table")
    found = cross_fit(task, train, val, start, 2)
    assert all(torch.equal(value, start[name]) for name, value in task.aug.predictor.state_dict().items())
    for fold, rest in folds(train.images, FOLDS, task.config.seed):
        task.aug.predictor.load_state_dict(start)
        with torch.no_grad():
            alone = make(images[rest], "table")
        result = Fitting(task, alone, val, until=2).run()
        assert len(result.history) == 2 and result.best_epoch == 1
        raw = raw_outputs(task.aug, train, train.copies(fold))["turn"]
        assert torch.allclose(found.raw["turn"][train.copies(fold)], raw, atol=1e-5)
    assert not any(value.requires_grad for value in raw_outputs(task.aug, train).values())
    assert found.scores.held is train and not torch.allclose(raw_outputs(task.aug, train)["turn"], found.raw["turn"])


def test_few_images_that_phi_learns_from_are_known_in_every_turn():
    """Turned by every quarter; the first copy is the image as it is, and counts what a nuisance of a half leaves alone, and a quarter of it."""
    _, make, images, *_ = fitted_task()
    with torch.no_grad():
        train = make(images, "table")
        plain = Reader()(images)
    assert train.draws == 4 and train.undisturbed.view(20, 4).tolist() == [[True, False, False, False]] * 20
    assert train.weights.view(20, 4)[0].tolist() == [2.5, 0.5, 0.5, 0.5]
    logits = train.take("logits", torch.arange(80)).float().unflatten(0, (20, 4))
    expected = (plain - plain.amax(1, keepdim=True)).float()
    for turn, back in ((0, 0), (1, 3), (2, 2), (3, 1)):  # of what turn k made, the view that turns it back
        assert torch.allclose(logits[:, turn, back], expected, atol=2e-3)


def test_an_arm_with_more_is_judged_on_all():
    one, two = (HeldOutArm("", 1, 1, np.full(n, n > 3), np.full(n, float(n)), undisturbed=np.zeros(n)) for n in (3, 5))
    joined = dataclasses.replace(one, more=two).with_more()
    assert joined.nll.tolist() == [3.0] * 3 + [5.0] * 5 and joined.correct.tolist() == [False] * 3 + [True] * 5
    assert len(joined.undisturbed) == 8 and joined.undisturbed_nll is None and one.with_more() is one
    losses = dataclasses.replace(one, more=HeldOutArm("", 1, 1, None, np.ones(5))).with_more()
    assert len(losses.nll) == 8 and len(losses.correct) == 3


def test_strength_is_chosen_on_all_images():
    """Of the held-out ones φ is right, of the others, which are six times as many, wrong: it is shrunk away, for both."""
    aug = make_lively(["turn"])
    torch.manual_seed(0)
    raw, targets = 9 * torch.randn(70, 4), torch.arange(70) % 4
    known = []
    for rows, sign in ((slice(0, 10), 1), (slice(10, 70), -1)):
        outputs = torch.full((len(targets[rows]), 4, 4), -6.0)
        best = raw[rows].argmax(1) if sign > 0 else raw[rows].argmin(1)
        outputs[torch.arange(len(best)), best, targets[rows]] = 9.0
        known.append(RawSaid(ClassScores(held(outputs, targets[rows])), {"turn": raw[rows].clone()}))
    alone = [RawSaid(known[0].scores, {"turn": raw[:10].clone()})]
    with torch.no_grad():
        assert shrink(make_lively(["turn"]), alone, [0, 1, 2, 3]) > 0
        assert shrink(aug, known, [0, 1, 2, 3]) == 0
    for each, rows in zip(known, (slice(0, 10), slice(10, 70)), strict=True):
        assert torch.allclose(each.raw["turn"], raw[rows].mean(0).expand(len(each.raw["turn"]), 4), atol=1e-5)


def undue(n, share, margin):
    """Copies as they are, right as they are and wrong turned, of which φ would turn a share, by ``margin`` nats; and turned ones, put right."""
    torch.manual_seed(0)
    outputs, targets = torch.full((2 * n, 4, 2), -3.0), torch.zeros(n, dtype=torch.long)
    outputs[::2, 0, 0], outputs[1::2, 1, 0] = 3.0, 3.0
    outputs[outputs.amax(2) < 0, :] = torch.tensor([-3.0, 3.0])
    raw = torch.zeros(2 * n, 4)
    raw[::2, 0] = 9.0
    raw[1::2, 1] = 19.0
    raw[: int(share * n) * 2 : 2, 1] = 9.0 + margin
    data = held(outputs, targets, 2, undisturbed=torch.arange(2 * n) % 2 == 0)
    return RawSaid(ClassScores(data), {"turn": raw})


@pytest.mark.parametrize(
    ("margin", "caution"), [(0.7, 2.0), (2.2, 3.0), (4.5, 6.0), (8.5, 13.0), (15.0, 16.0), (17.0, 0.0)]
)
def test_caution_grows_until_images_that_nothing_disturbed_do_not_pay(margin, caution):
    """The second step above the margin, if there is one; none where all of them are too small, or where nothing is known of more images."""
    held_out, more = undue(20, 0.0, margin), undue(80, 0.2, margin)
    aug = make_lively(["turn"])
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        before = aug.predictor(images)["turn"]
        assert leave_alone(make_lively(["turn"]), [undue(20, 0.0, margin)]) == 2.0  # as cautious as costs nothing
        assert leave_alone(aug, [held_out, more]) == caution
        assert torch.allclose(aug.predictor(images)["turn"], before + caution * torch.eye(4)[0], atol=1e-4)
    for each, start in ((held_out, undue(20, 0.0, margin)), (more, undue(80, 0.2, margin))):
        assert torch.allclose(
            each.raw["turn"] - start.raw["turn"], caution * torch.eye(4)[0].expand_as(each.raw["turn"])
        )
    if caution:  # images as they are stay so, and turned ones are still put right
        likeliest = log_p_of(aug, more.raw).argmax(1)
        assert (likeliest[::2] == 0).all() and (likeliest[1::2] == 1).all()


def test_the_same_way_is_scored_on_held_out_images_and_on_more():
    first, log_p, _ = made_up(24)
    second, more, p = made_up(40)
    arm = likeliest_views([Said(first, log_p), Said(second, more)], 1, False, [0, 1])
    assert len(arm.nll) == 24 and len(arm.more.nll) == 40
    single = plain_view([Said(first, log_p), Said(second, more)]).with_more()
    assert np.array_equal(single.correct[24:], p[:, 0].argmax(1) == second.held.images.targets)


def test_what_held_out_images_lose_counts_alone_too():
    """4 of 50 held-out images lose, and none of 400 others: all together that is less than a hundredth."""
    single = HeldOutArm("", 1, 1, np.ones(50), np.ones(50), undisturbed=np.ones(50))
    others = HeldOutArm("", 1, 1, np.ones(400), np.ones(400), undisturbed=np.ones(400))
    lost = dataclasses.replace(single, undisturbed=np.where(np.arange(50) < 4, 0.0, 1.0))
    for more in (None, others):
        assert costs_others(dataclasses.replace(lost, more=more), dataclasses.replace(single, more=more))
    worse = dataclasses.replace(others, undisturbed=np.where(np.arange(400) < 20, 0.0, 1.0))
    assert costs_others(dataclasses.replace(single, more=worse), dataclasses.replace(single, more=others))
    assert not costs_others(dataclasses.replace(single, more=others), dataclasses.replace(single, more=others))
    few = dataclasses.replace(single, undisturbed=np.where(np.arange(50) < 1, 0.0, 1.0))  # 2 % ± 2 %
    for more, may in ((None, True), (others, False)):
        pair = dataclasses.replace(few, more=more), dataclasses.replace(single, more=more)
        assert not costs_others(*pair) and may_cost_others(*pair) == may
