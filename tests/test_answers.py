"""Classifiers that answer otherwise than by logits, and labels that are not their classes: said before the long work."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import instaaug_transforms as ia

CONFIG = ia.FitConfig(max_steps=2, held_out=0.5, progress=False)


class Colours(nn.Module):
    """Three classes by the mean of the channels of the upper half; ``answer`` says in what form."""

    def __init__(self, answer=lambda logits: logits):
        super().__init__()
        self.gain, self.answer = nn.Parameter(torch.tensor(8.0)), answer

    def forward(self, x):
        if x.dtype != self.gain.dtype:
            raise TypeError(f"{x.dtype} images for {self.gain.dtype} weights")
        return self.answer(self.gain * x[:, :, :4].mean((2, 3)))


@pytest.fixture
def data(one_thread):
    images = torch.rand(40, 3, 8, 8)
    return images, Colours()(images).argmax(1)


OTHERS = {
    "a dict of logits": lambda z: {"logits": z},
    "a SimpleNamespace": lambda z: SimpleNamespace(logits=z),
    "a tuple of 2": lambda z: (z, z),
    "a list of 2": lambda z: [z, z],
    "a OrderedDict of logits": lambda z: OrderedDict(logits=z),
    "a dict of loss, logits": lambda z: {"loss": z.mean(), "logits": z},
    r"a tensor \(\d+, 1\)": lambda z: z[:, :1],
    r"a tensor \(\d+,\)": lambda z: z[:, 0],
    r"a tensor \(\d+, 3, 1, 1\)": lambda z: z[:, :, None, None],
}


@pytest.mark.parametrize("got", OTHERS)
def test_answers_that_are_no_logits_are_refused_with_the_remedy(data, got):
    classifier, message = Colours(OTHERS[got]), rf"classifier: expected logits \(B, classes\), got {got}; wrap it"
    for given in (data, data[0]):
        with pytest.raises(ia.InstaAugError, match=message):
            ia.fit(ia.LearnedAugment(["turn"]), classifier, given, nuisance=["turn"], config=CONFIG)
    with pytest.raises(ia.InstaAugError, match=message):
        ia.TTAModel(classifier, ia.LearnedAugment(["turn"]), 2)(data[0])


@pytest.mark.parametrize(
    ("got", "fix"),
    [
        ("a dict of logits", r"model\(x\)\['logits'\]"),
        ("a SimpleNamespace", r"model\(x\)\.logits"),
        ("a tuple of 2", r"model\(x\)\[0\]"),
        ("a list of 2", r"model\(x\)\[0\]"),
        ("a OrderedDict of logits", r"model\(x\)\['logits'\]"),
        ("a dict of loss, logits", r"model\(x\)\['logits'\]"),
    ],
)
def test_the_remedy_works(data, got, fix):
    """What the message has one write gives the logits."""
    model = Colours(OTHERS[got])
    with pytest.raises(ia.InstaAugError, match=fix) as e:
        ia.TTAModel(model, ia.LearnedAugment(["turn"]), 2)(data[0])
    code = str(e.value).split("return ")[1].split(", say")[0]
    assert torch.equal(eval(code, {"model": model, "x": data[0]}), Colours(lambda z: z)(data[0]))


def test_a_classifier_without_a_gradient_is_named_where_ranges_need_one(data):
    class Served(Colours):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(
        ia.InstaAugError, match="classifier: ranges learn through its gradient, and it gives none for angle"
    ):
        ia.fit(ia.LearnedAugment(["rotate"]), Served(lambda z: z), data, config=CONFIG)
    ia.fit(ia.LearnedAugment(["turn"]), Served(lambda z: z), data, config=CONFIG)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_program_of_torch_jit_is_averaged_and_fitted_to(data):
    """Frozen, it has no mode, and takes no hooks."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    program = torch.jit.freeze(torch.jit.trace(model, data[0]))
    aug = ia.LearnedAugment(["turn"])
    torch.testing.assert_close(ia.TTAModel(program, aug, 4)(data[0]), ia.TTAModel(model, aug, 4)(data[0]))
    ia.fit(aug, program, data, nuisance=["turn"], config=CONFIG)
    with pytest.raises(ia.InstaAugError, match="classifier: none of its layers gives a feature map"):
        ia.LearnedAugment(["turn"], predictor=ia.FeaturesPredictor(torch.jit.script(model), image_size=8))


def test_autocast_around_a_fit_changes_nothing(data):
    """What the classifier runs in, `FitConfig.amp` says. Tables of halves failed, and φ learned with other numbers."""
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        aug, model = ia.LearnedAugment(["turn"]), Colours(lambda z: z)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            report = ia.fit(aug, model, data, nuisance=["turn"], config=CONFIG).report
            again = ia.recommend(aug, model, data, nuisance=["turn"])
        found.append((aug.state_dict(), str(report), str(again)))
    (before, *said), (after, *repeated) = found
    assert said == repeated and all(torch.equal(value, after[name]) for name, value in before.items())


