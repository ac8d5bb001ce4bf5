"""Nothing in the package runs what it reads."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [*sorted((ROOT / "instaaug_transforms").rglob("*.py")), ROOT / "hubconf.py", ROOT / "hub" / "add.py"]
# What it takes to read arbitrary objects, or to run text or programs.
MODULE_NAMES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "subprocess", "pty"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"system", "popen", "spawnl", "spawnv", "execv", "execvp", "allow_pickle"}
# Names from a module that are harmless: the error that `torch.load` raises.
ALLOWED = {("integrations/timm.py", "pickle.UnpicklingError")}


def findings(source: str, name: str = "") -> list[str]:
    """What a module's source uses of the above, and calls of ``torch.load`` that would unpickle objects."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            root = text.split(".")[0]
            if (root in MODULE_NAMES or node.attr in ATTRIBUTES) and (name, text) not in ALLOWED:
                found.append(text)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULE_NAMES and not node.level:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in BUILTINS:
                found.append(called)
            if (
                called in ("torch.load", "load_state_dict_from_url", "torch.hub.load")
                and given.get("weights_only") != "True"
            ):
                found.append(called)
            if given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False":
                found.append(f"{called} with shell or allow_pickle")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_it_reads(path):
    name = path.relative_to(ROOT).as_posix().removeprefix("instaaug_transforms/")
    assert findings(path.read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import loads",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval('1')",
        "exec('a = 1')",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run(['ls'])",
        "run('ls', shell=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_walk_finds_what_it_looks_for(source):
    assert findings(source)
