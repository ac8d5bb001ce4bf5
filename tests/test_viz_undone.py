"""Images put right, and the classifier's answers above them."""

import copy
from itertools import pairwise

import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms import viz


def test_images_as_taken_go_to_the_classifier_in_the_size_of_views():
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)).eval()  # takes 8 × 8 alone
    figure = viz.put_right(ia.LearnedAugment(["turn"], output_size=8), classifier, torch.rand(2, 3, 16, 16))
    assert len(figure.axes) == 4 and all(axes.images[0].get_array().shape == (8, 8, 3) for axes in figure.axes)


def test_long_names_of_classes_do_not_run_into_each_other():
    """By matplotlib's own measure of the text."""
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 20 * 30, 5))
    name = "soft-coated wheaten terrier of the moor"
    figure = viz.put_right(ia.LearnedAugment(["turn"]), classifier, torch.rand(3, 3, 20, 30), lambda _: name)
    figure.canvas.draw()
    for row in (figure.axes[:3], figure.axes[3:]):
        boxes = [axes.title.get_window_extent() for axes in row]
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_put_right_asks_any_classifier_in_eval_mode_and_nothing_else():
    aug, images = ia.LearnedAugment(["turn"]), torch.rand(4, 3, 8, 8)
    layers = torch.nn.Conv2d(3, 5, 8), torch.nn.BatchNorm2d(5), torch.nn.Dropout(0.9), torch.nn.Flatten()
    classifier = torch.nn.Sequential(*layers).double()
    before = copy.deepcopy(classifier.state_dict())
    figure = viz.put_right(aug, classifier, images)  # in training mode, as it came
    p, index = classifier.eval()(images.double()).softmax(-1).max(-1)
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == [f"{i} {100 * x:.0f} %" for i, x in zip(index.tolist(), p.tolist(), strict=True)]
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    for wrong in (torch.nn.Conv2d(3, 5, 1), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))):
        with pytest.raises(ia.InstaAugError, match=r"classifier: expected logits \(B, classes\)"):
            viz.put_right(aug, wrong, images)


def test_names_of_classes_are_a_function_or_a_list():
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    aug, images = ia.LearnedAugment(["turn"]), torch.rand(1, 3, 2, 2)
    answer = classifier(images).argmax().item()
    names = ["cat", "dog, or so", "cow"]
    titles = [viz.put_right(aug, classifier, images, name).axes[0].get_title() for name in (names, names.__getitem__)]
    assert titles[0] == titles[1] and titles[0].startswith(names[answer].split(",")[0])
    for wrong, message in (
        (names[:2], "name: expected 3 names"),
        ("cat", "name: expected a function"),
        (7, "name: expected a function"),
    ):
        with pytest.raises(ia.InstaAugError, match=message):
            viz.put_right(aug, classifier, images, wrong)
