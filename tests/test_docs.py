"""The README says what is so: its commands are those of CI, its code runs, its names exist."""

import re
import shlex
import sys
import types
from pathlib import Path

import pytest

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.predictors import base as predictors

from .test_imports import ROOMS

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_the_test_command_is_the_one_that_ci_runs():
    command = blocks("bash")[1].strip()
    assert "pytest" in command and "\n" not in command
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_first_command_is_the_quickstart():
    command = blocks("bash")[0].strip()
    assert command == 'pip install ".[demo]" && python examples/quickstart.py'


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(families, "_REGISTRY", dict(families._REGISTRY))  # what a page registers stays on it
    monkeypatch.setattr(predictors, "_REGISTRY", dict(predictors._REGISTRY))
    module = types.ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where registries look for what a page defines
    for code in blocks("python", page.read_text("utf-8")):
        exec(compile(code, page.name, "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_commands_exist(page, capsys):
    """Every ``instaaug`` command of a page is parsed as it stands."""
    commands = re.findall(r"^instaaug (.*?[^\\\\])$", "\n".join(blocks("bash", page.read_text("utf-8"))), re.S | re.M)
    for command in commands:
        known, words = set(), shlex.split(command.replace("\\\n", " "))
        with pytest.raises(SystemExit):
            main([words[0], "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known, command


def test_pictures_and_links_exist():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_public_name_is_documented():
    for name in ia.__all__:
        assert getattr(ia, name).__doc__, name


def test_model_cards_name_every_checkpoint():
    cards = (ROOT / "hub" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in cards for name in ia.list_weights())
    for name in ia.list_weights():
        assert (ROOT / "hub" / "recipes" / f"{name}.sh").exists()


def test_every_yes_of_the_feature_table_leads_to_a_test():
    table = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    features = [row for row in rows if not row.startswith("| **")]
    assert len(features) > 45 and all(row.count("|") == 11 for row in rows)
    for row in features:
        *_, torchvision, _, _, ttach, _, _, _, _, ours, _ = (cell.strip() for cell in row.split("|"))
        linked = re.fullmatch(r"\[yes\]\(\.\./tests/(\w+\.py)#(test_\w+)\)", ours)
        if linked is None:
            assert ours.startswith("no") and torchvision != "yes" and ttach != "yes", row
        else:
            file, test = linked.groups()
            assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), row


def test_architecture_names_every_room_and_only_files_that_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = page[page.index("## The rooms") : page.index("## The way of one image")]
    assert re.findall(r"^\| `(\w+)` \|", rooms, re.M) == ROOMS
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", page)
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "instaaug_transforms" / path).exists(), path


def test_readme_is_short():
    assert len(README.splitlines()) <= 90
