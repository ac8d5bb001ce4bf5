"""The scripts, estimators and families that docs/train.md lists are those there are, and commands are such as run."""

import re
from pathlib import Path

import pytest

from instaaug_transforms.families import available
from instaaug_transforms.learning.estimators import ESTIMATORS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")


def test_every_script_estimator_and_family_exists():
    scripts = re.findall(r"^\| `(examples/[\w/]+\.py)`", PAGE, re.M)
    assert len(scripts) >= 15 and all((ROOT / script).is_file() for script in scripts)
    assert {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")} < set(scripts)
    assert set(re.findall(r'^\| `"(\w+)"`', PAGE, re.M)) == set(ESTIMATORS)
    named = re.search(r"^Families: (.*?)\.$", PAGE, re.M | re.S).group(1)
    assert set(re.findall(r"`(\w+)`", named)) == set(available())


def commands() -> dict[str, set[str]]:
    """Script to the options that any page gives it."""
    found: dict[str, set[str]] = {}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for script, rest in re.findall(r"python examples/([\w/]+\.py)((?:(?!python |instaaug |`|\n\n).)*)", text, re.S):
            found.setdefault(script, set()).update(re.findall(r"--[a-z-]+", rest))
    return found


@pytest.mark.parametrize("script", sorted(commands()))
def test_options_of_scripts_exist(script, example, capsys):
    with pytest.raises(SystemExit):
        example(script, "--help")
    assert commands()[script] <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
