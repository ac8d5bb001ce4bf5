"""Arms of a held-out report, on outputs that are made up: which views, at what cost, as which arguments of `TTAModel`."""

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning import arms as module
from instaaug_transforms.learning.arms import in_halves, nll_on_train, numbers_of_views, rivals
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.scores import ClassScores


def held(outputs, targets, draws=1, **more):
    """Outputs ``(N·D, V, …)`` of copies; those of the images as they were are zero."""
    n = len(outputs) // draws
    plain = torch.zeros(n, *outputs.shape[2:])
    rows = {"logits": Rows.of(outputs.unflatten(0, (n, draws))), "plain": Rows.of(plain)}
    return Prepared(LabelledImages(torch.zeros(n, 3, 4, 4), targets), draws, rows, torch.device("cpu"), **more)


def table(losses, weights=None):
    """Losses ``(N, D, A)``."""
    n, draws, _ = losses.shape
    rows = {"losses": Rows.of(losses)}
    return Prepared(
        LabelledImages(torch.zeros(n, 3, 4, 4)),
        draws,
        rows,
        torch.device("cpu"),
        weights and torch.tensor(weights).repeat(n),
    )


def made_up(n=24, columns=5, classes=3, draws=1, **more):
    generator = torch.Generator().manual_seed(0)
    outputs = 2 * torch.randn(n * draws, columns, classes, generator=generator)
    targets = torch.randint(classes, (n,), generator=generator)
    log_p = torch.randn(n * draws, columns, generator=generator).mul(2).log_softmax(1)
    return ClassScores(held(outputs, targets, draws, **more)), log_p, outputs.softmax(-1).double()


@pytest.mark.parametrize(
    ("columns", "ks"), [(0, [1]), (1, [1]), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (9, [1, 2, 4]), (10, [1, 2, 4, 10]), (99, [1, 2, 4, 10])]
)  # fmt: skip
def test_as_many_views_as_there_are_candidates(columns, ks):
    assert numbers_of_views(columns) == ks


@pytest.mark.parametrize("draws", [1, 3])
def test_halves_are_of_images_drawn_alike_every_time(draws):
    scores, *_ = made_up(10, draws=draws)
    images = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    assert in_halves(scores).tolist() == [draws * i + d for i in images for d in range(draws)]


@pytest.mark.parametrize("columns", [1, 5, 16, 17])
@pytest.mark.parametrize("known", [[], [2, 0, 1]])
def test_rivals_are_one_view_fixed_views_shuffled_ones_and_all_candidates(columns, known):
    scores, log_p, p = made_up(columns=columns)
    known = [a % columns for a in known][: columns if columns > 1 else 3]
    angles = 10.0 * torch.arange(columns)
    found = rivals(scores, log_p, ia.AugmentParams(turn_angle=angles), known, None)
    by = {(arm.name, arm.n_views): arm for arm in found}
    targets = scores.held.images.targets

    def nll(views):
        average = p[torch.arange(24)[:, None], views].mean(1)
        scaled = average.log() / scores.temperature(average.log())
        return -scaled.log_softmax(-1)[torch.arange(24), targets].numpy()

    one = by["one view", 1]
    assert found[0] is one and one.setting == {"n_views": 1, "policy": {"turn_angle": [0.0]}} and one.cost == 1
    assert np.allclose(one.nll, nll(torch.zeros(24, 1).long()), atol=1e-4) and one.more is None
    order = in_halves(scores)
    policies, everywhere = scores.searched(order, 10)
    shuffled = torch.empty_like(log_p)
    for place, row in enumerate(order.tolist()):  # what the image before it in that order is told
        shuffled[row] = log_p[order[place - 1]]
    for k in (1, 2, 4, 10):
        arm = by["best input-free", k]
        found_nll = [nll(policies[:, :k])] + ([nll(torch.tensor(known[:k]).expand(24, -1))] if len(known) >= k else [])
        best = min(range(len(found_nll)), key=lambda i: found_nll[i].mean())
        assert np.allclose(arm.nll, found_nll[best], atol=1e-4) and arm.cost == k
        views = [everywhere[:k], known[:k]][best]
        assert arm.setting == {"n_views": k, "policy": {"turn_angle": [10.0 * a for a in views]}}
        rival = by.get(("best input-free (ours, shuffled)", k))
        if k > columns:
            assert rival is None
            continue
        views = shuffled.topk(k, 1).indices  # shown where it is better: more often right, or as often and surer
        right = p[torch.arange(24)[:, None], views].mean(1).argmax(-1) == targets
        merits = (right.double().mean(), -nll(views).mean()), (arm.correct.mean(), -arm.nll.mean())
        if not np.allclose(*merits, atol=1e-6):
            assert (rival is not None) == (merits[0] > merits[1])
        if rival is not None:
            assert np.allclose(rival.nll, nll(views), atol=1e-4) and rival.setting is None and rival.cost == k
    assert (("mean of all candidates", columns) in by) == (columns > 1) == (("most confident candidate", 1) in by)
    if columns > 1:
        every, surest = by["mean of all candidates", columns], by["most confident candidate", 1]
        assert np.allclose(every.nll, nll(torch.arange(columns).expand(24, -1)), atol=1e-4) and every.cost == columns
        policy = {"n_views": columns, "policy": {"turn_angle": angles.tolist()}}
        assert every.setting == (policy if columns <= 16 else None)
        assert np.allclose(surest.nll, nll(p.amax(-1).argmax(1, keepdim=True)), atol=1e-4)
        assert (surest.cost, surest.setting) == (columns, None)


