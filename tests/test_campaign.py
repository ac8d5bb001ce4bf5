"""The campaigns of `tests/campaign` in short: the same functions, a few cases each."""

import os
import subprocess
import sys

import pytest
import torch

from .campaign import files, numbers, pathologies, soak, together
from .campaign.tally import Tally

pytestmark = pytest.mark.usefixtures("one_thread")


def came_through(tally: Tally) -> None:
    assert tally.cases > 0 and not tally.lost, f"{tally}\n" + "\n".join(tally.lost[:10])


def test_damaged_and_forged_files_are_refused():
    came_through(files.campaign(90, seed=1))


def test_extreme_numbers():
    came_through(numbers.campaign(80, seed=1))


def test_hopeless_data(monkeypatch):
    every = pathologies.cases()
    few = {name: every[name] for name in ("a constant classifier", "classes ruled out", "NaN for some images")}
    monkeypatch.setattr(pathologies, "cases", lambda: few)
    came_through(pathologies.campaign(1, seed=1))


def test_nothing_grows(monkeypatch):
    monkeypatch.setattr(soak, "WARM", 20)
    came_through(soak.campaign(40, seed=1))


def test_threads_on_one_module():
    tally = Tally(1)
    together.threads(tally, together.random.Random(1))
    came_through(tally)


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    ["interrupted.campaign(3, 1, with_images=False)", 'together.campaign(1, 1, contexts=("fork",))'],
    ids=["interrupted", "together"],
)
def test_processes_that_are_killed_or_work_together(call):
    """In a process of their own: one that is forked from threads at work may wait for them for ever."""
    code = f"from tests.campaign import interrupted, together; tally = {call}; print(tally); assert not tally.lost, tally.lost"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def test_weights_that_rule_candidates_out_are_finite():
    """The entropy of what is left, by enumeration; no gradient that is not a number."""
    from instaaug_transforms.distributions import AnchorCategorical

    logits = torch.tensor([[0.0, -torch.inf, 1.0], [-torch.inf, 2.0, -torch.inf]], requires_grad=True)
    entropy = AnchorCategorical(logits).entropy()
    p = torch.tensor([1.0, torch.e]) / (1 + torch.e)
    assert torch.allclose(entropy, torch.stack([-(p * p.log()).sum(), torch.tensor(0.0)]), atol=1e-6)
    entropy.sum().backward()
    assert logits.grad.isfinite().all()
