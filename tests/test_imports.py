"""Imports point downward, and importing the package stays light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import instaaug_transforms

PACKAGE = Path(instaaug_transforms.__file__).parent

# From the bottom up. A module imports only modules of rooms below its own, or of its own room.
ROOMS = [
    "utils",
    "params",
    "functional",
    "distributions",
    "families",
    "predictors",
    "augment_distribution",
    "augment",
    "engine",
    "tta",
    "learning",
    "viz",
    "integrations",
    "measure",  # above viz, because reports draw themselves
    "cli",
]


def room(module: str) -> str:
    return module.split(".")[0]


def edges():
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = parts[: len(parts) - node.level]
                targets = [node.module] if node.module else [alias.name for alias in node.names]
                for target in targets:
                    full = (*base, *target.split("."))
                    if full[0] != "__version__":
                        yield ".".join(parts), ".".join(full)


def test_no_import_points_upward():
    rank = {name: i for i, name in enumerate(ROOMS)}
    found = list(edges())
    assert len(found) > 40
    for source, target in found:
        if room(source) != room(target):
            assert rank[room(target)] < rank[room(source)], f"{source} imports {target}"


def test_no_cycle_inside_a_folder():
    graph: dict[str, set[str]] = {}
    for source, target in edges():
        graph.setdefault(source, set()).add(target)
    done: set[str] = set()

    def visit(module, trail):
        assert module not in trail, f"cycle: {' → '.join([*trail, module])}"
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in list(graph):
        visit(module, ())


def test_timm_is_imported_in_one_module_and_matplotlib_in_one():
    for name, allowed in (("timm", "timm.py"), ("matplotlib", "viz"), ("sklearn", None)):
        users = set()
        for path in PACKAGE.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                if any(m.split(".")[0] == name for m in modules):
                    users.add("viz" if path.parent.name == "viz" else path.name)
        assert users <= {allowed}, (name, users)


def loaded(code: str, *modules: str) -> list[str]:
    """Which of the modules a fresh interpreter has imported after running ``code``."""
    code = f"import sys\n{code}\nprint([m for m in {modules!r} if m in sys.modules], file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ast.literal_eval(run.stderr)


def test_import_is_light():
    heavy = ("timm", "matplotlib", "sklearn", "scipy")
    assert loaded("import instaaug_transforms", "torch", *heavy) == []
    names = "LearnedAugment, TTAModel, InstaAugObjective, fit, list_weights"
    assert loaded(f"from instaaug_transforms import {names}", "torch", *heavy) == ["torch"]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_version_and_help_import_no_torch(arguments):
    code = f"""
from instaaug_transforms.cli.__main__ import main
try:
    main({arguments})
except SystemExit as end:
    assert end.code == 0"""
    assert loaded(code, "torch", "numpy", "PIL", "timm", "kornia") == []


def test_public_names():
    """The two tables of `instaaug_transforms`, for type checkers and for running, say the same."""
    tree = ast.parse(Path(instaaug_transforms.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If)).body
    checked = {alias.asname or alias.name: node.module for node in block for alias in node.names}
    assert set(checked) == {*instaaug_transforms.__all__, "kornia", "measure", "timm", "viz"}
    for name in instaaug_transforms.__all__:
        module = importlib.import_module(f"instaaug_transforms.{checked[name]}")
        assert getattr(instaaug_transforms, name) is getattr(module, name)
    assert sorted(instaaug_transforms.__all__) == instaaug_transforms.__all__
    assert set(checked) <= set(dir(instaaug_transforms)) and "_NAMES" in dir(instaaug_transforms)
    everything: dict = {}
    exec("from instaaug_transforms import *", everything)
    assert set(instaaug_transforms.__all__) <= set(everything)
    assert instaaug_transforms.timm is importlib.import_module("instaaug_transforms.integrations.timm")
    with pytest.raises(AttributeError, match="module 'instaaug_transforms' has no attribute 'nothing'"):
        _ = instaaug_transforms.nothing


def test_files_stay_short():
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: n for name, n in lines.items() if n > 350}
