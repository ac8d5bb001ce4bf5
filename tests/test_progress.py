import io
import sys

import pytest

from instaaug_transforms.utils import progress


def work(**kwargs):
    with progress.bar(total=40, desc="table", unit="view", **kwargs) as shown:
        for _ in range(4):
            shown.update(10)


def test_a_log_gets_lines_with_what_is_planned_the_rate_and_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    work(progress=True, leave=False)
    shown = capsys.readouterr().err
    lines = shown.splitlines()
    assert "\r" not in shown and len(lines) >= 4 and lines[-1].startswith("table: 100%")
    assert "10/40" in shown and "view/s" in lines[-1] and "<00:00" in lines[-1]


@pytest.mark.parametrize("wanted", [None, False])
def test_a_log_gets_nothing_unless_it_is_asked_for(capsys, monkeypatch, wanted):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    work(progress=wanted)
    assert capsys.readouterr().err == ""


def test_short_work_leaves_no_line(capsys):
    work(progress=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wanted", [None, True, False])
def test_a_terminal_gets_a_bar_that_moves(monkeypatch, wanted):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    work(progress=wanted)
    assert ("\r" in sys.stderr.getvalue()) == (wanted is not False)
