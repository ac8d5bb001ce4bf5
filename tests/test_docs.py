"""The README says what is so: its commands are those of CI, its code runs, its names exist."""

import re
from pathlib import Path

import pytest

import instaaug_transforms as ia

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_test_command_is_the_one_that_ci_runs():
    command = blocks("bash")[1].strip()
    assert "pytest" in command and "\n" not in command
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_first_command_is_the_quickstart():
    command = blocks("bash")[0].strip()
    assert command == 'pip install ".[demo]" && python examples/quickstart.py'


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_blocks_of_the_measuring_page_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "measure.md").read_text(encoding="utf-8")
    names = {"__name__": "measure"}
    for code in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(code, "measure.md", "exec"), names)
    assert (tmp_path / "report.html").exists() and "% recovered" in capsys.readouterr().out


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_public_name_is_documented():
    for name in ia.__all__:
        assert getattr(ia, name).__doc__, name


def test_model_cards_name_every_checkpoint():
    cards = (ROOT / "hub" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in cards for name in ia.list_weights())
    for name in ia.list_weights():
        assert (ROOT / "hub" / "recipes" / f"{name}.sh").exists()
