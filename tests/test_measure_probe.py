import pickle

import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms import measure
from instaaug_transforms.measure import Probe, prepare

pytestmark = pytest.mark.usefixtures("one_thread")
ARGUMENTS = {"transformations": ["rotate", "hue", "zoom_in"], "progress": False, "seed": 5}


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.forwards = nn.Linear(3 * 12 * 12, 8), 0

    def forward(self, x):
        self.forwards += len(x)
        return self.body(x.flatten(1))


def test_one_pass_gives_what_three_give():
    model, data = Counted(), (torch.rand(18, 3, 12, 12), torch.arange(18) % 3)
    alone = ia.measure_invariance(model, data, **ARGUMENTS)
    single, model.forwards = model.forwards, 0
    probe = Probe(model, data, **ARGUMENTS)
    survey = probe.survey()
    assert model.forwards == single
    for ours, theirs in zip(survey.invariance.sweeps, alone.sweeps, strict=True):
        assert all(np.array_equal(ours.values[m], theirs.values[m], equal_nan=True) for m in ours.values)
    assert survey.alignment.rows() == probe.alignment().rows()
    assert {row["fill"] for row in survey.alignment.rows()} == {"black", "reflection", ""}
    model.forwards = 0
    factors = probe.factors()
    assert model.forwards < single  # one fill
    assert np.array_equal(survey.factors.after, factors.after) and survey.factors.rows() == factors.rows()
    assert survey.factors.invariance is survey.invariance and factors.invariance is None


def test_the_model_may_change_between_measurements_and_is_left_alone():
    model, data = Counted().train(), torch.rand(6, 3, 12, 12)
    probe = Probe(model, data, **ARGUMENTS)
    before = probe.invariance().rows()
    with torch.no_grad():
        model.body.weight.mul_(2)
    assert probe.invariance().rows() != before
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_probes_images_serve_another_probe():
    model = Counted()
    first = Probe(model, (torch.rand(20, 3, 12, 12), torch.arange(20) % 3), 8, **ARGUMENTS)
    second = Probe(model, first.images, **ARGUMENTS)
    assert second.images is first.images and second.invariance().rows() == first.invariance().rows()
    assert len(Probe(model, first.images, 3, **ARGUMENTS).images) == 3


def test_without_pairs_there_are_no_factors():
    for data in (torch.rand(5, 3, 12, 12), (torch.rand(5, 3, 12, 12), torch.arange(5))):
        assert Probe(Counted(), data, **ARGUMENTS).survey().factors is None


def test_options_that_would_be_ignored_or_break_later_are_refused():
    """What was prepared keeps its normalisation: another one changed nothing, and the model got other images than was said."""
    half, fifth = (0.5,) * 3, (0.2,) * 3
    images = prepare(torch.rand(6, 3, 12, 12), normalization=None)
    with pytest.raises(ia.InstaAugError, match=r"normalization: .*prepared with none, got \(\(0.5"):
        Probe(Counted(), images, normalization=(half, fifth), **ARGUMENTS)
    normalised = prepare((torch.rand(6, 3, 12, 12) - 0.5) / 0.2, normalization=(half, fifth))
    assert Probe(Counted(), normalised, normalization=(half, fifth), **ARGUMENTS).images is normalised
    assert Probe(Counted(), normalised, **ARGUMENTS).images is normalised
    for size in (0, 2.0):
        with pytest.raises(ia.InstaAugError, match=f"batch_size: expected a whole number ≥ 1, got {size}"):
            Probe(Counted(), images, batch_size=size, **ARGUMENTS)


def test_a_compiled_model_is_measured_as_it_was_before():
    """Nothing is compiled, no limit of recompilations is met, and layers go by the names they have in the model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    compiled = []
    backend = lambda graph, _: compiled.append(graph) or graph.forward  # noqa: E731
    data = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    settings = {"transformations": ["rotate"], "layer": "2", "progress": False}
    rows = [
        Probe(each, data, **settings).invariance().summary_rows()
        for each in (model, torch.compile(model, backend=backend))
    ]
    assert rows[0] == rows[1] and compiled == []


def test_reports_can_be_pickled_and_compared_afterwards():
    """Kept and read again later, say; they hold their transformations, whose functions were inner ones."""
    model, data = Counted(), (torch.rand(12, 3, 12, 12), torch.arange(12) % 3)
    survey = Probe(model, data, progress=False).survey()
    again = pickle.loads(pickle.dumps(survey))
    for kind in ("invariance", "factors", "alignment"):
        assert getattr(again, kind).summary() == getattr(survey, kind).summary()
    report = measure.compare({"before": survey.invariance, "after": again.invariance})
    assert len(report.rows()) == len(measure.compare({"a": survey.invariance, "b": survey.invariance}).rows()) > 0
