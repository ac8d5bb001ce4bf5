"""The scripts, estimators and families that docs/train.md lists are those there are."""

import re
from pathlib import Path

from instaaug_transforms.families import available
from instaaug_transforms.learning.estimators import ESTIMATORS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")


def test_every_script_estimator_and_family_exists():
    scripts = re.findall(r"`(examples/\w+\.py)`", PAGE)
    assert len(scripts) >= 7 and all((ROOT / script).is_file() for script in scripts)
    assert set(re.findall(r'^\| `"(\w+)"`', PAGE, re.M)) == set(ESTIMATORS)
    named = re.search(r"^Families: (.*?)\.$", PAGE, re.M | re.S).group(1)
    assert set(re.findall(r"`(\w+)`", named)) == set(available())
