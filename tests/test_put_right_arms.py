"""Arms of fixed views of what φ has put right: against ``rot90``, ``flip``, torchvision's resize and means by hand."""

import dataclasses

import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.nuisance import Nuisance
from instaaug_transforms.learning import put_right_arms
from instaaug_transforms.learning.arms import in_halves
from instaaug_transforms.learning.cross_fit import Said
from instaaug_transforms.learning.losses import cross_entropy, own_answers, squared_error
from instaaug_transforms.learning.our_arms import likeliest_views, ours
from instaaug_transforms.learning.prepared import prepare
from instaaug_transforms.learning.put_right_arms import views_put_right
from instaaug_transforms.learning.recommendation import comes_into_question
from instaaug_transforms.learning.scores import scores_of
from instaaug_transforms.learning.task import Task

from .test_put_right import Asymmetric, fixed_views, held_out, turned


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


M = 24  # images that φ learned from


def elsewhere(probability, labels=True, groups=None):
    """Held-out copies, and images that φ learned from, turned or not; what looks at both."""
    model = Asymmetric()
    data, _, put_right = held_out(model, cross_entropy)
    generator = torch.Generator().manual_seed(3)
    pictures = torch.rand(M, 3, 40, 40, generator=generator)
    pictures *= torch.linspace(0, 1, 40)[None, None, None]
    targets = torch.randint(3, (M,), generator=generator)
    nuisance = Nuisance("turn", probability, 1) if probability else None
    own = None if labels else own_answers(cross_entropy)
    task = Task(put_right.task.aug, model, cross_entropy, ia.FitConfig(nuisance_draws=2, progress=False), nuisance, own)
    images = LabelledImages(pictures, targets if labels else None).grouped(groups)
    candidates = put_right.candidates if nuisance is None else task.aug.families[0].candidates()
    train = prepare(task, images, "table", candidates, logits=torch.float16)
    log_p = [torch.randn(len(each), 4, generator=generator).log_softmax(1) for each in (data, train)]
    known = [Said(scores_of(each, cross_entropy), p) for each, p in zip((data, train), log_p, strict=True)]
    return model, known, put_right, pictures, targets


def average(model, pictures, log_p, m, policy):
    """Mean probability by hand, of candidates as likely as φ finds them, zoomed by torchvision."""
    p, turns = log_p.exp().topk(m, 1)
    total = 0
    for weight, chosen in zip((p / p.sum(1, keepdim=True)).T, turns.T, strict=True):
        views = fixed_views(turned(pictures, chosen))
        column = {(1.0, 0.0): 0, (0.8, 0.0): 2, (1.0, 1.0): 4, (0.8, 1.0): 6}
        for side, flip in zip(policy["w"], policy["flip"], strict=True):
            total = total + weight[:, None] * model(views[column[round(side, 2), flip]]).softmax(1)
    return total / len(policy["w"])


def only_half_of_the_zooms(monkeypatch):
    """Those that `fixed_views` makes by hand: searches find no others."""
    columns = [0, 2, 4, 6, 2, 0, 6, 4, 4, 0]
    search = lambda self, order, most: (torch.tensor(columns[:most]).expand(self.n, -1), columns[:most])  # noqa: E731
    monkeypatch.setattr("instaaug_transforms.learning.scores.Scores.searched", search)


