"""What held-out images choose of φ: its strength, its caution, the order of fixed views; by enumeration."""

import dataclasses

import numpy as np
import pytest
import torch

from instaaug_transforms.learning.cross_fit import RawSaid, Said, raw_outputs
from instaaug_transforms.learning.harmless import average_loss, policy_order
from instaaug_transforms.learning.losses import cross_entropy
from instaaug_transforms.learning.our_arms import choices
from instaaug_transforms.learning.scores import scores_of
from instaaug_transforms.learning.strength import leave_alone, mean_loss, shrink
from instaaug_transforms.tta.calibration import best_temperature

from .conftest import make_lively
from .test_learning_arms import made_up, table
from .test_put_right import held_out


def test_the_order_of_fixed_views():
    """By what each adds to the average of those before it, or, of other losses, by their means; likelier copies count more."""
    losses = 3 * torch.rand(50, 1, 12, generator=torch.Generator().manual_seed(1))
    likelihood, chosen = np.exp(-losses[:, 0].double().numpy()), []
    for _ in range(10):
        left = [a for a in range(12) if a not in chosen]
        chosen.append(max(left, key=lambda a: np.log(likelihood[:, [*chosen, a]].sum(1)).mean()))
    assert policy_order(table(losses)) == chosen
    assert policy_order(table(losses), likelihoods=False) == losses[:, 0].mean(0).argsort()[:10].tolist()
    assert len(policy_order(table(losses[:, :, :3]))) == 3
    two = torch.stack([torch.tensor([0.0, 2.0]), torch.tensor([2.0, 0.0])]).expand(400, 2, 2).clone()
    for weights, first in (([1.8, 0.2], 0), ([0.2, 1.8], 1)):
        assert policy_order(table(two, weights))[0] == first


@pytest.mark.parametrize("most", [20_000, 50, 25])
def test_of_many_images_all_copies_are_searched(monkeypatch, most):
    """Four turns of every image, each best through another view, and one view nearly as good for all: that comes first, of all images as of some."""
    monkeypatch.setattr("instaaug_transforms.learning.harmless.MOST_ROWS", most)
    turns = 4 * (1 - torch.eye(4))
    losses = torch.cat([turns, torch.full((4, 1), 0.5)], 1).expand(25, 4, 5).clone()
    assert policy_order(table(losses))[0] == 4
    assert policy_order(table(losses), likelihoods=False)[0] == 4


def test_a_fit_is_judged_by_its_best_ways_or_by_its_single_views():
    torch.set_num_threads(1)
    with torch.no_grad():
        known, copies, _ = held_out(
            torch.nn.Sequential(torch.nn.AvgPool2d(20), torch.nn.Flatten(), torch.nn.Linear(12, 3)), cross_entropy
        )
        aug = make_lively(["turn"])
        log_p = aug.distribution(copies).parts["turn"].categorical.logits
        logits = known.take("logits", torch.arange(30)).float()
        likeliest = logits[torch.arange(30), log_p.argmax(1)].log_softmax(1)
        at = best_temperature(likeliest, known.images.targets.repeat_interleave(known.draws))
        scores, order = scores_of(known, cross_entropy).at(at), [1, 0, 2]
        ways = [choices(log_p, k, order, scores) for k in (1, 2, 4)]
        expected = np.mean([min(scores.average_loss(way.views, way.weights) for way in some) for some in ways])
        assert average_loss(aug, known, order, scores) == pytest.approx(expected, abs=2e-3)  # copies are kept as bytes
        losses = torch.cat([known.losses(torch.tensor([r])) for r in range(30)])[:, :4]
        single = -torch.log((log_p.exp() * torch.exp(-losses)).sum(1)).mean()
        assert average_loss(aug, known, order, None) == pytest.approx(single.item(), abs=2e-3)


def test_phi_is_shrunk_as_far_as_averages_gain_by_it():
    """Of five strengths the one with the lowest loss; what φ then says is so far from its mean."""
    torch.set_num_threads(1)
    chosen = set()
    with torch.no_grad():
        model = torch.nn.Sequential(torch.nn.AvgPool2d(20), torch.nn.Flatten(), torch.nn.Linear(12, 3))
        known, copies, _ = held_out(model, cross_entropy)
        scores, order = scores_of(known, cross_entropy), [1, 0, 2]
        for seed in range(4):
            aug = make_lively(["turn"])
            torch.manual_seed(seed)
            aug.predictor.heads["turn"].out.weight.normal_(0, 0.5)
            before = aug.predictor.decode(*known.seen(torch.arange(30)))["turn"]
            mean = before.mean(0)
            losses = {
                s: mean_loss([Said(scores, (mean + s * (before - mean)).log_softmax(1))], order)
                for s in (0, 0.25, 0.5, 0.75, 1)
            }
            strength = shrink(aug, [RawSaid(scores, raw_outputs(aug, known))], order)
            assert losses[strength] == pytest.approx(min(losses.values()), abs=1e-5)
            assert torch.allclose(aug.predictor(copies)["turn"], mean + strength * (before - mean), atol=5e-2)
            chosen.add(strength)
    assert len(chosen) > 1


