"""Arms of a held-out report, on outputs that are made up: which views, at what cost, as which arguments of `TTAModel`."""

import dataclasses

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning import arms as module
from instaaug_transforms.learning.arms import in_halves, nll_on_train, numbers_of_views, rivals
from instaaug_transforms.learning.losses import cross_entropy, squared_error
from instaaug_transforms.learning.our_arms import Said, Way, choices, likeliest_views, ours, views_put_right
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.put_right import PutRight
from instaaug_transforms.learning.scores import ClassScores, OutputScores, scores_of

from .test_put_right import held_out


def held(outputs, targets, draws=1, **more):
    """Outputs ``(N·D, V, …)`` of copies; those of the images as they were are zero."""
    n = len(outputs) // draws
    rows = {}
    for name, values in (("logits", outputs.unflatten(0, (n, draws))), ("plain", torch.zeros(n, *outputs.shape[2:]))):
        rows[name] = Rows(None, n, values.shape[1:], torch.float32, n, {})
        rows[name].put(slice(0, n), values)
    return Prepared(LabelledImages(torch.zeros(n, 3, 4, 4), targets), draws, rows, torch.device("cpu"), **more)


def table(losses, weights=None):
    """Losses ``(N, D, A)``."""
    n, draws, columns = losses.shape
    rows = {"losses": Rows(None, n, (draws, columns), torch.float32, n, {})}
    rows["losses"].put(slice(0, n), losses)
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


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("weighs", [True, False])
def test_ways_of_choosing_are_the_likeliest_with_and_without_the_image_and_tilted_ones(k, weighs):
    scores, log_p, _ = made_up()
    if not weighs:
        scores = OutputScores(scores.held, squared_error)
    log_p[3, 2] = -50.0  # counts as −20 in a mean
    p, order = log_p.numpy(), [4, 0]
    place = np.array([1, 2, 2, 2, 0])
    mean = np.maximum(p, -20).mean(0)
    expected = [(np.argsort(-p, 1)[:, :k], {"include_identity": False})]
    if k > 1:
        others = [[a for a in row if a] for row in np.argsort(-p, 1)]
        expected.append((np.array([[0, *row[: k - 1]] for row in others]), {"include_identity": True}))
    for tilt in (0.1, 0.5, 2.0, 8.0, 30.0):
        offsets = -mean - tilt * place
        setting = {"include_identity": False, "view_offsets": pytest.approx(offsets, abs=6e-5)}
        expected.append((np.argsort(-(p + offsets), 1)[:, :k], setting))
    ways = choices(log_p, k, order, scores)
    both = [(False, *one) for one in expected] + ([(True, *one) for one in expected] if weighs and k > 1 else [])
    assert len(ways) == len(both)
    for way, (weighted, views, setting) in zip(ways, both, strict=True):
        assert np.array_equal(way.views, views)
        how = "probability" if weighted else "mean_prob" if weighs else "mean_logit"
        assert way.setting == {"n_views": k, "aggregate": how, **setting}
        assert (way.weights is None) == (not weighted)
        assert not weighted or np.array_equal(way.weights, np.take_along_axis(p, views, 1))
        assert all(round(o, 4) == o for o in way.setting.get("view_offsets", []))


@pytest.mark.parametrize("k", [1, 2])
def test_offsets_must_be_certainly_better_beside_images_that_nothing_disturbed(k):
    """Of ways with equal weights, and of those with φ's, that cost such images nothing for certain, the first that is not worse than the best
    by two standard errors."""
    differs = dear = 0
    for columns in (3, 4, 5):
        scores, log_p, _ = made_up(n=40, columns=columns, undisturbed=torch.arange(40) % 2 == 0)
        ways, order = choices(log_p, k, [columns - 1, 0], scores), [columns - 1, 0]
        made = []
        for weighted in (False, True):
            some = [way for way in ways if (way.weights is not None) == weighted]
            answers = [scores.average(way.views, way.weights).argmax(1) == scores.right for way in some]
            plain = scores.average(torch.zeros(40, 1, dtype=torch.long)).argmax(1) == scores.right
            lost = [(plain.double() - right.double())[::2].numpy() for right in answers]
            allowed = [not (d.mean() > 2 * d.std() / 20**0.5 or d.mean() > max(d.std() / 20**0.5, 0.03)) for d in lost]
            dear += not all(allowed)
            some = [way for way, each in zip(some, allowed, strict=True) if each] or some
            losses = [scores.average_loss(way.views, way.weights) for way in some]
            nll = [scores.arm("", 0, 0, scores.average(way.views, way.weights)).nll for way in some]
            for way, its in zip(some, nll, strict=True):
                d = its.astype(float) - nll[int(np.argmin(losses))]
                if d.mean() <= 2 * d.std() / 40**0.5:
                    made.append((its.mean(), way.setting))
                    differs += way is some[0] and np.argmin(losses) > 0
                    break
        chosen = likeliest_views([Said(scores, log_p)], k, False, order)
        assert chosen.setting == min(made, key=lambda one: one[0])[1]
    assert differs and dear