def test_several_classes_an_image_and_numbers_name_their_loss(data):
    images, several = data[0], torch.ones(40, 3)
    with pytest.raises(ia.InstaAugError, match=r"or give loss='binary_cross_entropy' \(several classes an image\)"):
        ia.fit(ia.LearnedAugment(["turn"]), Colours(lambda z: z), (images, several), nuisance=["turn"], config=CONFIG)
    number = Colours(OTHERS[r"a tensor \(\d+, 1\)"])
    with pytest.raises(ia.InstaAugError, match="or 'squared_error' for a number"):
        ia.fit(ia.LearnedAugment(["turn"]), number, images, nuisance=["turn"], config=CONFIG)


def test_the_mean_of_numbers_that_are_no_logits_is_their_mean(data):
    images, regressor = data[0], Colours(OTHERS[r"a tensor \(\d+,\)"])
    model = ia.TTAModel(
        regressor, ia.LearnedAugment(["turn"]), 2, aggregate="mean_logit", policy={"turn_angle": [0, 180]}
    )
    torch.testing.assert_close(model(images), (regressor(images) + regressor(images.rot90(2, (2, 3)))) / 2)


def test_a_function_is_no_classifier(data):
    for call in (lambda f: ia.fit(ia.LearnedAugment(["turn"]), f, data), lambda f: ia.TTAModel(f, None, 2)):
        with pytest.raises(ia.InstaAugError, match=r"classifier: expected a torch.nn.Module, got function; wrap it"):
            call(lambda images: images)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, "probabilities"])
def test_labels_of_every_kind_give_one_report(data, kind):
    images, labels = data
    given = nn.functional.one_hot(labels, 3).float() if kind == "probabilities" else labels.to(kind)
    rows = []
    for targets in (labels, given):
        torch.manual_seed(0)
        report = ia.fit(ia.LearnedAugment(["turn"]), Colours(), (images, targets), config=CONFIG).report
        rows.append([(row["arm"], row["K"], row["top1"], pytest.approx(row["nll"], abs=1e-4)) for row in report.rows()])
    assert rows[0] == rows[1]


def test_labels_for_one_part_alone_are_refused(data):
    with pytest.raises(ia.InstaAugError, match="val_data: it has no labels, and train_data has"):
        ia.fit(ia.LearnedAugment(["turn"]), Colours(), data, data[0], config=CONFIG)


@pytest.mark.parametrize("families", [["turn"], ["rotate"]], ids=" ".join)
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_classifier_of_any_precision_is_fitted_to(data, families, kind):
    aug = ia.LearnedAugment(families)
    result = ia.fit(aug, Colours().to(kind), data, config=ia.FitConfig(epochs=1, max_steps=2, progress=False))
    assert result.best["loss"] == result.best["loss"]


def test_turned_images_do_not_make_labels_wrong(data, caplog):
    """Half of the images are turned, so that the sure classifier is worse than guessing there; as they are, it is right."""
    images = torch.rand(40, 3, 8, 8) * 0.1
    labels = torch.arange(40) % 3
    images[torch.arange(40), labels, :4] += 0.8
    images[torch.arange(40), (labels + 1) % 3, 4:] += 0.8  # what is below says another class
    classifier = Colours(lambda logits: 4 * logits)
    config = ia.FitConfig(max_steps=2, held_out=0.5, nuisance_probability=1, progress=False)
    ia.fit(ia.LearnedAugment(["turn"]), classifier, (images, labels), nuisance=["turn"], labels=True, config=config)
    assert "labels" not in caplog.text
    for given, said in (
        ((labels + 1) % 3, "Check the labels' order"),
        (torch.where(labels == 0, 1, labels), r"are right"),
    ):
        caplog.clear()
        ia.fit(ia.LearnedAugment(["turn"]), classifier, (images, given), config=config)
        assert said in caplog.text


@pytest.mark.parametrize("families", [["turn"], ["rotate"]], ids=" ".join)
@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (nn.CrossEntropyLoss(), r"\(\)"),
        (lambda outputs, targets: (outputs - targets[:, None]).square(), r"\(\d+, 3\)"),
        (lambda outputs, targets: 1.0, "float"),
    ],
    ids=["mean", "per output", "number"],
)
def test_a_loss_that_is_not_per_view_is_refused(data, families, loss, given):
    with pytest.raises(ia.InstaAugError, match=rf"loss: expected one loss per view, \(\d+,\), got {given}; use"):
        ia.fit(ia.LearnedAugment(families), Colours(), data, loss=loss, config=CONFIG)


