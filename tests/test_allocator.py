"""Keeping freed memory: faults of a process of its own that uses and frees a large tensor again and again."""

import subprocess
import sys

import pytest

PAGES = """
import resource, sys, torch
from instaaug_transforms.utils.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
for _ in range(20):
    torch.ones(50_000_000 // 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(50_000_000 // 4)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
    kept, count = run.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_large_tensors_are_not_asked_for_again(monkeypatch):
    plain = faults("plain", monkeypatch)[1]
    kept, count = faults("keep", monkeypatch)
    if kept == "False":
        pytest.skip("no glibc, or the environment says what malloc shall do")
    assert count < plain / 20, (count, plain)


def test_what_the_environment_says_of_malloc_holds(monkeypatch):
    assert faults("keep", monkeypatch, MALLOC_TOP_PAD_="131072")[0] == "False"
