"""Answers that cannot be right are noticed."""

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.learning.task import warn_about_normalization

from .test_answers import CONFIG, Colours, data  # noqa: F401


def test_probabilities_are_noticed(data, caplog):  # noqa: F811
    for answer, noticed in ((lambda z: z.softmax(1), True), (lambda z: z.log_softmax(1), False)):
        caplog.clear()
        ia.fit(ia.LearnedAugment(["turn"]), Colours(answer), data, nuisance=["turn"], config=CONFIG)
        assert ("classifier: its answers are probabilities already" in caplog.text) == noticed
        for aggregate in ("mean_prob", "mean_logit"):  # of which the latter takes anything
            caplog.clear()
            model = ia.TTAModel(Colours(answer), ia.LearnedAugment(["turn"]), 2, aggregate=aggregate)
            for _ in range(2):
                model(data[0][:4])
            assert caplog.text.count("probabilities already") == (noticed and aggregate == "mean_prob")


def test_what_gives_class_numbers_or_arrays_is_told_what_to_give(data):  # noqa: F811
    for answer, fix in ((lambda z: z.argmax(1), "a score per class"), (lambda z: z.detach().numpy(), "from_numpy")):
        with pytest.raises(ia.InstaAugError, match=rf"classifier: expected logits .*{fix}"):
            ia.fit(ia.LearnedAugment(["turn"]), Colours(answer), data, nuisance=["turn"], config=CONFIG)


@pytest.mark.parametrize("nuisance", [None, ["turn"]])
def test_labels_that_are_not_the_classes_are_refused(data, nuisance):  # noqa: F811
    images, labels = data
    wrong = [labels + 3, labels - 1, labels.float(), labels[:, None], labels > 0, torch.full((40, 3), 0.9)]
    for given in wrong:
        with pytest.raises(ia.InstaAugError, match=r"train_data: expected labels \(N,\), integers from 0 to 2"):
            ia.fit(ia.LearnedAugment(["turn"]), Colours(), (images, given), nuisance=nuisance, config=CONFIG)
    with pytest.raises(ia.InstaAugError, match="val_data: expected labels"):
        ia.fit(ia.LearnedAugment(["turn"]), Colours(), data, (images, labels + 3), nuisance=nuisance, config=CONFIG)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_classifier_that_scales_images_itself_is_noticed(dtype):
    """It would divide by 255 what is divided already, and the report would be of another classifier."""

    class Brightest(torch.nn.Module):
        def forward(self, x):
            return 9 * (x.float().mean((2, 3)) - torch.tensor([0.45, 0.5, 0.55]))

    class Scaling(Brightest):
        def forward(self, x):
            return super().forward(x / 255)

    images = torch.randint(60, 200, (90, 3, 1, 1), dtype=torch.uint8).expand(-1, -1, 8, 8).contiguous()
    labels = Brightest()(images / 255).argmax(1)
    images = images if dtype == torch.uint8 else images / 255
    config = ia.FitConfig(max_steps=1, progress=False)
    ia.fit(ia.LearnedAugment(["turn"]), Brightest(), (images, labels), config=config)
    with pytest.raises(
        ia.InstaAugError, match=r"classifier: it is right on \d+ % of some bytes, and on \d+ % of the same"
    ):
        ia.fit(ia.LearnedAugment(["turn"]), Scaling(), (images, labels), config=config)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_a_classifier_that_changes_its_images_is_refused_and_the_remedy_works(data, loss):  # noqa: F811
    class InPlace(Colours):
        first = staticmethod(lambda x: x)

        def forward(self, x):
            return super().forward(self.first(x).mul_(0.5))

    images, labels = data
    targets = labels if loss == "cross_entropy" else torch.rand(len(images), 3)
    model, kept = InPlace().eval(), images.clone()
    with pytest.raises(ia.InstaAugError, match=r"classifier: it changes the images .* with images = images.clone\(\)"):
        ia.fit(ia.LearnedAugment(["crop"]), model, (images, targets), config=CONFIG, loss=loss)
    assert torch.equal(images, kept)
    model.first = torch.clone
    ia.fit(ia.LearnedAugment(["crop"]), model, (images, targets), config=CONFIG, loss=loss)


class Batched(nn.Module):
    """Its BatchNorm keeps no statistics, or it draws; or neither."""

    def __init__(self, how):
        super().__init__()
        norm = nn.BatchNorm2d(3, track_running_stats=how != "batch")
        self.how, self.layers = how, nn.Sequential(norm, nn.Flatten(), nn.Linear(192, 3)).double().eval()

    def forward(self, x):
        answers = self.layers(x.double())
        return answers + 0.5 * torch.rand_like(answers) if self.how == "chance" else answers


@pytest.mark.parametrize(("how", "said"), [("batch", True), ("chance", True), ("alone", False)])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_answers_that_depend_on_the_batch_or_on_chance_are_said(data, how, said, loss, caplog):  # noqa: F811
    images = data[0] * torch.tensor([1.0, 0.8, 0.2, 0.1]).repeat(10)[:, None, None, None]
    for run in (ia.fit, ia.recommend):
        caplog.clear()
        run(ia.LearnedAugment(["turn"]), Batched(how).eval(), images, config=CONFIG, nuisance=["turn"], loss=loss)
        assert ("depends on the other images of the batch, or on chance" in caplog.text) == said


@pytest.mark.parametrize(("channels", "numbers"), [(3, "(0.5, 0.5, 0.5), (0.25, 0.25, 0.25)"), (4, "mean, std")])
def test_a_normalisation_that_is_named_has_a_number_for_each_channel(channels, numbers, caplog):
    classifier = nn.Identity()
    classifier.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    warn_about_normalization(classifier, channels)
    assert f"v2.Normalize({numbers})" in caplog.text
