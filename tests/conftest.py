"""Every test runs on the CPU, offline, on two threads, with its own seed."""

import pytest
import torch

import instaaug_transforms as ia


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(2)
    torch.manual_seed(0)


@pytest.fixture
def one_thread(_seeded):
    """For thousands of tiny forwards: starting threads takes longer than the work, far longer on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32)


@pytest.fixture
def lively():
    """A transform of all three families whose ranges are wide and differ between images, as after a fit."""
    return make_lively(["crop", "rotate", "hsv"])


def make_lively(families, **kwargs) -> ia.LearnedAugment:
    torch.manual_seed(1)
    aug = ia.LearnedAugment(families, **kwargs)
    with torch.no_grad():
        for head in aug.predictor.heads.values():
            if hasattr(head, "out"):
                head.out.weight.normal_(0, 0.1)
                head.out.bias.zero_()
            else:
                head.weight.normal_(0, 0.1)
                head.bias.zero_()
    return aug
