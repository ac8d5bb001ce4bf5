"""Mutation testing on a random sample: ``python -m tests.campaign.mutation --per-room 20 --seed 0``.

Mutants by `Cosmic Ray <https://cosmic-ray.readthedocs.io>`_ (``pip install cosmic-ray``): an operator, a number, a comparison is
another, a decorator is gone, a loop never runs. Places are drawn with equal chances, then one of the mutants of that place;
annotations and the texts of errors are left out. Each is tried by the test files of its module, in a process forked from one
that has imported everything but the package, so that it costs what its tests cost; the files on disk stay as they are.
"""

import argparse
import ast
import importlib.machinery
import itertools
import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "instaaug_transforms"
IMPORTED = "torch torch._dynamo torchvision.transforms.v2 scipy.optimize kornia timm safetensors.torch PIL.Image tqdm"
LONGER = 5  # times what the tests take without a mutant: a mutant that takes longer is noticed

# Rooms, their modules, and the tests of each, the quick ones first.
ROOMS = {
    "functional": {
        "functional/antialias.py": "functional_antialias functional_resample compile",
        "functional/backends.py": "functional_backends",
        "functional/compose.py": "functional_compose targets boxes",
        "functional/hsv.py": "functional_hsv",
        "functional/inputs.py": "inputs torchvision one_image",
        "functional/linear_rgb.py": "families_light",
        "functional/pictures.py": "pictures one_image",
        "functional/resample.py": "functional_resample functional_antialias functional_compose",
        "functional/targets.py": "targets boxes",
        "functional/warp.py": "functional_warp functional_compose",
    },
    "distributions": {
        "distributions.py": "distributions",
        "augment_distribution.py": "distributions augment families families_product",
    },
    "families": {
        "families/anchors.py": "families_tables families_heads families_protocol families families_turn families_product more_families",
        "families/base.py": "families_protocol families more_families",
        "families/blur.py": "families_protocol more_families",
        "families/boxed.py": "families_protocol more_families",
        "families/boxes.py": "families_heads families_tables families more_families",
        "families/crop.py": "families_tables families_heads families_protocol families",
        "families/erase.py": "families_protocol more_families",
        "families/hsv.py": "families_protocol families",
        "families/light.py": "families_light families_protocol",
        "families/local_colour.py": "families_protocol more_families",
        "families/mean_field_crop.py": "families_protocol more_families",
        "families/product.py": "families_product",
        "families/rotate.py": "families_protocol families",
        "families/scale.py": "families_protocol more_families",
        "families/shear.py": "families_protocol more_families",
        "families/translate.py": "families_protocol more_families",
        "families/turn.py": "families_turn families_protocol",
        "families/uniform.py": "families_ranges families_heads families_protocol families distributions more_families",
    },
    "estimators": {"learning/estimators.py": "estimators"},
    "fit": {
        "learning/fit.py": "fit_choice fit_views harmless fit fit_reported fit_resume engine_alike",
        "learning/fitting.py": "fit_steps fit_views fit_reported fit fit_resume",
    },
    "report": {
        "learning/arms.py": "learning_arms harmless harmless_judged",
        "learning/cross_fit.py": "cross_fit",
        "learning/harm.py": "harm recommendation_harm cross_fit",
        "learning/harmless.py": "harmless_chosen harmless",
        "learning/losses.py": "losses scores report_by_views",
        "learning/our_arms.py": "our_arms cross_fit learning_arms harmless",
        "learning/put_right.py": "put_right",
        "learning/recommendation.py": "recommendation harm recommendation_harm harmless report_by_views",
        "learning/report.py": "held_out_report harmless report_by_views",
        "learning/report_by_views.py": "report_by_views",
        "learning/scores.py": "scores harm harmless",
        "learning/strength.py": "cross_fit harmless harmless_chosen",
    },
    "tta": {
        "tta/aggregation.py": "tta_aggregation tta tta_put_right evaluation_arms",
        "tta/arms.py": "tta_arms evaluation_arms evaluation",
        "tta/calibration.py": "calibration evaluation_arms",
        "tta/classification.py": "tta tta_put_right tta_views tta_features harmless",
        "tta/compare.py": "evaluation tta_runner",
        "tta/inverse.py": "inverse",
        "tta/report.py": "tta_report report evaluation",
        "tta/runner.py": "evaluation tta_runner",
        "tta/segmentation.py": "inverse",
        "tta/views.py": "tta_views tta tta_put_right tta_features harmless",
        "tta/weights_per_scale.py": "evaluation_arms",
    },
    "weights": {"utils/weights.py": "weights old_files hub"},
}