@pytest.mark.parametrize("m", [1, 2])
def test_without_a_nuisance_the_same_views_are_looked_at_elsewhere(m, monkeypatch):
    only_half_of_the_zooms(monkeypatch)
    with torch.no_grad():
        model, known, put_right, pictures, targets = elsewhere(0.0)
        found = [arm for _, arm in views_put_right(known, False, put_right) if arm.setting["put_right"] == m]
        by_hand = [average(model, pictures, known[1].log_p, m, arm.setting["policy"]) for arm in found]
    for arm, p in zip(found, by_hand, strict=True):
        assert arm.more.setting == arm.setting and not arm.phi_alone and arm.more.undisturbed is None
        sure = (p.topk(2, 1).values.diff(dim=1).abs() > 0.01)[:, 0].numpy()
        assert sure.sum() > M / 2
        assert np.array_equal(arm.more.correct[sure], (p.argmax(1) == targets).numpy()[sure])
        assert len(arm.with_more().nll) == len(arm.nll) + M


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("most", [500, 7])
def test_beside_a_nuisance_what_they_cost_is_looked_at_elsewhere(labels, most, monkeypatch):
    """On images as they were; whether an image is right more often is told by φ's own candidates, of all copies."""
    only_half_of_the_zooms(monkeypatch)
    monkeypatch.setattr(put_right_arms, "MOST_LEFT_ALONE", most)
    with torch.no_grad():
        model, known, put_right, pictures, targets = elsewhere(0.5, labels)
        answers = model(pictures).softmax(1)
        targets = targets if labels else answers.argmax(1)
        found = [arm for _, arm in views_put_right(known, False, put_right)]
        scores, log_p = known[1].scores, known[1].log_p
        as_they_were = log_p[scores.held.undisturbed]  # one of the four copies of each, in their order
        assert len(as_they_were) == M
        by_hand = [average(model, pictures, as_they_were, a.setting["put_right"], a.setting["policy"]) for a in found]
        for arm, p in zip(found, by_hand, strict=True):
            m = arm.setting["put_right"]
            log_w, views = log_p.topk(m, 1)
            alone = scores.arm("", m, m, scores.average(views, log_w if m > 1 else None))
            assert arm.phi_alone and np.array_equal(arm.more.correct, alone.correct)
            assert np.array_equal(arm.more.nll, alone.nll)
            known_ones = np.isfinite(arm.more.undisturbed)
            assert known_ones.sum() == min(most, M) and np.array_equal(
                known_ones, np.isfinite(arm.more.undisturbed_nll)
            )
            sure = known_ones & (p.topk(2, 1).values.diff(dim=1).abs() > 0.01)[:, 0].numpy()
            assert np.array_equal(arm.more.undisturbed[sure], (p.argmax(1) == targets).float().numpy()[sure])
            if labels:
                assert arm.more.believed is None
            else:
                believed = answers.gather(1, p.argmax(1, keepdim=True))[:, 0].numpy()
                assert np.allclose(arm.more.believed[sure], believed[sure], atol=1e-3)
    assert any(
        not np.array_equal(arm.more.undisturbed[known_ones], found[0].more.undisturbed[known_ones]) for arm in found
    )


def test_images_of_a_group_are_one_witness_of_what_they_cost(monkeypatch):
    only_half_of_the_zooms(monkeypatch)
    groups = [i // 4 for i in range(M)]
    with torch.no_grad():
        _, known, put_right, *_ = elsewhere(0.5)
        alone = [arm.more.undisturbed for _, arm in views_put_right(known, False, put_right)]
        _, known, put_right, *_ = elsewhere(0.5, groups=groups)
        grouped = [arm.more.undisturbed for _, arm in views_put_right(known, False, put_right)]
    for one, of_groups in zip(alone, grouped, strict=True):
        assert np.allclose(of_groups, one.reshape(-1, 4).mean(1))


def test_where_all_are_disturbed_phi_alone_is_known_elsewhere():
    with torch.no_grad():
        model, known, put_right, *_ = elsewhere(1.0)
        put_right.look(known[0].scores.held, known[0].log_p, 2)  # held-out copies
        before = model.looked
        put_right.look(known[0].scores.held, known[0].log_p, 2)
        once = model.looked - before
        found = views_put_right(known, False, put_right)
        assert model.looked == before + 2 * once  # nothing but these again
    assert all(arm.phi_alone and arm.more.undisturbed is None for _, arm in found)


def test_a_zoom_that_costs_images_elsewhere_is_not_recommended():
    """Of 60 held-out images none is lost, of 400 others one in twelve."""
    n, m = 60, 400
    half = np.arange(n) % 2 == 0
    more = ia.learning.report.HeldOutArm("", 1, 1, np.zeros(m), np.ones(m), undisturbed=np.ones(m))
    single = ia.learning.report.HeldOutArm("one view", 1, 1, half, np.ones(n), {}, more, undisturbed=np.ones(n))
    right = dataclasses.replace(more, correct=np.ones(m), nll=np.zeros(m))
    pays = dataclasses.replace(right, undisturbed=(np.arange(m) % 12 != 0).astype(float))
    setting = {"n_views": 1, "put_right": 1, "policy": {"w": [0.7], "h": [0.7]}}
    for evidence, eligible in ((right, True), (pays, False)):
        arm = dataclasses.replace(
            single, name="ours", correct=np.ones(n), nll=np.zeros(n), setting=setting, more=evidence
        )
        assert comes_into_question(arm, single, None, False) == eligible
