"""Reports of fits that no table holds, and of losses of one's own: what is deployed does what was reported."""

import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.light import Light
from instaaug_transforms.learning import report_by_views as module
from instaaug_transforms.learning.losses import squared_error
from instaaug_transforms.learning.report import HeldOutArm
from instaaug_transforms.learning.task import Task

from .conftest import make_lively

QUIET = {"progress": False}


class Halves(nn.Module):
    """Three numbers: the brightness of the left, of the top, and of blue."""

    def forward(self, x):
        return torch.stack([x[:, :, :, :8].mean((1, 2, 3)), x[:, :, :8].mean((1, 2, 3)), x[:, 2].mean((1, 2))], 1)


class Classes(Halves):
    def forward(self, x):
        return 9 * super().forward(x)


class FromFeatures(nn.Module):
    """A classifier with a map that φ can read."""

    def __init__(self):
        super().__init__()
        self.body, self.fc, self.num_classes = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 3), 3

    def forward_features(self, x):
        return self.body(x)

    def forward_head(self, x, pre_logits=False):
        return x.mean((2, 3)) if pre_logits else self.fc(x.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.fixture(autouse=True)
def one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pictures(n: int) -> torch.Tensor:
    images = torch.rand(n, 3, 16, 16) * torch.rand(n, 3, 1, 1)
    images[:, :, :, :8] *= 0.3
    return images


def losses(model, images, targets):
    return (model(images) - targets).square().mean(1)


@pytest.mark.parametrize(
    ("names", "options"),
    [(["rotate", "hsv"], {}), (["crop", "rotate"], {}), (["crop"], {"objective": "sampled", "views": 2})],
    ids=["ranges", "both", "sampled"],
)
def test_a_deployed_model_does_what_the_report_says(names, options):
    images, held = pictures(60), pictures(40)
    model, aug = Halves().eval(), ia.LearnedAugment(names)
    for head in aug.predictor.heads.values():  # wide ranges, which differ between images
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.05)
    config = ia.FitConfig(epochs=1, **options, **QUIET)
    targets = Halves()(held)
    result = ia.fit(aug, model, (images, Halves()(images)), (held, targets), config, loss="squared_error", labels=True)
    ours = [arm for arm in result.report.arms if arm.name == "ours"]
    assert [arm.n_views for arm in ours] == [1, 2, 4, 10]
    for arm in [result.report.arms[0], *ours]:
        deployed = ia.TTAModel(model, aug, **arm.setting)
        expected = losses(deployed, held, targets)  # image by image, as they were given
        torch.testing.assert_close(torch.from_numpy(arm.nll), expected, rtol=1e-3, atol=1e-6)
    assert result.report.recommended.name == "one view"  # the targets are what it says of the images as they are
    assert aug.recommended["recommended"]["arm"] == "one view" and len(aug.recommended["model"]) == 64


def test_a_range_that_undoes_what_happened_is_recommended(tmp_path):
    """All images are turned by 90°, and the model measures upright ones: one range for all images, or ours."""
    upright = pictures(160)
    data = upright.rot90(1, (-2, -1)), Classes()(upright).argmax(1)
    model, aug = Classes().eval(), ia.LearnedAugment(["rotate"])
    config = ia.FitConfig(epochs=1, held_out=0.5, **QUIET)
    with torch.no_grad():
        aug.predictor.heads["rotate"].out.bias.copy_(torch.tensor([-4.0, -1.0986]))  # −90°, where the sigmoid is ¼
    report = ia.fit(aug, model, data, config=config).report
    assert report.recommended.name != "one view" and report.recommended.correct.mean() > 0.97
    assert report.arms[0].correct.mean() < 0.9
    aug.save(tmp_path / "w.safetensors")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "w.safetensors")
    deployed = ia.TTAModel.recommended(model, again)
    assert (deployed(data[0]).argmax(1) == data[1]).float().mean() > 0.97


def test_fixed_views_are_what_was_searched():
    """Mirrored images, and a transform that rotates: the mirror image is among the views that are the same for all."""
    upright = pictures(80)
    data = upright.flip(-1), Halves()(upright)
    aug = ia.LearnedAugment(["rotate"])
    report = ia.fit(
        aug, Halves().eval(), data, loss="squared_error", config=ia.FitConfig(epochs=1, held_out=0.5, **QUIET)
    ).report
    assert (report.recommended.name, report.recommended.n_views) == ("best input-free", 1)
    assert report.recommended.setting["policy"]["flip"] == [1.0]
    assert losses(ia.TTAModel.recommended(Halves().eval(), aug), *data).max() < 1e-6
    assert "below one view" in str(report) and "top1" not in report.rows()[0]


