"""What a fit reports and recommends: what the deployed model does, and never what chance alone made look better."""

import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.augment_distribution import AugmentDistribution
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.learning import strength
from instaaug_transforms.learning.arms import nll_on_train, rivals
from instaaug_transforms.learning.cross_fit import Said
from instaaug_transforms.learning.harmless import policy_order
from instaaug_transforms.learning.our_arms import choices, likeliest_views
from instaaug_transforms.learning.prepared import Prepared
from instaaug_transforms.learning.scores import ClassScores


class Corners(nn.Module):
    """Four classes by the brightest quarter; no turn takes every quarter to its mirror image."""

    def forward(self, x):
        return 4 * nn.functional.adaptive_avg_pool2d(x.mean(1), 2).flatten(1)


def corners(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and labels that `Corners` gives to their mirror images."""
    corner = torch.arange(n) % 4
    bright = nn.functional.one_hot(corner, 4).reshape(-1, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.rand(n, 3, 16, 16) * 0.2 + 0.8 * bright, corner + 1 - 2 * (corner % 2)


class Reader(nn.Module):
    """Three classes by the brightness of left, top and blue: turns and lights change its answer."""

    def forward(self, x):
        return 6 * torch.stack([x[:, :, :, :8].mean((1, 2, 3)), x[:, :, :8].mean((1, 2, 3)), x[:, 2].mean((1, 2))], 1)


def pictures(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 16, 16, generator=generator) * torch.rand(n, 3, 1, 1, generator=generator)
    turned = torch.stack([image.rot90(int(k), (-2, -1)) for image, k in zip(images, torch.arange(n) % 4, strict=True)])
    return turned, Reader()(images).argmax(1)


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    aug = ia.LearnedAugment(["turn", "light"], predictor=ia.ConvPredictor(64))
    config = ia.FitConfig(max_steps=20, batch_size=32, lr=1e-2, progress=False)
    held = pictures(60, 1)
    return aug, ia.fit(aug, Reader(), pictures(128, 0), held, config=config, workdir=None), held


def test_a_deployed_model_answers_as_the_report_says(fitted):
    aug, result, (images, labels) = fitted
    arms = [arm for arm in result.report.arms if arm.setting is not None]
    assert {arm.name for arm in arms} >= {"one view", "best input-free", "ours"}
    for arm in arms:
        if (
            arm.name == "best input-free" or "put_right" in arm.setting
        ):  # scored by halves, each with what the other half chose
            continue
        model = ia.TTAModel(Reader(), aug, **arm.setting)
        correct = (model(images).argmax(1) == labels).numpy()
        assert (correct == arm.correct).mean() > 0.98, (arm.name, arm.n_views)  # ties may fall either way


def test_zooms_and_mirror_images_are_scored_as_they_are_deployed():
    """The transform turns and no more, the classifier wants mirror images: the report must see what they give."""
    torch.set_num_threads(1)
    images, labels = corners(80)
    aug = ia.LearnedAugment(["turn"])
    config = ia.FitConfig(max_steps=5, held_out=0.5, progress=False)
    recommended = ia.fit(aug, Corners(), (images, labels), config=config).report.recommended
    assert (recommended.name, recommended.n_views) == ("best input-free", 1) and recommended.correct.all()
    model = ia.TTAModel.recommended(Corners(), aug)
    torch.testing.assert_close(model(images).softmax(1), Corners()(images.flip(-1)).softmax(1))


@pytest.mark.parametrize("n", [1, 9, 10])
def test_a_handful_of_images_recommends_nothing(n):
    """Mirror images are right every time and plain ones never; with one image every such difference is a certainty."""
    torch.set_num_threads(1)
    aug, config = ia.LearnedAugment(["turn"]), ia.FitConfig(max_steps=1, progress=False)
    report = ia.fit(aug, Corners(), corners(20), corners(n), config=config).report
    few = n < 10
    assert (report.recommended.name, aug.recommended["recommended"]["arm"]) == (
        ("one view",) * 2 if few else ("best input-free",) * 2
    )
    assert (f"only {n} held-out images: too few to tell" in str(report)) == few


@pytest.mark.parametrize("most", [2000, 39])
def test_few_labelled_images_that_phi_learned_from_tell_of_fixed_views(most, monkeypatch):
    """Every turn, zoom and mirror image of them is looked at; beside a nuisance turns alone; without labels, or of more images, their losses."""
    monkeypatch.setattr(sys.modules["instaaug_transforms.learning.fit"], "FEW", most)
    torch.set_num_threads(1)
    images, labels = corners(40)
    labels[:10] = (labels[:10] + 1) % 4
    model, config = Corners(), ia.FitConfig(max_steps=1, progress=False)
    report = ia.fit(ia.LearnedAugment(["turn"]), model, (images, labels), corners(30), config).report
    by = {(arm.name, arm.n_views): arm for arm in report.arms}
    if most == 39:
        assert all(arm.more is None or arm.more.correct is None for arm in report.arms)
        return
    assert torch.equal(torch.from_numpy(by["one view", 1].more.correct), model(images).argmax(1) == labels)
    mirrored = by["best input-free", 1]
    assert mirrored.setting["policy"]["flip"] == [1.0]
    assert torch.equal(torch.from_numpy(mirrored.more.correct), model(images.flip(-1)).argmax(1) == labels)
    report = ia.fit(ia.LearnedAugment(["turn"]), model, (images, labels), corners(30), config, labels=False).report
    assert all(arm.more is None for arm in report.arms)
    fixed = {"nuisance": nn.Identity(), "labels": True}
    report = ia.fit(ia.LearnedAugment(["turn"]), model, (images, labels), corners(30), config, **fixed).report
    ours = [arm for arm in report.arms if arm.name in ("one view", "ours")]
    assert len(ours) > 1 and all(len(arm.more.nll) == len(arm.more.undisturbed) == 40 for arm in ours)
    assert np.array_equal(ours[0].more.correct, model(images).argmax(1) == labels)


def test_copies_of_an_image_are_one_witness():
    """A nuisance that does nothing makes six equal copies: intervals, and what is recommended, are those of one."""
    torch.set_num_threads(1)
    images, labels = corners(40)
    labels[::3] = 0
    found = []
    for draws in (1, 6):
        config = ia.FitConfig(max_steps=1, nuisance_draws=draws, nuisance_probability=1, progress=False)
        aug = ia.LearnedAugment(["turn"])
        report = ia.fit(aug, Corners(), (images, labels), (images, labels), config, nuisance=nn.Identity()).report
        found.append([row for row in report.rows() if row["arm"] != "ours" and "shuffled" not in row["arm"]])
        assert all(arm.correct.shape == (40,) for arm in report.arms)
    for one, six in zip(*found, strict=True):
        assert one["arm"] == six["arm"]
        assert list(six.values())[1:] == pytest.approx(list(one.values())[1:], abs=1e-3)


@pytest.mark.parametrize("draws", [1, 3])
def test_what_images_as_they_are_gain_is_said_by_itself(draws, monkeypatch):
    """Every held-out image is asked of deployed models as it is, one by one, whatever the nuisance's probability."""
    for name in ("CAUTIONS", "MORE_CAUTION"):
        monkeypatch.setattr(strength, name, (0.0,))  # else the views do too little harm to be seen
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given, images = (torch.rand(n, 3, 16, 16) * torch.rand(n, 3, 1, 1) for n in (128, 60))
    labels = Reader()(images).argmax(1)  # one view is always right
    aug = ia.LearnedAugment(["turn"], predictor=ia.ConvPredictor(32))
    config = ia.FitConfig(max_steps=20, nuisance_draws=draws, nuisance_probability=0.6, seed=3, progress=False)
    fitted = given, Reader()(given).argmax(1)
    report = ia.fit(aug, Reader(), fitted, (images, labels), config, nuisance="turn").report
    assert report.arms[0].correct.mean() < 0.9
    compared = 0
    for arm, row in zip(report.arms, report.rows(), strict=True):
        if arm.name == "ours" and "put_right" not in arm.setting:  # the others are scored by halves
            answers = ia.TTAModel(Reader(), aug, **arm.setting)(images)
            lost = 100 - 100 * (answers.argmax(1) == labels).double().mean().item()
            best, second = answers.topk(2).values.T
            tied = 100 * (best - second < 1e-6).double().mean().item()  # over all four turns left is as bright as top
            assert row["undisturbed"] == pytest.approx(-lost, abs=3 + tied)  # ties may fall either way
            compared += lost > 10
    assert compared and "images as they are, points" in str(report)
    without = ia.fit(aug, Reader(), fitted, (images, labels), config).report
    assert "undisturbed" not in without.rows()[0] and "as they are" not in str(without)


def test_view_offsets_are_kept_with_the_weights(fitted, tmp_path):
    aug, _, (images, _) = fitted
    tilted = ia.TTAModel(Reader(), aug, 3, include_identity=False, view_offsets=[100.0 * a for a in range(60)])
    # Offsets this large leave φ no say: the last three of all combinations.
    every = CandidateProduct(aug.anchor_families).candidates()
    views = [aug.apply(images, every.index(torch.full((len(images),), a))) for a in (59, 58, 57)]
    expected = torch.stack([Reader()(view).softmax(-1) for view in views]).mean(0)
    torch.testing.assert_close(tilted(images).softmax(-1), expected)
    setting = {"n_views": 4, "include_identity": False, "view_offsets": [0.125 * (a % 7) for a in range(60)]}
    aug.recommended = {"recommended": {"arm": "ours", **setting}}
    aug.save(tmp_path / "w.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "w.safetensors")
    model = ia.TTAModel(Reader(), aug, **setting)
    assert torch.equal(ia.TTAModel.recommended(Reader(), again)(images), model(images))


def test_view_offsets_of_another_length_are_refused(fitted):
    with pytest.raises(ia.InstaAugError, match="view_offsets: expected 60 numbers"):
        ia.TTAModel(Reader(), fitted[0], 3, view_offsets=[0.0, 1.0])


@pytest.mark.parametrize("k", [1, 7, 70])
@pytest.mark.parametrize("names", [["turn", "light"], ["crop", "turn", "light"]], ids=len)
def test_top_of_several_families_is_the_top_of_their_combinations(names, k):
    aug = ia.LearnedAugment(names)
    raw = {family.name: torch.randn(3, family.n_candidates) for family in aug.families}
    top = AugmentDistribution(aug.families, raw).top(k)
    log_p = [raw[family.name].log_softmax(1) for family in aug.families]
    for image in range(3):
        every = itertools.product(*(range(family.n_candidates) for family in aug.families))
        ranked = sorted(
            every, key=lambda combination: -sum(p[image, a] for p, a in zip(log_p, combination, strict=True))
        )
        taken = list(zip(*(top[family.index_field][:, image].tolist() for family in aug.families), strict=True))
        assert taken == (ranked + ranked)[:k]


def test_without_looking_sets_are_the_best_policys():
    """φ that says the same of every image chooses, among other ways, the pair that enumeration finds."""
    likelihood = torch.rand(200, 6)
    likelihood[:100, 2], likelihood[100:, 2], likelihood[:100, 4], likelihood[100:, 4] = 0.99, 0.7, 0.01, 0.99
    first = likelihood.log().mean(0).argmax().item()
    pairs = [(first, a) for a in range(6) if a != first]
    best = max(pairs, key=lambda pair: likelihood[:, pair].mean(1).log().mean())

    rows = {"losses": Rows.of(-likelihood[:, None].log())}
    order = policy_order(Prepared(LabelledImages(torch.zeros(200, 3, 8, 8)), 1, rows, torch.device("cpu")))
    constant = torch.randn(6).log_softmax(0).expand(200, -1)
    scores = SimpleNamespace(
        aggregate="mean_prob",
        weighs=True,
        held=SimpleNamespace(mean=lambda values: values.mean(0)),
        setting=lambda **setting: setting,
    )
    chosen = {tuple(way.views[0].tolist()) for way in choices(constant, 2, order, scores)}
    assert best in chosen and tuple(order[:2]) == best


def test_weights_are_chosen_after_temperatures():
    """φ is nearly always right and far too sure of it: all views alike know little, but are not punished for being bold."""
    n, columns = 200, 4
    one_hot = torch.nn.functional.one_hot
    right, view = torch.arange(n) % 3, torch.arange(n) % columns
    # Under one view the answer is right, under the others wrong, and sure; φ knows the view, but for a tenth of the images.
    said = torch.where(torch.arange(columns) == view[:, None], right[:, None], right[:, None] + 1) % 3
    logits = one_hot(said, 3)[:, None].float() * 40
    rows = {"plain": Rows.of(logits[:, 0, 0]), "logits": Rows.of(logits)}
    held = Prepared(LabelledImages(torch.zeros(n, 3, 8, 8), right), 1, rows, torch.device("cpu"))
    log_p = (one_hot((view + (torch.arange(n) % 10 == 0)) % columns, columns) * 30.0).log_softmax(1)
    ours = likeliest_views([Said(ClassScores(held), log_p)], columns, False, list(range(columns)))
    # Of all four views, weighted by φ or equally: nine in ten right, or none.
    assert ours.setting["aggregate"] == "probability" and ours.correct.mean() == 0.9


def test_fixed_views_are_scored_on_the_half_they_were_not_searched_on():
    torch.manual_seed(0)
    losses = torch.rand(40, 5)
    losses[::2, 1], losses[1::2, 1] = 0.0, 2.0  # best of all in one half alone
    losses[1::2, 2] = 0.1
    rows = {"losses": Rows.of(losses.view(20, 2, 5))}
    train = Prepared(LabelledImages(torch.zeros(20, 3, 8, 8)), 2, rows, torch.device("cpu"))
    losses = losses.view(20, 2, 5)
    found = nll_on_train(train, [1, 2])
    assert np.allclose(found[0], losses[:, :, 0].mean(1))
    scored = [losses[i, :, min(range(5), key=lambda a: losses[1 - i % 2 :: 2, :, a].mean())].mean() for i in range(20)]
    assert np.allclose(found[1], torch.stack(scored))


def test_a_classifier_that_needs_no_help_is_left_alone():
    """Images of one brightness: every view gives the same answer, and the report says so."""
    torch.set_num_threads(1)
    images = torch.rand(80, 3, 1, 1).expand(-1, -1, 16, 16).contiguous()
    labels = Reader()(images).argmax(1)
    aug = ia.LearnedAugment(["turn"])
    result = ia.fit(aug, Reader(), (images, labels), config=ia.FitConfig(max_steps=5, held_out=0.5, progress=False))
    assert result.report.recommended.name == "one view" and "looking does not pay" in str(result.report)
    assert math.isclose(result.report.recommended.cost, 1)


def test_without_labels_and_nuisance_there_is_nothing_to_gain():
    torch.set_num_threads(1)
    images, _ = pictures(40, 0)
    aug = ia.LearnedAugment(["turn"])
    report = ia.fit(aug, Reader(), images, config=ia.FitConfig(max_steps=5, progress=False)).report
    assert report.recommended.name == "one view" and "give labels, or nuisance=" in str(report)


def test_another_images_views_are_a_rival_that_does_not_look():
    """Every image is right under one view alone, the one that φ says of the image before it: no single view does as well."""
    n, columns = 40, 4
    right = torch.arange(n) % columns
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))  # in which images pass theirs on
    log_p = torch.empty(n, columns)
    log_p[order.roll(1)] = torch.nn.functional.one_hot(right[order], columns).float().mul(9).log_softmax(-1)
    logits = torch.nn.functional.one_hot(right, columns).float()[:, None, :, None] * torch.tensor([9.0, 0.0])
    logits = torch.where(logits.any(-1, keepdim=True), logits, torch.tensor([0.0, 9.0]))  # class 0 under one view
    rows = {"plain": Rows.of(logits[:, 0, 0]), "logits": Rows.of(logits)}
    held = Prepared(LabelledImages(torch.zeros(n, 3, 8, 8), torch.zeros(n).long()), 1, rows, torch.device("cpu"))
    aug = ia.LearnedAugment(["turn"])
    arms = {
        arm.name: arm
        for arm in rivals(ClassScores(held), log_p, aug.families[0].candidates(), [], None)
        if arm.n_views == 1
    }
    assert arms["best input-free (ours, shuffled)"].correct.all()
    assert arms["best input-free"].correct.mean() < 0.5
