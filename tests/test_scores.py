"""Scores of averages of views by losses of one's own, against NumPy and enumeration."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.learning import scores as module
from instaaug_transforms.learning.losses import binary_cross_entropy, cross_entropy, squared_error
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.scores import ClassScores, OutputScores, kept_as, scores_of


def prepared(outputs: torch.Tensor, targets: torch.Tensor | None, **more) -> Prepared:
    """Outputs ``(N, D, V, …)``; those of the images as they were are those of the first view of the first copy."""
    n, draws = outputs.shape[:2]
    rows = {}
    for name, values in (("logits", outputs), ("plain", outputs[:, 0, 0])):
        rows[name] = Rows(None, n, values.shape[1:], torch.float32, n, {})
        rows[name].put(slice(0, n), values)
    return Prepared(LabelledImages(torch.zeros(n, 3, 8, 8), targets), draws, rows, torch.device("cpu"), **more)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 2)], ids=str)
def test_squared_errors_of_averages(shape):
    torch.manual_seed(0)
    outputs, targets = torch.randn(300, 2, 5, *shape), torch.randn(300, *shape)
    scores = OutputScores(prepared(outputs, targets), squared_error)
    views = torch.randint(5, (600, 3))
    flat = outputs.flatten(0, 1).numpy().reshape(600, 5, -1)
    means = np.stack([flat[r, views[r]].mean(0) for r in range(600)])
    errors = ((means - targets.numpy().reshape(300, -1).repeat(2, 0)) ** 2).mean(1)
    averaged = scores.average(views)
    assert averaged.shape == (600, *shape) and scores.average_loss(views) == pytest.approx(errors.mean(), rel=1e-5)
    arm = scores.arm("ours", 3, 3, averaged)
    assert arm.correct is None and np.allclose(arm.nll, errors.reshape(300, 2).mean(1), rtol=1e-4)
    single = ((flat - targets.numpy().reshape(300, 1, -1).repeat(2, 0)) ** 2).mean(2)
    assert np.allclose(scores.losses, single, rtol=1e-4)


def test_several_classes_an_image_by_torch():
    torch.manual_seed(0)
    outputs, targets = torch.randn(40, 1, 3, 5) * 3, torch.randint(2, (40, 5))
    scores = OutputScores(prepared(outputs, targets), binary_cross_entropy)
    p = outputs.squeeze(1).mean(1).sigmoid()
    expected = -torch.where(targets == 1, p, 1 - p).log().mean()
    assert scores.average_loss(torch.arange(3).expand(40, -1)) == pytest.approx(expected.item(), rel=1e-5)


def test_without_targets_it_is_the_models_own_outputs():
    outputs = torch.randn(30, 1, 3, 2)
    scores = OutputScores(prepared(outputs, None), squared_error)
    assert scores.average_loss(torch.zeros(30, 1, dtype=torch.long)) == 0
    assert torch.allclose(scores.losses[:, 1], (outputs[:, 0, 1] - outputs[:, 0, 0]).square().mean(1))
    several = OutputScores(prepared(outputs, None), binary_cross_entropy)
    p = outputs[:, 0, 0].sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean(1)
    assert torch.allclose(several.losses[:, 0], entropy, atol=1e-6)


def test_a_hundredth_of_what_one_answer_for_all_would_cost_is_tolerated_of_own_outputs():
    """Of squared errors that is the variance; where targets are given, nothing is."""
    outputs, targets = torch.randn(30, 1, 3, 2), torch.randn(30, 2)
    scores = OutputScores(prepared(outputs, None), squared_error)
    variance = outputs[:, 0, 0].numpy().var(0).mean()
    assert scores.tolerated == pytest.approx(0.01 * variance, rel=1e-4)
    views = torch.zeros(30, 1, dtype=torch.long)
    assert scores.arm("one view", 1, 1, scores.average(views)).tolerated == scores.tolerated
    assert OutputScores(prepared(outputs, targets), squared_error).tolerated == 0
    assert ClassScores(prepared(outputs, None)).tolerated == 0


def test_a_search_finds_what_enumeration_finds():
    """One view is a little off, two others far off to opposite sides: alone they are worst, together best."""
    torch.manual_seed(0)
    targets = torch.randn(300)
    outputs = targets[:, None, None] + torch.tensor([0.5, 3.0, 0.4, -3.1, 4.0]) + 0.01 * torch.randn(300, 1, 5)
    scores = OutputScores(prepared(outputs, targets), squared_error)
    rows = torch.arange(0, 300, 2)

    def loss(columns):
        return (outputs[rows, 0][:, columns].mean(1) - targets[rows]).square().mean()

    found: list[int] = []
    for k in range(1, 4):
        found.append(min(range(5), key=lambda a: loss([*found, a])))
        assert scores.search(rows, k) == found
    assert scores.search(rows, 1, columns=2) == [0]
    best = min(itertools.combinations(range(5), 2), key=lambda pair: loss(list(pair)))
    assert best == (1, 3)


def test_classes_by_numpy():
    torch.manual_seed(0)
    outputs, targets = torch.randn(50, 1, 4, 3) * 2, torch.randint(3, (50,))
    scores = ClassScores(prepared(outputs, targets))
    p = np.exp(outputs[:, 0].numpy())
    p /= p.sum(-1, keepdims=True)
    views = torch.randint(4, (50, 2))
    mean = np.stack([p[i, views[i]].mean(0) for i in range(50)])
    nll = -np.log(mean[np.arange(50), targets]).mean()
    assert scores.average_loss(views) == pytest.approx(nll, rel=1e-5)
    assert np.allclose(scores.average(views).exp(), mean, atol=1e-6)
    arm = scores.arm("ours", 2, 2, scores.average(views))
    assert (arm.correct == (mean.argmax(1) == targets.numpy())).all()


@pytest.fixture(params=[256, 7])
def in_chunks(request, monkeypatch):
    """All copies at once, and a few at a time."""
    monkeypatch.setattr(module, "CHUNK", request.param)


@pytest.mark.parametrize("kind", ["labels", "soft", "own"])
def test_averages_of_classes_by_numpy(kind, in_chunks):
    """Two copies of each of 15 images, four views of three classes; weighted, and alike."""
    torch.manual_seed(0)
    outputs = 2 * torch.randn(15, 2, 4, 3)
    targets = {"labels": torch.randint(3, (15,)), "soft": torch.rand(15, 3).softmax(1), "own": None}[kind]
    scores = ClassScores(prepared(outputs, targets))
    assert (scores.labelled, scores.n, scores.aggregate, scores.weighs) == (kind != "own", 30, "mean_prob", True)
    p = outputs.double().softmax(-1).flatten(0, 1).numpy()  # (30, 4, 3)
    want = {"labels": lambda: np.eye(3)[targets], "soft": lambda: targets.numpy(), "own": lambda: p[::2, 0]}[
        kind
    ]().repeat(2, 0)
    assert np.allclose(scores.losses, -(want[:, None] * np.log(p)).sum(-1), atol=1e-5)
    views, log_w = torch.randint(4, (30, 2)), torch.randn(30, 2)
    chosen = p[np.arange(30)[:, None], views]
    for weights in (None, log_w):
        w = np.ones((30, 2)) if weights is None else np.exp(weights.double().numpy())
        average = (w[..., None] * chosen).sum(1) / w.sum(1, keepdims=True)
        assert np.allclose(scores.average(views, weights).exp(), average, atol=1e-5)
        nll = -(want * np.log(average)).sum(-1)
        assert scores.average_loss(views, weights) == pytest.approx(nll.mean(), abs=1e-5)
        assert np.allclose(scores.cross_entropy(scores.average(views, weights)), nll, atol=1e-5)
    log_p = scores.log_p(torch.tensor([3, 20]), torch.tensor([[0, 2, 2], [1, 3, 0]]))
    assert np.allclose(log_p.exp(), p[[3, 20]][[[0], [1]], [[0, 2, 2], [1, 3, 0]]], atol=1e-5)
    for columns in (4, 2):
        assert np.array_equal(scores.most_confident(columns)[:, 0], p[:, :columns].max(-1).argmax(1))
    right, losses = scores.score(scores.average(views))
    assert np.array_equal(right, chosen.mean(1).argmax(-1) == want.argmax(-1)) and losses.shape == (30,)
    scaled = torch.from_numpy(np.log(chosen.mean(1))) / scores.temperature(scores.average(views))
    assert np.allclose(losses, -(want * scaled.log_softmax(-1).numpy()).sum(-1), atol=1e-3)


@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
@pytest.mark.parametrize("kind", ["labels", "soft", "own"])
def test_a_copy_that_is_four_times_as_likely_counts_as_four(loss, kind, in_chunks):
    """Of each of 20 images a disturbed copy, and the image as it is, which may be either of two."""
    torch.manual_seed(0)
    outputs = 2 * torch.randn(20, 2, 4, 3)
    targets = {"labels": torch.randint(3, (20,)), "soft": torch.rand(20, 3).softmax(1), "own": None}[kind]
    targets = torch.rand(20, 3) if kind == "labels" and loss is squared_error else targets
    left = (torch.rand(20) < 0.5)[:, None] ^ torch.tensor([False, True])
    five = torch.where(left[:, :1], torch.tensor([0, 1, 1, 1, 1]), torch.tensor([1, 0, 0, 0, 0]))  # once as it is
    weights = torch.where(left, 0.4, 1.6).flatten()
    plain = outputs[:, 0, 0]
    weighted = prepared(outputs, targets, weights=weights, undisturbed=left.flatten())
    repeated = prepared(outputs[torch.arange(20)[:, None], five], targets, undisturbed=left.gather(1, five).flatten())
    repeated.rows["plain"].put(slice(0, 20), plain)
    one, other = scores_of(weighted, loss), scores_of(repeated, loss)
    assert one.search(torch.arange(40), 3) == other.search(torch.arange(100), 3)
    views = torch.randint(4, (20, 2, 2))
    views_of_five = views[torch.arange(20)[:, None], five].flatten(0, 1)
    assert one.average_loss(views.flatten(0, 1)) == pytest.approx(other.average_loss(views_of_five), abs=1e-5)
    arm = one.arm("ours", 2, 2, one.average(views.flatten(0, 1)))
    same = other.arm("ours", 2, 2, other.average(views_of_five))
    for name in ("correct", "nll", "undisturbed", "undisturbed_nll"):
        values, by_repetition = getattr(arm, name), getattr(same, name)
        assert values is by_repetition is None or np.allclose(values, by_repetition, atol=1e-5)


def test_what_undisturbed_copies_say_is_said_image_by_image():
    """Of three copies of each image none, some or all were left alone: 0/0 is not a number."""
    torch.manual_seed(0)
    outputs, targets = 2 * torch.randn(8, 3, 2, 3), torch.randint(3, (8,))
    left = torch.rand(8, 3) < 0.5
    left[0], left[1] = False, True
    scores = ClassScores(prepared(outputs, targets, undisturbed=left.flatten()))
    averaged = scores.average(torch.zeros(24, 1, dtype=torch.long))
    arm = scores.arm("ours", 2, 2.5, averaged, {"n_views": 2})
    p = outputs[:, :, 0].softmax(-1)
    right = p.argmax(-1) == targets[:, None]
    nll = -p.log().gather(2, targets[:, None, None].expand(8, 3, 1))[..., 0]
    expected, as_deployed = np.full(8, np.nan), np.full(8, np.nan)
    for i in range(1, 8):
        if left[i].any():
            expected[i], as_deployed[i] = right[i][left[i]].float().mean(), nll[i][left[i]].mean()
    assert np.allclose(arm.undisturbed, expected, equal_nan=True) and np.isnan(arm.undisturbed[0])
    assert np.allclose(arm.undisturbed_nll, as_deployed, atol=1e-5, equal_nan=True)
    assert np.allclose(arm.correct, right.float().mean(1)) and (arm.name, arm.n_views, arm.cost) == ("ours", 2, 2.5)
    assert arm.setting == {"n_views": 2} and arm.more is None
    plain = ClassScores(prepared(outputs[:, :1], targets)).arm("one view", 1, 1, averaged[::3])
    assert plain.undisturbed is plain.undisturbed_nll is plain.setting is None and plain.correct.dtype == bool


def test_how_probable_the_classifier_finds_other_answers_than_its_own():
    """Of images as they were, two of three copies of each; labels say more, and then it is not asked."""
    torch.manual_seed(0)
    outputs, plain = 2 * torch.randn(8, 3, 2, 3), 2 * torch.randn(8, 3)
    left = torch.tensor([True, False, True]).repeat(8)
    held = prepared(outputs, None, undisturbed=left)
    held.rows["plain"].put(slice(0, 8), plain)
    scores = ClassScores(held)
    arm = scores.arm("ours", 1, 1, scores.average(torch.ones(24, 1, dtype=torch.long)))
    answers, p = outputs[:, ::2, 1].argmax(-1), plain.softmax(-1)
    assert np.allclose(arm.believed, p.gather(1, answers).mean(1), atol=1e-6)
    assert np.allclose(arm.undisturbed, (answers == p.argmax(1, keepdim=True)).float().mean(1))
    labelled = ClassScores(prepared(outputs, torch.zeros(8, dtype=torch.long), undisturbed=left))
    assert labelled.arm("ours", 1, 1, labelled.average(torch.ones(24, 1, dtype=torch.long))).believed is None


def test_each_half_has_what_was_searched_on_the_other(in_chunks):
    """Of 7 images, two copies each: three in the first half. Of one image alone it is its own."""
    torch.manual_seed(0)
    outputs, targets = 2 * torch.randn(7, 2, 5, 3), torch.randint(3, (7,))
    for scores in (
        ClassScores(prepared(outputs, targets)),
        OutputScores(prepared(outputs, torch.rand(7, 3)), squared_error),
    ):
        order = torch.tensor([4, 0, 6, 1, 2, 5, 3])[:, None] * 2 + torch.arange(2)
        views, every = scores.searched(order.flatten(), 3, 4)
        first, second = order[:3].flatten(), order[3:].flatten()
        for half, other in ((first, second), (second, first)):
            assert views[half].tolist() == [scores.search(other, 3, 4)] * len(half)
        assert every == scores.search(torch.arange(14), 3, 4) and max(every) < 4
        assert scores.searched(order.flatten(), 3)[1] == scores.search(torch.arange(14), 3)
    alone = ClassScores(prepared(outputs[:1], targets[:1]))
    views, every = alone.searched(torch.arange(2), 2)
    assert views.tolist() == [every] * 2


@pytest.mark.parametrize("draws", [1, 2])
def test_halves_end_with_a_group(draws):
    """Seven images of three groups, side by side in the order: 1, 3 and 3; halves of 4 and 3 images, not of 3 and 4."""
    torch.manual_seed(3)
    held = prepared(2 * torch.randn(7, draws, 5, 3), torch.randint(3, (7,)))
    held = dataclasses.replace(held, images=held.images.grouped([1, 0, 1, 2, 2, 2, 1]))
    scores = ClassScores(held)
    order = (torch.tensor([1, 2, 0, 6, 3, 4, 5])[:, None] * draws + torch.arange(draws)).flatten()
    views, _ = scores.searched(order, 3)
    first, second = order[: 4 * draws], order[4 * draws :]
    assert scores.search(first, 3) != scores.search(second, 3)
    for half, other in ((first, second), (second, first)):
        assert views[half].tolist() == [scores.search(other, 3)] * len(half)


def test_averages_of_numbers_in_chunks(in_chunks):
    torch.manual_seed(0)
    outputs, targets = torch.randn(20, 1, 4, 2), torch.randn(20, 2)
    scores = OutputScores(prepared(outputs, targets), squared_error)
    views = torch.randint(4, (20, 3))
    by_hand = outputs[torch.arange(20)[:, None], 0, views].mean(1)
    assert torch.allclose(scores.average(views), by_hand, atol=1e-6)
    right, losses = scores.score(by_hand)
    assert right is None and torch.allclose(losses, (by_hand - targets).square().mean(1), atol=1e-6)
    assert torch.allclose(scores.losses, (outputs[:, 0] - targets[:, None]).square().mean(2), atol=1e-6)
    found: list[int] = []
    for _ in range(3):
        found.append(min(range(4), key=lambda a: (outputs[:, 0][:, [*found, a]].mean(1) - targets).square().mean()))
    assert scores.search(torch.arange(20), 3) == found
    assert scores.arm("x", 3, 3, by_hand).undisturbed is None


def test_how_averages_are_judged_and_kept():
    outputs, targets = torch.randn(5, 1, 2, 3), torch.zeros(5, dtype=torch.long)
    classes, numbers = (
        scores_of(prepared(outputs, targets), cross_entropy),
        scores_of(prepared(outputs, torch.rand(5, 3)), squared_error),
    )
    assert type(classes) is ClassScores and type(numbers) is OutputScores
    assert (kept_as(cross_entropy), kept_as(squared_error)) == (torch.float16, torch.float32)
    assert classes.setting(n_views=2) == {"n_views": 2}
    assert numbers.setting(n_views=2) == {"n_views": 2, "aggregate": "mean_logit"} and not numbers.weighs
    assert classes.outputs(torch.tensor([1, 3])).shape == (2, 2, 3)


@pytest.mark.parametrize(("targets", "classes"), [([0, 2, 1, 0, 2, 1], [2, 1, 0]), ([0, 2, 1, 1, 2, 1], None)])
def test_the_class_of_a_group_is_that_of_its_images(targets, classes):
    """In the order of the groups' names, in which their figures come; groups of several classes have none."""
    held = prepared(torch.randn(6, 1, 4, 3), torch.tensor(targets))
    held.images.groups = torch.tensor([7, 3, 5, 7, 3, 5])
    of = ClassScores(held).of_images
    assert (classes is None and of is None) or np.array_equal(of, classes)


