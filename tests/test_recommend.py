"""`recommend`: a transform that is fitted already meets other images and another classifier."""

import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.tta.views import load_setting

from .conftest import make_lively
from .test_harmless import Corners, corners
from .test_harmless_judged import Sides
from .test_report_by_views import Classes, Halves, losses, pictures

QUIET = ia.FitConfig(progress=False)


@pytest.fixture(autouse=True)
def one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    """Weights that turn pictures upright, fitted without labels through `Classes`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    aug = ia.LearnedAugment(["turn"], predictor=ia.ConvPredictor(16, 8))
    config = ia.FitConfig(epochs=20, batch_size=16, lr=1e-2, nuisance_probability=1.0, progress=False)
    ia.fit(aug, Classes().eval(), pictures(240), nuisance=["turn"], config=config)
    path = tmp_path_factory.mktemp("w") / "upright.safetensors"
    aug.save(path)
    return path


@pytest.mark.parametrize("function", [ia.fit, ia.recommend])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": {"epochs": 1}}, r"config: expected a FitConfig, or None, got dict; .*FitConfig\(epochs=5\)"),
        ({"config": torch.arange(6)}, r"config: expected a FitConfig, or None, got Tensor; .*\(images, labels\)"),
        ({"labels": torch.arange(6)}, r"labels: expected True, False or None.*got Tensor; .*\(images, labels\)"),
        ({"labels": "no"}, "labels: expected True, False or None.*got str"),
        ({"nuisance": 5}, "nuisance: expected names of families or torchvision transforms, got int"),
    ],
)
def test_options_and_labels_in_the_wrong_place_are_named(function, arguments, message):
    """`recommend(aug, classifier, images, labels)`, say: the fourth is the config; and "no" was taken for yes."""
    with pytest.raises(ia.InstaAugError, match=message):
        function(
            ia.LearnedAugment(["turn"]), Corners().eval(), (torch.rand(6, 3, 16, 16), torch.arange(6) % 4), **arguments
        )


def test_every_image_is_looked_at_as_it_is_too():
    """Sides of bright patches, mirrored in half of the cases: as they are all are right, mirrored none."""
    images = 0.3 * torch.rand(30, 3, 16, 16)
    images[:, :, 4:12, 1:7] += 0.6
    labels = torch.zeros(30, dtype=torch.long)

    def mirrored(image):
        return image.flip(-1)

    for probability, share, known in ((0.5, 0.5, 30), (0.3, None, 15)):
        config = ia.FitConfig(progress=False, nuisance_probability=probability)
        report = ia.recommend(
            ia.LearnedAugment(["crop"]), Sides(), (images, labels), config, nuisance=mirrored, labels=True
        )
        one = report.arms[0]
        assert report.n_images == 30 and np.isfinite(one.undisturbed).sum() >= known and np.nanmin(one.undisturbed) == 1
        assert share is None or (one.correct == share).all()


def test_pretrained_weights_are_recommended_where_they_pay(upright):
    """Another model, of numbers, whose images come turned; the weights stay as they were."""
    aug, model, images = ia.LearnedAugment.from_pretrained(upright), Halves().eval(), pictures(120)
    turned = torch.stack([image.rot90(i % 4, (-2, -1)) for i, image in enumerate(images)])
    before = {name: value.clone() for name, value in aug.state_dict().items()}
    report = ia.recommend(aug, model, (turned, model(images)), QUIET, loss="squared_error")
    assert report.recommended.name == "ours" and report.n_images == 120
    assert all(torch.equal(before[name], value) for name, value in aug.state_dict().items())
    views = ia.TTAModel.recommended(model, aug)
    assert losses(views, turned, model(images)).mean() < 0.3 * losses(model, turned, model(images)).mean()
    torch.testing.assert_close(
        losses(views, turned, model(images)), torch.from_numpy(report.recommended.nll), rtol=1e-3, atol=1e-6
    )


def test_they_are_not_where_images_are_upright(upright, caplog):
    aug, model, images = ia.LearnedAugment.from_pretrained(upright), Classes().eval(), pictures(120)
    report = ia.recommend(aug, model, (images, model(images).argmax(1)), QUIET)
    assert report.recommended.name == "one view"
    assert torch.equal(ia.TTAModel.recommended(model, aug)(images).argmax(1), model(images).argmax(1))
    ia.TTAModel.recommended(nn.Sequential(model, nn.Linear(3, 3)).eval(), aug)
    assert "found on held-out images of another one" in caplog.text


def test_a_setting_that_was_found_with_no_classifier_is_said_to_be_such(upright, tmp_path, caplog):
    """Pretrained weights bring one for any classifier; on digits, as they were, it lost 1.3 points."""
    aug, model = ia.LearnedAugment.from_pretrained("turn_photos"), Classes().eval()
    assert "model" not in aug.recommended
    ia.TTAModel.recommended(model, aug)
    assert "what the weights come with, for any classifier" in caplog.text and "ia.recommend" in caplog.text
    caplog.clear()
    report = ia.recommend(aug, model, pictures(20), QUIET, nuisance=["turn"])
    aug.save(tmp_path / "known.safetensors")
    for known in (aug, ia.LearnedAugment.from_pretrained(tmp_path / "known.safetensors")):
        assert ia.TTAModel.recommended(model, known).n_views == report.recommended.n_views
    assert not caplog.text


def test_without_labels_disturbed_images_are_held_against_the_classifiers_own_answers(upright, tmp_path):
    aug, model, images = ia.LearnedAugment.from_pretrained(upright), Classes().eval(), pictures(80)
    config = ia.FitConfig(progress=False, nuisance_probability=1.0)
    report = ia.recommend(aug, model, images, config, nuisance=["turn"], workdir=tmp_path)
    assert report.against == "the classifier's own answers" and report.recommended.name == "ours"
    looked = []
    model.register_forward_hook(lambda _, inputs, outputs: looked.append(len(inputs[0])))
    again = ia.recommend(aug, model, images, config, nuisance=["turn"], workdir=tmp_path)
    assert again.rows() == report.rows() and sum(looked) < 80  # of 80 × 20: what it said of the views is kept
    plain = ia.recommend(aug, model, images, QUIET)
    assert "one view is right by definition" in str(plain)


@pytest.mark.parametrize(("model", "loss"), [(Classes(), "cross_entropy"), (Halves(), "squared_error")])
def test_where_every_image_was_disturbed_nobody_knows_what_the_others_lose(upright, model, loss):
    """And the report says so, where it recommends anything."""

    def said(images, probability):
        aug = ia.LearnedAugment.from_pretrained(upright)
        config = ia.FitConfig(progress=False, nuisance_probability=probability)
        report = ia.recommend(aug, model.eval(), images, config, loss=loss, nuisance=["turn"])
        return report.recommended.name, "every held-out image was disturbed" in str(report)

    assert said(pictures(80), 1.0) == ("ours", True)
    assert said(pictures(80), 0.5) == ("ours", False)
    assert said(torch.full((80, 3, 20, 20), 0.5), 1.0) == ("one view", False)  # however turned


@pytest.mark.parametrize(
    ("probability", "fitted", "said"), [(0.1, True, True), (0.1, False, False), (0.5, True, False)]
)
def test_that_little_is_learned_of_a_rare_nuisance_is_said(probability, fitted, said):
    """Where it was learned from, and one view is recommended; these images look the same however turned."""
    images, aug = torch.rand(60, 3, 1, 1).expand(-1, -1, 20, 20).contiguous(), ia.LearnedAugment(["turn"])
    config = ia.FitConfig(progress=False, max_steps=2, nuisance_probability=probability)
    make = (lambda *args, **settings: ia.fit(*args, **settings).report) if fitted else ia.recommend
    report = make(aug, Classes().eval(), images, config=config, nuisance=["turn"])
    assert report.recommended.name == "one view"
    assert ("a nuisance of probability 0.1 leaves most images as they are, and φ learns little" in str(report)) == said


class Quarter(nn.Module):
    """Whether an image is bright, told by one of its corners alone."""

    def forward(self, images):
        bright = 10 * (images[..., :8, :8].mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], 1)


def test_that_only_labels_tell_of_averages_that_answer_better_is_said():
    """Of four noisy corners the mean is right more often than one: the own answers as the target, a report called one view as good."""
    labels, rng = torch.arange(300) % 2, torch.Generator().manual_seed(0)
    corners = 0.4 + 0.2 * labels[:, None, None, None] + 0.15 * torch.randn(300, 1, 2, 2, generator=rng)
    images = corners.clamp(0, 1).repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1).contiguous()
    right = [
        (Quarter()(x).argmax(1) == labels).float().mean()
        for x in (images, corners.mean((2, 3), True).expand(-1, 3, 8, 8))
    ]
    assert right[1] > right[0] + 0.1
    for data, nuisance in ((images, ["turn"]), ((images, labels), None)):
        report = ia.recommend(ia.LearnedAugment(["turn"]), Quarter(), data, QUIET, nuisance=nuisance)
        labelled = nuisance is None
        assert report.labelled == labelled and (report.recommended.n_views >= 4) == labelled
        assert "as good as any average" not in str(report)
        assert ("an average that answers better than one view counts as wrong here" in str(report)) != labelled


def test_views_that_are_the_same_for_every_image_and_ranges():
    aug = ia.LearnedAugment(["rotate"])
    report = ia.recommend(aug, Corners(), corners(80), QUIET)
    assert (report.recommended.name, report.recommended.n_views) == ("best input-free", 1)
    with pytest.raises(ia.InstaAugError, match="nuisance: disturbed images"):
        ia.recommend(aug, Corners(), corners(80), QUIET, nuisance=["turn"])


def test_maps_are_refused():
    maps = nn.Sequential(Corners(), nn.Unflatten(1, (4, 1, 1)), nn.Upsample(40)).eval()
    loss = lambda outputs, targets: outputs.flatten(1).mean(1)  # noqa: E731
    with pytest.raises(ia.InstaAugError, match="outputs are maps"):
        ia.recommend(ia.LearnedAugment(["turn"]), maps, corners(20), QUIET, loss=loss)


class Sure(nn.Module):
    """Three classes by colour, and by weights that are chance, of which averages of views are rid; so many times as sure."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times
        chance = 0.2 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
        self.register_buffer("weights", 10 / 256 * torch.eye(3)[:, :, None, None] + chance)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.times * torch.einsum("nchw,kchw->nk", x - 0.5, self.weights)


