"""Do the tests notice? Mistakes that tests of an earlier version let through, made again in a copy of the repository.

``python -m tests.campaign.mutants`` prints what each of them was noticed by; any that no test notices is lost.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """A mistake: ``old`` becomes ``new`` in a file of the package, which some of ``tests`` (files, and what pytest takes after -k) should
    notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        "jitter only to one side",
        "families/crop.py",
        "move = (2 * uniform[..., :2] - 1)",
        "move = (uniform[..., :2])",
        "test_families.py -k jitter",
    ),
    Mutant(
        "jitter of the aspect only to one side",
        "families/crop.py",
        "((2 * uniform[..., 2] - 1) * ASPECT / 2)",
        "(uniform[..., 2] * ASPECT / 2)",
        "test_families.py -k jitter",
    ),
    Mutant(
        "Crop.frame_aspect returns its input",
        "families/crop.py",
        "return aspect * (params.w / params.h).to(aspect)",
        "return aspect",
        "test_families.py -k rigidly",
    ),
    Mutant(
        "reinforce's baseline is that of the same batch",
        "learning/objective.py",
        "torch.where(self.baseline.isnan(), mean, self.baseline))",
        "mean)",
        "test_objective.py -k earlier_batches",
    ),
    Mutant(
        "the antialiased copy's size by floor",
        "functional/antialias.py",
        "finer).round()",
        "finer) // 1",
        "test_functional_resample.py -k antialiased_as or every_size",
    ),
    Mutant(
        "the same while compiling",
        "functional/antialias.py",
        "finer).round()",
        "finer).floor()",
        "test_compile.py -k to_another_size",
    ),
    Mutant(
        "no clamp after bicubic",
        "functional/compose.py",
        "out = out.clamp(0, 1)",
        "pass",
        "test_functional_compose.py -k bicubic",
    ),
    Mutant(
        "choose_views without its guard for samples",
        "tta/views.py",
        'if select != "top":',
        "if False:",
        "test_tta.py -k views",
    ),
    Mutant(
        "choose_views with its guard for all",
        "tta/views.py",
        'if select != "top":',
        "if True:",
        "test_tta.py -k views",
    ),
    Mutant(
        "TTAModel shares φ's forward though a normalisation is set",
        "tta/classification.py",
        "self.aug.normalization is None and images.is_floating_point()",
        "images.is_floating_point()",
        "test_tta_features.py -k normalised",
    ),
    Mutant(
        "_rank without its penalty",
        "learning/fitting.py",
        ' + (0.0 if entry["in_band"] else entry["outside"])',
        "",
        "test_fit.py -k a_nat",
    ),
    Mutant(
        "the loss table knows nothing of output_size",
        "learning/loss_table.py",
        'kept = ("families", "output_size", "fill", "interpolation")',
        'kept = ("families", "fill", "interpolation")',
        "test_fit_resume.py -k output_size",
    ),
    Mutant(
        "hold_out's training part holds what is held out",
        "engine/splits.py",
        "return data.subset(order[held:]), data.subset(order[:held])",
        "return data, data.subset(order[:held])",
        "test_engine_splits.py -k held_out",
    ),
]


def noticed(mutant: Mutant) -> str | None:
    """The first test that fails with it, or None."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in ("instaaug_transforms", "tests", "hub"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "instaaug_transforms" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.file} does not hold {mutant.old!r} once; write the mutant anew")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        names, _, which = mutant.tests.partition(" -k ")
        tests = [*(f"tests/{name}" for name in names.split()), "-k", which]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
        out = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False).stdout
    failed = [line.split()[1] for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name holds this")
    wanted = [mutant for mutant in MUTANTS if parser.parse_args().only in mutant.name]
    lost = 0
    for mutant in wanted:
        by = noticed(mutant)
        lost += by is None
        print(f"{mutant.name}: {by or 'NOT NOTICED'}", flush=True)
    print(f"mutants {len(wanted)}, lost {lost}")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
