"""Views that arms share go through the classifier once, and an interrupted comparison goes on where it was."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.tta import arms, evaluate, runner, tune
from instaaug_transforms.tta.report import RIVALS

from .conftest import make_lively

pytestmark = pytest.mark.usefixtures("one_thread")

APART = [name for name in RIVALS if name != "AutoAugment policy"]  # whose policy may leave an image as it is


class Remembering(nn.Module):
    """Keeps what it has seen, blank images apart; is interrupted, as by Ctrl-C, where it has seen ``fuse`` images."""

    def __init__(self, fuse=10**9):
        super().__init__()
        torch.manual_seed(3)
        self.map = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 4)
        self.seen, self.fuse = [], [fuse]  # a number would be a setting

    def forward(self, images):
        if len(self.seen) + len(images) > self.fuse[0]:
            raise KeyboardInterrupt
        self.seen += [image.numpy().tobytes() for image in images.contiguous() if image.std() > 0]
        return 8 * self.head(self.map(images).relu().mean((2, 3)))


def pictures(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [(torch.rand(n, 3, 32, 32, generator=g), torch.randint(4, (n,), generator=g)) for n in (14, 9)]


def compared(model, aug, **changes):
    settings = {"n_views": (1, 2, 4), "batch_size": 4, "progress": False, "only": APART, **changes}
    return evaluate(model, aug, *pictures(), settings.pop("n_views"), **settings)


def equal(first, second):
    same = [np.array_equal(first.arms[key].nll, arm.nll) for key, arm in second.arms.items()]
    return list(first.arms) == list(second.arms) and all(same) and str(first.rows()) == str(second.rows())


KINDS = {
    "crop": {},
    "turn": {"oracle": True},
    "crop, rotate": {"how": "weighted"},
    "crop, erase": {"nuisance": ["turn"]},
    "turn, nuisance": {"nuisance": ["turn"], "select": "sample"},
}


def kind(name):
    families = [family for family in name.split(", ") if family != "nuisance"]
    return make_lively(families, predictor=ia.ConvPredictor(16)), KINDS[name]


@pytest.mark.parametrize("name", KINDS)
def test_a_view_of_an_image_is_looked_at_once(name):
    aug, settings = kind(name)
    model = Remembering()
    compared(model, aug, **settings)
    assert max(Counter(model.seen).values()) == 1


def test_what_sharing_saves():
    """Of turns: nineteen candidates for all arms together; every arm by itself asked for more than 50."""
    aug, model = make_lively(["turn"], predictor=ia.ConvPredictor(16)), Remembering()
    compared(model, aug, n_views=(1, 2, 4, 10))
    assert len(model.seen) <= (14 + 9) * 19


def test_the_look_of_a_predictor_on_features_is_the_plain_view():
    """On the reported images; those of the choice are looked at through all candidates before φ looks."""
    model = Remembering()
    aug = make_lively(["turn"], predictor=ia.FeaturesPredictor(model, image_size=32))
    model.seen.clear()
    compared(model, aug)
    again = [image for image, times in Counter(model.seen).items() if times > 1]
    assert set(again) == {image.numpy().tobytes() for image in pictures()[1][0]} and len(again) == 9


@pytest.mark.parametrize("name", ["turn", "crop, erase"])
def test_shared_logits_are_those_of_arms_alone(name):
    aug, settings = kind(name)
    every = compared(Remembering(), aug, **settings)
    for rival in APART:
        alone = compared(Remembering(), aug, **{**settings, "only": [rival]})
        for key, arm in alone.arms.items():
            assert np.allclose(arm.nll, every.arms[key].nll, atol=1e-4), key


@pytest.mark.parametrize(
    "setting",
    [
        {"aggregate": "probability", "include_identity": False, "temperature": 4.0},
        {"policy": {"turn_angle": [0.0, 90.0, 270.0]}},
    ],
)
def test_the_recommended_arm_is_the_recommended_model(setting):
    aug, model = make_lively(["turn"], predictor=ia.ConvPredictor(16)), Remembering()
    aug.recommended = {"recommended": {"n_views": 3, **setting}}
    arm = compared(model, aug).arms["recommended", 3]
    assert arm.cost == 3
    images, labels = pictures()[0]
    logits = ia.TTAModel.recommended(model.eval(), aug)(images)
    assert np.allclose(
        arm.nll, nn.functional.cross_entropy(logits / arm.temperature, labels, reduction="none"), atol=1e-4
    )


@pytest.mark.parametrize("at", [1.0, 0.2, 5.0])
def test_every_arm_is_averaged_at_the_temperature_of_the_recommended_one(at):
    """Beside a recommended setting that has one; the image and its mirror image by hand."""
    aug, model = make_lively(["turn"], predictor=ia.ConvPredictor(16)), Remembering()
    aug.recommended = {"recommended": {"n_views": 2, "temperature": at}}
    arm = compared(model, aug).arms["horizontal flip", 2]
    images, labels = pictures()[0]
    mean = sum((model(view) / at).double().softmax(1) for view in (images, images.flip(-1))) / 2
    nll = nn.functional.cross_entropy(at * mean.log() / arm.temperature, labels, reduction="none").detach()
    assert np.allclose(arm.nll, nll, atol=1e-4)


@pytest.mark.parametrize(("name", "part"), [*zip(KINDS, (0.05, 0.3, 0.6, 0.8, 0.95), strict=True)])
def test_an_interrupted_comparison_goes_on_where_it_was(name, part, tmp_path, monkeypatch):
    aug, settings = kind(name)
    whole = Remembering()
    expected = compared(whole, aug, **settings)
    kept, put = [0], Rows.put
    monkeypatch.setattr(Rows, "put", lambda self, *args: (put(self, *args), kept.append(len(interrupted.seen))))
    interrupted = Remembering(fuse=int(part * len(whole.seen)))
    with pytest.raises(KeyboardInterrupt):
        compared(interrupted, aug, workdir=tmp_path, **settings)
    done = kept[-1]
    resumed = Remembering()
    assert equal(expected, compared(resumed, aug, workdir=tmp_path, **settings))
    assert not set(interrupted.seen[:done]) & set(resumed.seen)  # what was kept is not computed again
    assert done + len(resumed.seen) == len(whole.seen)
    again = Remembering()
    assert equal(expected, compared(again, aug, workdir=tmp_path, **settings)) and not again.seen


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"n_views": (1, 3)}, "n_views"),
        ({"seed": 1}, "seed"),
        ({"only": ["greedy policy"]}, "arms"),
        ({"batch_size": 9}, "batch_size, checksums|batch_size, chunk"),
    ],
)
def test_a_workdir_of_another_comparison_is_refused(changes, what, tmp_path):
    aug = make_lively(["turn"], predictor=ia.ConvPredictor(16))
    compared(Remembering(), aug, workdir=tmp_path)
    with pytest.raises(ia.InstaAugError, match=f"workdir: .* was computed with another .*{what}"):
        compared(Remembering(), aug, workdir=tmp_path, **changes)


def test_a_comparison_of_a_classifier_whose_code_was_edited_is_another(tmp_path, monkeypatch):
    aug = make_lively(["turn"], predictor=ia.ConvPredictor(16))
    compared(Remembering(), aug, workdir=tmp_path)
    before = Remembering.forward
    monkeypatch.setattr(Remembering, "forward", lambda self, x: 2.0 * before(self, x))
    with pytest.raises(ia.InstaAugError, match="workdir: .* was computed with another code of the classifier; delete"):
        compared(Remembering(), aug, workdir=tmp_path)


@pytest.mark.parametrize("batch_size", [1, 13])
def test_shuffled_views_are_another_images_whatever_the_batches(batch_size):
    """Where an image would be alone in its batch it would be given its own views."""
    torch.manual_seed(0)
    aug = make_lively(["rotate"], predictor=ia.ConvPredictor(16))
    found = compared(Remembering(), aug, batch_size=batch_size).arms
    assert (np.abs(found["ours, shuffled", 2].nll - found["ours", 2].nll) > 1e-6).all()


def test_tuning_shares_views_too():
    aug, model = make_lively(["crop"], predictor=ia.ConvPredictor(16)), Remembering()
    assert tune(model, aug, pictures()[0], 4, progress=False)["range_fraction"] == 1.0
    assert max(Counter(model.seen).values()) == 1


@pytest.mark.parametrize(
    ("batch_size", "n", "parts"),
    [
        (4, 12, [4, 4, 4]),
        (4, 14, [4, 4, 4, 2]),
        (4, 13, [5, 5, 3]),
        (1, 5, [3, 2]),
        (1, 4, [2, 2]),
        (9, 4, [4]),
        (3, 4, [4]),
        (1, 1, [1]),
    ],
)
def test_parts_are_as_large_as_batches_and_no_image_is_alone(batch_size, n, parts, monkeypatch):
    aug, chunks = make_lively(["turn"], predictor=ia.ConvPredictor(16)), []
    real = runner.compute_rows

    def noted(data, compute, **options):
        def counted(images, targets, part):
            chunks.append(len(images))
            return compute(images, targets, part)

        return real(data, counted, **options)

    monkeypatch.setattr(runner, "compute_rows", noted)
    run = runner.Runner(Remembering().eval(), aug, batch_size, False, 0, False)
    data = LabelledImages(torch.rand(n, 3, 32, 32), torch.zeros(n, dtype=torch.long))
    with torch.no_grad():
        run.candidates(data, arms.boxes([(0.5, 0.5, 1.0, 0)]))
    assert chunks == parts


def test_what_candidates_answer_and_lose():
    model, aug = Remembering().eval(), make_lively(["turn"], predictor=ia.ConvPredictor(16))
    images, labels = pictures()[0]
    run, data = runner.Runner(model, aug, 4, False, 0, False), LabelledImages(images, labels)
    with torch.no_grad():
        rows = run.candidates(data, aug.families[0].candidates())
        expected = torch.stack([model(images.rot90(k, (-2, -1))) for k in range(4)], 1)
    assert torch.allclose(rows.tensor(), expected, atol=1e-4)
    losses = -expected.log_softmax(-1)[torch.arange(14), :, labels]
    assert torch.allclose(run.losses(rows, labels), losses, atol=1e-4) and run.classes(data) == 4


def test_the_best_of_all_views_and_calibration_are_scored_as_they_are_defined():
    """The oracle is right where any view is, and as sure as the surest; confidence is the highest probability."""
    model, aug = Remembering().eval(), make_lively(["turn"], predictor=ia.ConvPredictor(16))
    found = compared(model, aug, oracle=True).arms
    images, labels = pictures()[0]
    policies = arms.policy_candidates(aug)
    families = arms.families_for(aug)
    shown = [ia.functional.apply(images, policies.index([v]).map(lambda f: f.expand(14)), families) for v in range(19)]
    with torch.no_grad():
        logits = torch.stack([model(view) for view in shown], 1)
    every = found["oracle (any candidate view)", 19]
    assert np.array_equal(every.correct, (logits.argmax(-1) == labels[:, None]).any(1).numpy())
    nll = -logits.log_softmax(-1)[torch.arange(14), :, labels]
    assert np.allclose(every.nll, nll.amin(1), atol=2e-3) and every.temperature == 1.0
    single = found["single view", 1]
    with torch.no_grad():
        scaled = model(images) / single.temperature
    confidence = scaled.softmax(-1).amax(-1).double()
    bins = (confidence * 15).ceil().clamp(1, 15)
    gaps = [(single.correct[b] - confidence.numpy()[b]).sum() for b in ((bins == k).numpy() for k in range(1, 16))]
    assert single.ece == pytest.approx(np.abs(gaps).sum() / 14, abs=1e-4)


def test_views_are_weighted_by_their_own_size_and_finished_ones_as_whole_images():
    params, logits = arms.boxes([(0.5, 0.5, 1.0, 0), (0.5, 0.5, 0.4, 0)]), torch.zeros(2, 3, 4)
    of_crops = params.map(lambda field: field[:, None].expand(-1, 3))
    assert runner._bins(logits, of_crops).tolist() == [[5, 5, 5], [1, 1, 1]]
    assert runner._bins(logits, None).tolist() == [[5, 5, 5]] * 2


def test_autoaugments_views_are_weighted_too():
    """All alike, for they are whole images: as their mean, and on the reported images as on those of the choice."""
    aug = make_lively(["crop"], predictor=ia.ConvPredictor(16))
    found = {}
    for how in ("mean_prob", "weighted"):
        arm = compared(Remembering(), aug, how=how, only=["AutoAugment policy"]).arms["AutoAugment policy", 4]
        found[how] = arm.nll
    assert np.allclose(found["weighted"], found["mean_prob"], atol=1e-4)
