"""The lowest versions that pyproject.toml allows: ``python -m tests.campaign.floors --python python3.11``.

A fresh virtual environment with every requirement at its floor, those of the extra ``dev`` too, and tests of every room in
it. A floor that cannot be installed, or that tests fail with, ends it with status 1.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("ruff", "build", "twine")  # of the extra dev: no test runs them
# The quick ones of every room, and those that come near to what dependencies change: files, kernels, PIL, compilers.
TESTS = (
    "params distributions weights stats functional_compose functional_resample functional_backends functional_hsv inputs "
    "boxes torchvision families more_families predictors features augment one_image engine_rows engine_data tta inverse "
    "evaluation fit_resume objective estimators learning viz kornia timm measure_probe measure_invariance cli cli_data old_files "
    "compile export hub_hf targets"
)


def floors(requirements: list[str]) -> list[str]:
    """``name>=1.2`` to ``name==1.2``; what has no floor stays as it is."""
    return [re.sub(r">=", "==", one) for one in requirements if re.split(r"\W", one)[0] not in TOOLS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="that makes the environment (%(default)s)")
    parser.add_argument("--venv", type=Path, help="where; kept, and used again if it is there (a temporary folder)")
    parser.add_argument("--tests", default=TESTS, help="names of files, tests/test_NAME.py (a few of every room)")
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = floors(project["dependencies"] + project["optional-dependencies"]["dev"])
    with tempfile.TemporaryDirectory() as scratch:
        venv = arguments.venv or Path(scratch) / "venv"
        if not venv.is_dir():
            subprocess.run([arguments.python, "-m", "venv", venv], check=True)
        python = venv / "bin" / "python"
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        print("\n".join(wanted), flush=True)
        tests = [f"tests/test_{name}.py" for name in arguments.tests.split()]
        # What old versions deprecate in each other is theirs: timm 1.0.20 imports what torch 2.11 deprecates.
        pytest = [
            python,
            "-m",
            "pytest",
            "-q",
            "-W",
            "ignore::DeprecationWarning",
            "-W",
            "ignore::FutureWarning",
            *tests,
        ]
        commands = [[*pip, "install", *wanted], [*pip, "check"], pytest]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return next(
            (1 for one in commands if subprocess.run(one, cwd=ROOT, env=environment, check=False).returncode), 0
        )


if __name__ == "__main__":
    sys.exit(main())
