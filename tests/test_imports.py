"""Imports point downward, and importing the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

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


def test_import_is_light():
    code = "import sys, instaaug_transforms; print([m for m in ('timm', 'matplotlib', 'sklearn', 'scipy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