def test_fixed_views_of_images_that_phi_learned_from_count_where_the_classifier_is_calibrated():
    """Every arm of `order` has its NLL there; what was searched on held-out images has none."""
    scores, log_p, _ = made_up(60)
    losses = torch.rand(40, 1, 5)
    candidates = ia.AugmentParams(turn_angle=10.0 * torch.arange(5))
    sure = scores.temperature(scores.average(torch.zeros(60, 1, dtype=torch.long)))
    found = rivals(scores, log_p, candidates, [2, 0, 1, 3], table(losses))
    more = nll_on_train(table(losses), [1, 2, 4])
    for arm in found:
        if arm.name == "one view":
            assert (arm.more is None) == (not 1 / 1.5 < sure < 1.5)
            assert arm.more is None or (np.allclose(arm.more.nll, more[0]) and arm.more.correct is None)


@pytest.mark.parametrize("columns", [2, 5])
def test_where_few_images_are_held_out_those_that_phi_learned_from_choose_fixed_views(columns):
    """Unless what held-out images choose is certainly better; each half is scored by the views that the other chose."""
    scores, log_p, _ = made_up(30, columns)
    train, _, p = made_up(80, columns)
    order, targets = in_halves(train), train.held.images.targets
    everywhere = train.search(torch.arange(80), 10)
    found = rivals(scores, log_p, ia.AugmentParams(turn_angle=10.0 * torch.arange(columns)), [1, 0], train)
    by = {(arm.name, arm.n_views): arm for arm in found}
    single = by["one view", 1]
    assert np.array_equal(single.more.correct, p[:, 0].argmax(-1) == targets)
    policies, elsewhere = scores.searched(in_halves(scores), 10)
    for k in (1, 2, 4, 10):
        arm = by["best input-free", k]
        losses = [
            scores.arm("", k, k, scores.average(views)).nll
            for views in (policies[:, :k], torch.tensor(everywhere[:k]).expand(30, -1))
        ]
        difference = losses[1] - losses[0]
        if difference.mean() > 2 * difference.std() / 30**0.5:
            assert arm.more is None and arm.setting["policy"]["turn_angle"] == [10.0 * a for a in elsewhere[:k]]
            continue
        assert arm.setting["policy"]["turn_angle"] == [10.0 * a for a in everywhere[:k]]
        answers = torch.empty(80, 3, dtype=torch.float64)
        for half, other in ((order[:40], order[40:]), (order[40:], order[:40])):
            answers[half] = p[half][:, train.search(other, 10)[:k]].mean(1)
        assert np.array_equal(arm.more.correct, answers.argmax(-1) == targets)
        nll = torch.nn.functional.cross_entropy(
            answers.log() / train.temperature(answers.log()), targets, reduction="none"
        )
        assert np.allclose(arm.more.nll, nll, atol=1e-4)


@pytest.mark.parametrize("weights", [None, [0.5, 1.5]])
def test_losses_on_images_that_phi_learned_from_by_halves(weights):
    """Of every other image, views that are best on the rest; copies weigh as they are likely."""
    losses = torch.rand(20, 2, 5, generator=torch.Generator().manual_seed(3)) * 3
    found = nll_on_train(table(losses, weights), [1, 3])
    assert set(found) == {0, 1, 3}
    w = np.ones(2) if weights is None else np.array(weights)
    assert np.allclose(found[0], (losses[:, :, 0].numpy() * w).mean(1), atol=1e-6)
    for k in (1, 3):
        expected = np.empty(20)
        for half in (0, 1):
            others = torch.exp(-losses[1 - half :: 2].flatten(0, 1).double()).numpy()
            chosen: list[int] = []
            for _ in range(k):
                left = [a for a in range(5) if a not in chosen]
                chosen.append(max(left, key=lambda a: (np.tile(w, 10) * np.log(others[:, [*chosen, a]].sum(1))).mean()))
            mine = np.exp(-losses[half::2].numpy())[:, :, chosen].mean(2)
            expected[half::2] = (-np.log(mine) * w).mean(1)
        assert np.allclose(found[k], expected, atol=1e-5)
    assert set(nll_on_train(table(losses[:, :, :2]), [1, 2, 4])) == {0, 1, 2}  # of two candidates no four
    alone = nll_on_train(table(losses[:1]), [1])
    assert np.allclose(alone[0], alone[1])


def test_of_many_images_some_are_searched(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 20)
    assert len(nll_on_train(table(torch.rand(50, 1, 3)), [1])[1]) == 25  # every other one
    assert len(nll_on_train(table(torch.rand(19, 1, 3)), [1])[1]) == 19


def test_beside_a_nuisance_fixed_views_come_from_three_searches():
    """On held-out images by halves; on those that φ learned from, of which the transform's own candidates alone are known, with and without
    the same view again. The lowest loss is shown, and only the second has evidence."""
    scores, log_p, _ = made_up(30, 5)
    train, *_ = made_up(80, 3)
    again = train.search(torch.arange(80), 10)
    policies, _ = scores.searched(in_halves(scores), 10)
    chosen = set()
    for known in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        arms = rivals(scores, log_p, ia.AugmentParams(turn_angle=10.0 * torch.arange(5)), known, train)
        for arm in (arm for arm in arms if arm.name == "best input-free"):
            k = arm.n_views
            sets = [policies[:, :k], torch.tensor(again[:k]).expand(30, -1)]
            sets += [torch.tensor(known[:k]).expand(30, -1)] if k < 4 else []
            losses = [scores.arm("", k, k, scores.average(views)).nll.mean() for views in sets]
            best = int(np.argmin(losses))
            assert arm.nll.mean() == pytest.approx(losses[best]) and (arm.more is not None) == (best == 1)
            chosen.add(best)
    assert chosen == {0, 1, 2}