@pytest.mark.parametrize("grouped", [False, True])
def test_phi_is_as_cautious_as_held_out_images_allow(grouped):
    """The largest of five shifts whose likeliest views lose no more, against the best, than two standard errors; where images that nothing
    disturbed pay for φ as it is, the first at which they do not."""
    torch.set_num_threads(1)
    chosen = set()
    with torch.no_grad():
        model = torch.nn.Sequential(torch.nn.AvgPool2d(20), torch.nn.Flatten(), torch.nn.Linear(12, 3))
        known, copies, _ = held_out(model, cross_entropy)
        draws = known.draws
        of = np.arange(10) // 3 if grouped else np.arange(10)  # whose copies follow each other
        images = known.images.grouped(of.tolist()) if grouped else known.images
        known = dataclasses.replace(known, images=images, undisturbed=torch.arange(30) % 2 == 0)
        scores = scores_of(known, cross_entropy)
        for seed in range(10):
            aug = make_lively(["turn"])
            torch.manual_seed(seed)
            aug.predictor.heads["turn"].out.weight.normal_(0, 0.25)
            before = aug.predictor.decode(*known.seen(torch.arange(30)))["turn"]
            scores.losses = torch.rand(30, 4) + seed * torch.eye(4)[0] / 2  # some images are better off turned
            losses, found = scores.losses.double().numpy(), {}
            for by in (0.0, 0.5, 1.0, 1.5, 2.0):
                moved = before.double().numpy() + by * np.eye(4)[0]
                counts = np.where(np.arange(30) % 2 == 0, 3, 1)  # three times where nothing disturbed a copy
                copies_lose = (counts * losses[np.arange(30), moved.argmax(1)]).reshape(10, draws).mean(1)
                found[by] = np.array([copies_lose[of == group].mean() for group in np.unique(of)])
            best = found[min(found, key=lambda by: found[by].mean())]
            worse = {
                by: (loss - best).mean() - 2 * (loss - best).std() / len(loss) ** 0.5 for by, loss in found.items()
            }
            expected = max(by for by in worse if by == 0 or worse[by] <= 0)
            answers = known.rows["logits"][torch.arange(10)].flatten(0, 1).argmax(-1).numpy()
            right = answers == np.repeat(known.images.targets.numpy(), draws)[:, None]

            def costs(by, before=before, right=right):
                moved = before.double().numpy() + by * np.eye(4)[0]
                less = right[:, 0] * 1.0 - right[np.arange(30), moved.argmax(1)]
                less = [np.mean([less[r] for r in range(draws * i, draws * (i + 1)) if r % 2 == 0]) for i in range(10)]
                less = np.array([np.array(less)[of == group].mean() for group in np.unique(of)])
                mean, error = less.mean(), less.std() / len(less) ** 0.5
                return mean > 2 * error or (mean > error and mean > 0.03)

            if costs(0.0):
                tried = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
                expected = next((by for by in tried if not costs(by)), 0.0)
            assert leave_alone(aug, [RawSaid(scores, raw_outputs(aug, known))]) == expected
            shift = expected * torch.eye(4)[0]
            assert torch.allclose(aug.predictor(copies)["turn"], before + shift, atol=5e-2)
            chosen.add(expected)
            unknown = scores_of(dataclasses.replace(known, undisturbed=None), cross_entropy)
            assert leave_alone(aug, [RawSaid(unknown, raw_outputs(aug, known))]) == 0.0
    assert len(chosen) > 1


class Own(torch.nn.Module):
    """A predictor without heads, or with one that cannot be shrunk."""

    def __init__(self, heads):
        super().__init__()
        if heads:
            self.heads = torch.nn.ModuleDict({"turn": torch.nn.Flatten()})


@pytest.mark.parametrize("heads", [False, True])
def test_a_predictor_of_ones_own_is_left_as_it_is(heads):
    class Transform:
        predictor = Own(heads)

    assert shrink(Transform(), [], []) == 1.0
    known = scores_of(dataclasses.replace(made_up()[0].held, undisturbed=torch.ones(24)), cross_entropy)
    assert leave_alone(Transform(), [RawSaid(known, {})]) == 0.0