def test_of_large_outputs_fewer_images_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MOST_OUTPUTS", 64 * 126 * 3)
    images = pictures(150)
    data = images, Halves()(images)
    config = ia.FitConfig(epochs=1, **QUIET)
    report = ia.fit(
        ia.LearnedAugment(["rotate"]), Halves().eval(), data, data, config, loss="squared_error", labels=True
    ).report
    assert report.n_images == 64


def test_of_many_candidates_only_zooms_are_searched():
    looked: list[int] = []
    model = Halves().eval()
    model.register_forward_hook(lambda module, inputs, outputs: looked.append(len(inputs[0])))
    images = pictures(40)
    config = ia.FitConfig(epochs=1, objective="sampled", views=2, **QUIET)
    aug = ia.LearnedAugment([Crop("paper_64px")])
    data = images, Halves()(images)
    ia.fit(aug, model, data, data, config, loss="squared_error", labels=True)
    # Two samples a step, a validation, and of each image at most 16 zooms and three times 34 views.
    assert sum(looked) < 40 * (2 + 4 + 1 + 16 + 3 * 34 + 1)


def test_a_look_at_features_costs_a_forward():
    torch.manual_seed(0)
    model = FromFeatures().eval()
    images = pictures(40)
    aug = ia.LearnedAugment(["rotate"], predictor=ia.FeaturesPredictor(model, 16))
    report = ia.fit(aug, model, (images, model(images).argmax(1)), config=ia.FitConfig(epochs=1, **QUIET)).report
    for arm in report.arms:
        looks = arm.name == "ours" and not arm.setting["include_identity"]
        assert arm.cost == arm.n_views + looks


def test_views_that_leave_an_image_as_it_is_cost_none_beside_a_look():
    """As many forwards as the deployed model makes."""
    torch.manual_seed(0)
    model, images, seen = FromFeatures().eval(), pictures(40), []
    aug = ia.LearnedAugment(["crop"], predictor=ia.FeaturesPredictor(model, 16))
    config = ia.FitConfig(objective="sampled", views=2, epochs=1, **QUIET)
    report = ia.fit(aug, model, (images, model(images).argmax(1)), (images, model(images).argmax(1)), config).report
    model.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    for arm in (arm for arm in report.arms if arm.name == "ours"):
        seen.clear()
        ia.TTAModel(model, aug, **arm.setting)(images)
        assert arm.cost == pytest.approx(sum(seen) / 40)


def test_turns_of_a_regressor_are_undone_without_labels():
    """The target is the model's own output on the upright image; averages of numbers, not of probabilities."""
    model, aug = Halves().eval(), ia.LearnedAugment(["turn"], predictor=ia.ConvPredictor(16, 8))
    config = ia.FitConfig(epochs=20, batch_size=16, lr=1e-2, nuisance_probability=1.0, held_out=0.3, **QUIET)
    report = ia.fit(aug, model, pictures(160), loss="squared_error", nuisance=["turn"], config=config).report
    assert report.against == "the model's own outputs" and report.recommended.name == "ours"
    assert report.recommended.nll.mean() < 0.2 * report.arms[0].nll.mean()
    upright = pictures(64)
    turned = torch.stack([image.rot90(i % 4, (-2, -1)) for i, image in enumerate(upright)])
    deployed = ia.TTAModel.recommended(model, aug)
    assert losses(deployed, turned, model(upright)).mean() < 0.3 * losses(model, turned, model(upright)).mean()
    assert deployed(turned).shape == (64, 3)


def test_several_classes_an_image():
    model = nn.Sequential(Halves(), nn.Linear(3, 4)).eval()
    images = pictures(60)
    targets = (model(images) > 0).long()
    for names in (["turn"], ["rotate"]):
        aug = ia.LearnedAugment(names)
        config = ia.FitConfig(epochs=1, held_out=0.5, **QUIET)
        report = ia.fit(aug, model, (images, targets), loss="binary_cross_entropy", config=config).report
        assert report.arms[0].correct is None and report.against == "targets"
        single = nn.functional.binary_cross_entropy_with_logits(model(images), targets.float(), reduction="none")
        assert report.arms[0].nll.min() >= single.mean(1).min() - 1e-6


def test_wrong_losses_and_tables_say_so():
    images, model = pictures(20), Halves().eval()
    fit, aug = lambda *data, **more: ia.fit(aug, model, *data, **more), ia.LearnedAugment(["turn"])
    with pytest.raises(ia.InstaAugError, match="loss: expected one of cross_entropy, squared_error"):
        fit((images, model(images)), loss="mse")
    with pytest.raises(ia.InstaAugError, match=r"squared_error: expected as many numbers .* outputs .* and"):
        fit((images, torch.rand(20)), loss="squared_error")
    with pytest.raises(ia.InstaAugError, match=r"binary_cross_entropy: expected targets in \[0, 1\], got 2 to 2"):
        fit((images, torch.full((20, 3), 2)), loss="binary_cross_entropy")
    with pytest.raises(ia.InstaAugError, match="a loss of one's own needs labels"):
        fit(images, loss=lambda outputs, targets: (outputs - targets).square().mean(1), nuisance=["turn"])
    aug = ia.LearnedAugment(["turn", "rotate"])
    table = torch.rand(20, 4)
    with pytest.raises(ia.InstaAugError, match="val_table: ranges"):
        data = images, torch.zeros(20).long()
        fit(data, data, table=table, val_table=table)