def test_how_sure_a_classifier_is_makes_no_difference():
    """Five times as large or as small, logits give the same averages, searched views and losses at the temperature that a view needs; and the
    `TTAModel` of a setting gives them."""
    torch.manual_seed(0)
    outputs, targets = 2 * torch.randn(200, 1, 5, 3), torch.randint(3, (200,))
    outputs[range(200), 0, 0, targets] += 1  # the first view knows something
    first, views, log_w = torch.zeros(200, dtype=torch.long), torch.randint(5, (200, 3)), torch.randn(200, 3)
    found = []
    for times in (0.2, 1.0, 5.0):
        scores = ClassScores(prepared(times * outputs, targets)).calibrated(first)
        at = scores.view_temperature
        assert float(f"{at:.3g}") == at and scores.setting(n_views=3) == {"n_views": 3, "temperature": at}
        assert scores.setting(n_views=1) == {"n_views": 1}
        nll = [
            torch.nn.functional.cross_entropy(times * outputs[:, 0, 0] / t, targets) for t in (0.9 * at, at, 1.1 * at)
        ]
        assert min(nll) == nll[1]
        arm = scores.arm("ours", 3, 3, scores.average(views, log_w))
        found.append((at / times, scores.search(torch.arange(200), 3), arm.nll, arm.correct))
        p = (times * outputs[torch.arange(200)[:, None], 0, views].double() / at).softmax(-1)
        expected = (p * log_w.double().softmax(1)[..., None]).sum(1)
        assert torch.allclose(scores.average(views, log_w).double().exp(), expected, atol=1e-6)
    for other in (found[0], found[2]):
        assert other[0] == pytest.approx(found[1][0], rel=0.01) and other[1] == found[1][1]
        assert np.allclose(other[2], found[1][2], atol=2e-3) and np.array_equal(other[3], found[1][3])