@pytest.mark.parametrize("families", [["turn"], ["rotate"]], ids=" ".join)
def test_a_loss_that_pairs_an_image_with_others_is_refused(data, families):
    """Outputs (B, 1) less targets (B,) are (B, B): each image was judged by the targets of all, without a word."""
    images, number = data[0], Colours(OTHERS[r"a tensor \(\d+, 1\)"])
    given = {"data": (images, torch.rand(40)), "config": CONFIG}
    for call in (ia.fit, ia.recommend):
        options = dict(zip(("train_data", "config") if call is ia.fit else given, given.values(), strict=True))
        with pytest.raises(
            ia.InstaAugError, match=r"loss: .* depends on the other images .*\(4, 1\) and targets \(4,\)"
        ):
            call(ia.LearnedAugment(families), number, **options, loss=lambda o, t: (o - t).square().mean(1))
        call(ia.LearnedAugment(families), number, **options, loss=lambda o, t: (o[:, 0] - t).square())
        call(ia.LearnedAugment(["turn"]), number, **options, loss=lambda o, t: (o[:, 0] - t).abs() > 0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_targets_that_are_not_finite_are_named(data, value):
    """They were a table, which nobody had given, that was not finite."""
    images, targets = data[0], torch.rand(40, 3)
    targets[1, 2] = value
    with pytest.raises(ia.InstaAugError, match="squared_error: the targets of 1 of .* images are not finite.*leave"):
        ia.recommend(ia.LearnedAugment(["turn"]), Colours(lambda z: z), (images, targets), loss="squared_error")


class Segments(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(torch.cat([x, 1 - x], 1))


SEGMENTATIONS = {
    r"a tensor \(\d+, 1, 8, 8\); its softmax is 1 everywhere": lambda z: z[:, :1],
    r"a tensor \(\d+, 6\); for classifiers": lambda z: z.mean((2, 3)),
    "a tuple of 1; wrap it": lambda z: (z,),
    "a dict of logits; wrap it": lambda z: {"logits": z},
}


@pytest.mark.parametrize("got", SEGMENTATIONS)
def test_what_is_no_segmentation_is_refused(data, got):
    with pytest.raises(ia.InstaAugError, match=rf"model: expected logits \(B, classes, h, w\), got {got}"):
        ia.SegmentationTTA(Segments(SEGMENTATIONS[got]), ia.LearnedAugment(["turn"]), 2)(data[0])


def test_one_channel_becomes_two_as_the_remedy_says(data):
    """The softmax of (0, z) is the sigmoid of z; of a network that looks at single pixels, turned views say the same."""
    two = Segments(lambda z: torch.cat([0 * z[:, :1], z[:, :1]], 1))
    found = ia.SegmentationTTA(two, ia.LearnedAugment(["turn"]), 4)(data[0]).exp()
    torch.testing.assert_close(found[:, 1], data[0][:, 0].sigmoid())


def test_what_is_measured_is_a_module_that_gives_a_tensor(data):
    for answer, given in ((lambda z: {"logits": z}, "a dict of logits"), (lambda z: z[:, 0], r"a tensor \(\d+,\)")):
        with pytest.raises(
            ia.InstaAugError, match=rf"model: expected outputs \(B, classes\) as one tensor, got {given}; wrap"
        ):
            ia.measure_invariance(Colours(answer), data, progress=False)
    with pytest.raises(ia.InstaAugError, match="model: expected a torch.nn.Module, got function"):
        ia.measure_invariance(lambda images: images, data, progress=False)


def test_a_printed_report_is_its_summary(data):
    report = ia.measure_invariance(Colours(), data, progress=False)
    assert str(report) == report.summary() and "| rotate" in str(report)


def test_a_model_in_double_precision_is_measured(data):
    rows = [
        ia.measure_invariance(model, data, progress=False).summary_rows() for model in (Colours(), Colours().double())
    ]
    for single, double in zip(*rows, strict=True):
        assert {
            key: pytest.approx(value, abs=1e-4) if isinstance(value, float) else value for key, value in single.items()
        } == double


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda x: (x.permute(0, 2, 3, 1).numpy(), None), r"have 8 channel.*come last: .*\.transpose\(0, 3, 1, 2\)"),
        (lambda x: (x[:, :2], None), r"have 2 channel.*in_channels=2"),
        (lambda x: (x, v2.RandomInvert), "nuisance: .* got the class RandomInvert; make one of it"),
        (lambda x: (x, 3.0), "nuisance: expected names of families or torchvision transforms, got float"),
    ],
)
def test_images_and_nuisances_of_the_wrong_kind_are_named_with_the_remedy(data, given, message):
    images, nuisance = given(data[0])
    with pytest.raises(ia.InstaAugError, match=message):
        ia.fit(ia.LearnedAugment(["turn"]), Colours(), images, nuisance=nuisance and [nuisance])


@pytest.mark.parametrize(
    ("nuisance", "named"),
    [(None, "data: images without labels are looked at"), (["turn"], "nuisance: disturbed images are looked at")],
)
def test_ranges_need_labels_and_images_as_they_are(data, nuisance, named):
    for call in (ia.fit, ia.recommend):
        with pytest.raises(ia.InstaAugError, match=named if call is ia.fit else "through a table; use families"):
            call(ia.LearnedAugment(["rotate"]), Colours(), data[0], nuisance=nuisance)


@pytest.mark.parametrize("bands", [{"turn": (0.9, 0.5)}, {"rotate": (-1.0, -0.5)}, {"turn": 3}])
def test_bands_that_cannot_be_are_named_before_the_classifier_is_asked(data, bands):
    classifier, seen = Colours(), []
    classifier.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(ia.InstaAugError, match=r"entropy.*: (expected|bands for rotate)"):
        ia.fit(ia.LearnedAugment(["turn"]), classifier, data, config=ia.FitConfig(entropy=bands, progress=False))
    assert not seen
