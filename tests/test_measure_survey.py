import numpy as np
import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure import displacement_alignment, factors_of_variation, survey

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
    found = survey(model, data, **ARGUMENTS)
    assert model.forwards == single
    for ours, theirs in zip(found.invariance.sweeps, alone.sweeps, strict=True):
        assert all(np.array_equal(ours.values[m], theirs.values[m], equal_nan=True) for m in ours.values)
    assert found.alignment.rows() == displacement_alignment(model, data, fills=0.0, **ARGUMENTS).rows()
    factors = factors_of_variation(model, data, fill=0.0, **ARGUMENTS)
    assert np.array_equal(found.factors.after, factors.after) and found.factors.rows() == factors.rows()


def test_without_pairs_there_are_no_factors():
    assert survey(Counted(), torch.rand(5, 3, 12, 12), **ARGUMENTS).factors is None
    assert survey(Counted(), (torch.rand(5, 3, 12, 12), torch.arange(5)), **ARGUMENTS).factors is None