def test_a_classifier_that_is_too_sure_is_recommended_what_another_is():
    """`TTAModel` answers as either report says."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(3, (300,), generator=generator)
    images = 0.2 * torch.randn(300, 3, 16, 16, generator=generator) + 0.45
    images = (images + 0.15 * torch.eye(3)[labels][:, :, None, None]).clamp(0, 1)
    aug, reports = make_lively(["crop"]), []
    for times in (1.0, 4.0):
        model = Sure(times)
        report = ia.recommend(aug, model, (images, labels), QUIET)
        reports.append(report)
        for arm in report.arms:
            if (
                arm.name == "ours" and "put_right" not in arm.setting
            ):  # fixed views of each half are those searched on the other
                said = ia.TTAModel(model, aug, **load_setting(arm.setting))(images)
                same = (said.argmax(1) == labels).numpy() == arm.correct
                assert np.mean(same) > 0.99  # outputs are kept in half precision
    one, other = reports
    assert [arm.name for arm in one.arms] == [arm.name for arm in other.arms]
    for arm, sure in zip(one.arms, other.arms, strict=True):
        assert np.mean(arm.correct == sure.correct) > 0.98
        assert arm.nll.mean() == pytest.approx(sure.nll.mean(), abs=3e-3)
    assert one.recommended.setting.keys() == other.recommended.setting.keys()
    most = [max((arm for arm in report.arms if arm.name == "ours"), key=lambda arm: arm.n_views) for report in reports]
    assert most[0].n_views > 1
    assert most[1].setting["temperature"] == pytest.approx(4 * most[0].setting["temperature"], rel=0.05)