class Mutant(NamedTuple):
    """One place in a module (line, column) and how it is changed there: an operator of Cosmic Ray and its occurrence."""

    file: str
    place: tuple[int, int]
    operator: str
    occurrence: int


def unwanted(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and raised errors begin and end."""
    nodes = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, name, None) for name in ("annotation", "returns")]
        nodes += [node] if isinstance(node, ast.Raise) else []
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes if n is not None]


def mutants(file: str) -> list[Mutant]:
    """All mutants of a module."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (PACKAGE / file).read_text(encoding="utf-8")
    spans, nodes, found = unwanted(source), list(ast_nodes(get_ast(source))), []
    for name in operator_names():
        if re.search("NoOp|Variable|Bit|Shift", name):  # bits of floats: any call notices
            continue
        operator = get_operator(name)()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, place in enumerate(places):
            if not any(start <= place < end for start, end in spans):
                found.append(Mutant(file, place, name, occurrence))
    return found


def sample(room: str, n: int, rng: random.Random) -> list[Mutant]:
    """``n`` mutants of a room, at different places."""
    places: dict[tuple, list[Mutant]] = {}
    for file in ROOMS[room]:
        for mutant in mutants(file):
            places.setdefault((file, mutant.place), []).append(mutant)
    chosen = [rng.choice(places[place]) for place in rng.sample(sorted(places), len(places))]
    return list(itertools.islice(filter(valid, chosen), n))


def mutated(mutant: Mutant) -> str:
    """Its module's source."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (PACKAGE / mutant.file).read_text(encoding="utf-8")
    return mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)


def valid(mutant: Mutant) -> bool:
    try:
        return bool(ast.parse(mutated(mutant)))
    except SyntaxError:
        return False


def run_tests(tests: str, file: Path | None = None, source: str = "", limit: float = 3600.0) -> tuple[bool, float]:
    """Whether tests fail with a module's source replaced, or take more than ``limit`` seconds, and the seconds that took."""
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.setpgid(0, 0)
        real = importlib.machinery.SourceFileLoader.get_code

        def get_code(self, name):
            return compile(source, self.path, "exec") if Path(self.path) == file else real(self, name)

        importlib.machinery.SourceFileLoader.get_code = get_code
        import pytest

        files = [f"tests/test_{name}.py" for name in tests.split()]
        failed = 1
        try:
            failed = pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-m", "not slow", *files])
        finally:
            os._exit(int(failed != 0))
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        time.sleep(0.05)
        if time.monotonic() - start > limit:
            os.killpg(pid, signal.SIGKILL)
    return ended[1] != 0, time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-room", type=int, default=20, help="mutants (%(default)s)")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    arguments = parser.parse_args()
    for name in IMPORTED.split():
        importlib.import_module(name)
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    every = 0
    for room in arguments.rooms:
        killed, chosen = 0, sample(room, arguments.per_room, random.Random(f"{arguments.seed} {room}"))
        for file in sorted({mutant.file for mutant in chosen}):
            failed, usual = run_tests(ROOMS[room][file])
            if failed:
                raise SystemExit(f"{file}: its tests fail without any mutant")
            source = (PACKAGE / file).read_text(encoding="utf-8")
            for mutant in (one for one in chosen if one.file == file):
                text = mutated(mutant)
                failed, seconds = run_tests(ROOMS[room][file], PACKAGE / file, text, 30 + LONGER * usual)
                killed += failed
                line = source.splitlines()[mutant.place[0] - 1].strip()
                now = text.splitlines()[mutant.place[0] - 1].strip()
                verdict = "killed" if failed else "SURVIVED"
                print(
                    f"{verdict} {seconds:.0f} s {file}:{mutant.place[0]} {mutant.operator}: {line} → {now}", flush=True
                )
        every += len(chosen) - killed
        print(f"{room}: seed {arguments.seed}, mutants {len(chosen)}, killed {killed}", flush=True)
    return int(every > 0)


if __name__ == "__main__":
    sys.exit(main())