@pytest.mark.parametrize("labelled", [True, False])
def test_a_lower_nll_is_evidence_where_one_views_is_below_that_of_guessing(labelled):
    """Of three classes, half of the answers right: of logits of 0.2 it is, of logits of 20 it is not; a classifier's own answers it always knows."""
    targets = torch.arange(40) % 3
    answers = torch.where(torch.arange(40) % 2 == 0, targets, (targets + 1) % 3)
    one_hot = torch.nn.functional.one_hot(answers, 3).float()[:, None, None]
    for logit, tells in ((0.2, True), (20.0, not labelled)):
        scores = ClassScores(prepared(logit * one_hot, targets if labelled else None))
        assert scores.nll_tells == tells
        assert scores.arm("x", 1, 1, scores.average(torch.zeros(40, 1, dtype=torch.long))).nll_tells == tells
    assert OutputScores(prepared(one_hot, torch.rand(40, 3)), squared_error).nll_tells


def test_what_is_averaged_as_it_is():
    """A classifier's own answers as the target, and numbers; and no logit is lost where labels are chance."""
    torch.manual_seed(0)
    outputs, first = torch.randn(50, 1, 4, 3), torch.zeros(50, dtype=torch.long)
    assert ClassScores(prepared(9 * outputs, None)).calibrated(first).view_temperature == 1
    numbers = OutputScores(prepared(outputs, torch.randn(50, 3)), squared_error)
    assert numbers.calibrated(first) is numbers and numbers.at(3.0) is numbers
    wrong = ClassScores(prepared(outputs, outputs[:, 0, 0].argmin(1))).calibrated(first)
    assert wrong.view_temperature == 100
    assert ClassScores(prepared(outputs, outputs[:, 0, 0].argmax(1))).calibrated(first).view_temperature == 0.25
    alone = wrong.average(first[:, None])
    assert torch.equal(alone.argmax(1), outputs[:, 0, 0].argmax(1))