def made_arm(name, k, nll):
    return HeldOutArm(name, k, k, None, np.full(4, nll), {})


def test_of_each_kind_the_best_and_shuffled_ones_where_they_are_better_than_fixed_ones():
    shuffled = "best input-free (ours, shuffled)"
    arms = [
        made_arm("ours", 1, 2.0), made_arm("ours", 1, 1.0), made_arm("ours", 2, 3.0), made_arm("best input-free", 1, 1.5),
        made_arm("best input-free", 2, 1.5), made_arm("best input-free", 2, 1.6), made_arm(shuffled, 1, 1.4), made_arm(shuffled, 2, 1.5),
    ]  # fmt: skip
    kept = [(arm.name, arm.n_views, arm.nll[0]) for arm in module._best_of_each(arms)]
    assert kept == [
        ("ours", 1, 1.0),
        ("ours", 2, 3.0),
        ("best input-free", 1, 1.5),
        ("best input-free", 2, 1.5),
        (shuffled, 1, 1.4),
    ]


def test_learned_views_are_of_all_or_the_middle_of_ranges_with_and_without_the_image():
    aug = make_lively(["rotate"])
    with torch.no_grad():
        distribution = aug.distribution(torch.rand(3, 3, 16, 16))
        made = module._learned(distribution)
    settings = [(views.k, views.setting["range_fraction"], views.setting["include_identity"]) for views in made]
    expected = [
        (k, f, plain) for k in (1, 2, 4, 10) for f in (1.0, 0.5) for plain in ((False, True) if k > 1 else (False,))
    ]
    assert settings == expected and all(views.setting["n_views"] == views.k for views in made)
    for views in made:
        k, plain = views.k, views.setting["include_identity"]
        of = distribution.narrowed(views.setting["range_fraction"]).top(k).angle
        wanted = torch.cat([torch.zeros(1, 3), of[: k - 1]]) if plain else of
        assert torch.allclose(views.params.angle, wanted, atol=1e-3)


def test_no_gradients_are_kept_of_a_report():
    """Of a transform that is being learned."""
    aug, seen = make_lively(["rotate"]), []

    class Noting(Halves):
        def forward(self, x):
            seen.append(torch.is_grad_enabled() or x.requires_grad)
            return super().forward(x)

    images = pictures(12)
    val = LabelledImages(images, Halves()(images))
    report = module.report_by_views(Task(aug, Noting().eval(), squared_error, ia.FitConfig(**QUIET)), val)
    assert not any(seen) and report.n_images == 12 and aug.recommended["n"] == 12
    fixed = [arm for arm in report.arms if arm.name == "best input-free"]
    assert [arm.n_views for arm in fixed] == [1, 2, 4, 10] and [arm.cost for arm in fixed] == [1, 2, 4, 10]
    assert report.arms[0].name == "one view" and report.arms[0].nll.max() < 1e-6


@pytest.mark.parametrize(("exposures", "searched"), [(3, 18), (85, 100), (86, 16)])
def test_of_more_than_a_hundred_candidates_only_zooms_are_searched_for(exposures, searched, monkeypatch):
    light = Light(exposures=tuple(i / 16 for i in range(exposures)), white_balances=(0.0,))
    seen, fixed = [], module._fixed
    monkeypatch.setattr(
        module, "_fixed", lambda scores, views: seen.append(views.batch_shape[0]) or fixed(scores, views)
    )
    images = pictures(6)
    val = LabelledImages(images, Halves()(images))
    module.report_by_views(Task(make_lively([light]), Halves().eval(), squared_error, ia.FitConfig(**QUIET)), val)
    assert seen == [searched]


def test_outputs_that_are_not_finite_are_named():
    """They counted as labels in another order."""

    class Broken(Classes):
        def forward(self, x):
            return torch.where(x[:, :1, 0, 0] > 0.2, torch.nan, super().forward(x))

    images = pictures(40)
    with pytest.raises(
        ia.InstaAugError, match="classifier: what it says of some views of held-out images is not finite"
    ):
        ia.recommend(ia.LearnedAugment(["rotate"]), Broken().eval(), (images, torch.arange(40) % 3))