@pytest.mark.parametrize(("look", "answered"), [(False, False), (True, False), (True, True)])
def test_the_best_way_is_chosen_and_costs_what_a_deployed_model_costs(look, answered):
    """A look at features is a forward, which answers for views that are the image itself."""
    scores, log_p, p = made_up(answered=answered)
    order, targets = [4, 0], scores.held.images.targets
    arm = likeliest_views([Said(scores, log_p)], 2, look, order)

    def nll(way):
        w = np.ones((24, 2)) if way.weights is None else np.exp(way.weights.double().numpy())
        average = (w[..., None] * p[torch.arange(24)[:, None], way.views].numpy()).sum(1) / w.sum(1, keepdims=True)
        return -np.log(average[np.arange(24), targets]).mean()

    ways = choices(log_p, 2, order, scores)
    best = [min(filter(kind, ways), key=nll) for kind in (lambda w: w.weights is None, lambda w: w.weights is not None)]
    made = [scores.arm("ours", 2, 0, scores.average(way.views, way.weights), way.setting) for way in best]
    chosen = min(range(2), key=lambda i: made[i].nll.mean())
    assert (arm.name, arm.n_views, arm.setting) == ("ours", 2, best[chosen].setting)
    assert np.allclose(arm.nll, made[chosen].nll)
    itself = float((best[chosen].views == 0).double().sum(1).mean())
    assert arm.cost == pytest.approx(2 + look - answered * itself)


def test_ours_is_an_arm_for_each_number_of_views():
    scores, log_p, _ = made_up()
    found = ours([Said(scores, log_p)], False, [0, 1])
    assert [(arm.name, arm.n_views) for arm in found] == [("ours", 1), ("ours", 2), ("ours", 4)]
    for arm in found:
        assert np.array_equal(arm.nll, likeliest_views([Said(scores, log_p)], arm.n_views, False, [0, 1]).nll)


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


def test_ways_and_what_puts_right_are_not_changed():
    for made, name in ((Way(None, None, {}), "views"), (PutRight(None, None, None), "task")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, 3)


@pytest.mark.parametrize(("look", "answered"), [(False, False), (True, True)])
def test_fixed_views_of_what_is_put_right_are_arms_of_their_own(look, answered):
    """Of φ's likeliest candidate and of the two likeliest: searched as fixed views are, and spared where they are the image itself."""
    torch.set_num_threads(1)
    with torch.no_grad():
        model = torch.nn.Sequential(torch.nn.AvgPool2d(20), torch.nn.Flatten(), torch.nn.Linear(12, 3))
        known, _, put_right = held_out(model, cross_entropy)
        scores = scores_of(dataclasses.replace(known, answered=answered), cross_entropy)
        log_p = torch.randn(30, 4, generator=torch.Generator().manual_seed(2)).log_softmax(1)
        found = views_put_right([Said(scores, log_p)], look, put_right)
        seen = put_right.look(known, log_p, 2)
    assert [(arm.name, k, arm.setting["put_right"]) for k, arm in found] == [
        ("ours", k, m) for m in (1, 2) for k in (1, 2, 4, 10) if k % m == 0
    ]
    fixed, ranked = put_right.fixed, log_p.argsort(1, descending=True)
    for k, arm in found:
        m = arm.setting["put_right"]
        of = seen[m - 1][0]
        policies, everywhere = of.searched(in_halves(scores), 10 // m)
        views = everywhere[: k // m]
        # Shown once in every so many views, as all are: the same average of fewer.
        fewer = next(n for n in range(1, k // m + 1) if all(views.count(a) * n % (k // m) == 0 for a in views))
        once = sorted(sorted(views)[:: k // m // fewer])
        policy = arm.setting["policy"]
        for name, field in fixed.items():
            assert sorted(policy[name]) == sorted(field[a].item() for a in once)
        assert arm.n_views == fewer * m
        assert arm.setting == {"n_views": fewer * m, "policy": policy, "put_right": m} | (
            {"aggregate": "probability"} if m == 2 else {}
        )
        plain = (ranked[:, :m] == 0).sum(1).double().mean().item() * once.count(0)  # left as it is, and shown whole
        assert arm.cost == pytest.approx(fewer * m + look - answered * plain)
        assert np.allclose(arm.nll, scores.arm("x", k, 0, of.average(policies[:, : k // m])).nll)
    every = ours([Said(scores, log_p)], look, [0, 1], put_right)
    best = []
    for k in (1, 2, 4, 10):  # of all ways at each number of views the best
        rest = [] if k > 4 else [likeliest_views([Said(scores, log_p)], k, look, [0, 1])]
        rest += [one for of, one in found if of == k]
        best.append(min(rest, key=lambda one: one.nll.mean()))
    same = lambda a, b: a.setting == b.setting or a.nll.tolist() == b.nll.tolist()  # noqa: E731
    once = [arm for i, arm in enumerate(best) if not any(same(arm, other) for other in best[:i])]
    assert [(arm.setting, arm.nll.mean()) for arm in every] == [(a.setting, pytest.approx(a.nll.mean())) for a in once]


def test_outputs_that_are_averaged_as_they_are_put_one_candidate_right():
    """As numbers they cannot be weighted by φ."""
    torch.set_num_threads(1)
    with torch.no_grad():
        model = torch.nn.Sequential(torch.nn.AvgPool2d(20), torch.nn.Flatten(), torch.nn.Linear(12, 3))
        known, _, put_right = held_out(model, squared_error)
        log_p = torch.randn(30, 4).log_softmax(1)
        found = views_put_right([Said(scores_of(known, squared_error), log_p)], False, put_right)
    assert [(k, arm.setting["put_right"], arm.setting["aggregate"]) for k, arm in found] == [
        (k, 1, "mean_logit") for k in (1, 2, 4, 10)
    ]


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
