"""The site: its tour runs and is a valid notebook, its pages are all there, its messages are the package's."""

import base64
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CODE = "\n".join(path.read_text("utf-8") for path in (ROOT / "instaaug_transforms").rglob("*.py"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def hook():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdocs", "mkdocs.structure", "mkdocs.structure.files"):  # which need not be installed
            patch.setitem(sys.modules, name, types.SimpleNamespace(File=None))
        spec = importlib.util.spec_from_file_location("site_hook", DOCS / "site.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.slow
def test_the_tour_runs_and_puts_turned_digits_right(hook, one_thread):
    """As the site is built: the page shows what is printed and drawn."""
    ran, after = hook.run((DOCS / "tour.py").read_text("utf-8"))
    accuracy, model, labels = after["accuracy"], after["model"], after["labels"][after["test"]]
    plain = accuracy(after["classifier"], after["turned"], labels)
    assert accuracy(model, after["turned"], labels) > plain + 20
    assert accuracy(model, after["images"][after["test"]], labels) > 85
    assert {"run", "epoch", "loss"} < set(after["epochs"][0]) and len(after["history"]) == 3
    page, pictures = hook.page(ran)
    assert f"turned {plain:.1f} %" in page and "recommended: ours" in page and "'lambda/rotate'" in page
    assert len(pictures) == 2 and all(f"]({name})" in page for name in pictures)
    outputs = [output for cell in hook.notebook(ran)["cells"] for output in cell.get("outputs", ())]
    assert [output["output_type"] for output in outputs].count("display_data") == 2


SCRIPT = """# %% [markdown]
# # Title
# Words.

# %%
a = 2
print("a is", a)
a + 1

# %%
import types
types.SimpleNamespace(_repr_png_=lambda: b"PNG")
"""


def test_cells_are_run_and_their_outputs_are_below_them(hook):
    ran, names = hook.run(SCRIPT)
    assert names["a"] == 2 and [cell.printed for cell in ran] == ["", "a is 2\n", ""]
    page, pictures = hook.page(ran)
    assert pictures == {"tour-1.png": b"PNG"} and page.startswith("# Title\nWords.")
    assert (
        page.index("print(")
        < page.index("\na is 2\n")
        < page.index("![Title: the picture that this draws](tour-1.png)")
    )
    first, second = [cell["outputs"] for cell in hook.notebook(ran)["cells"] if cell["cell_type"] == "code"]
    assert first[0]["text"] == ["a is 2\n"] and base64.b64decode(second[0]["data"]["image/png"]) == b"PNG"


def test_a_tour_that_warns_does_not_build(hook):
    with pytest.raises(UserWarning, match="old"):
        hook.run("# %%\nimport warnings\nwarnings.warn('old')\n")


def test_the_tour_is_a_notebook(hook):
    source = (DOCS / "tour.py").read_text("utf-8")
    made = hook.notebook([hook.Cell(*cell) for cell in hook.cells(source)])["cells"]
    assert len(made) == len(re.findall(r"^# %%", source, re.M)) and {cell["cell_type"] for cell in made} == {
        "code",
        "markdown",
    }
    assert "".join(made[0]["source"]).startswith("# A tour")
    code = ["".join(cell["source"]) for cell in made if cell["cell_type"] == "code"]
    assert all(line in source for text in code for line in text.splitlines())


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").split("nav:")[1]
    assert {path.name for path in DOCS.glob("*.md")} <= set(re.findall(r"[\w-]+\.md", nav))


def test_messages_on_the_troubleshooting_page_are_those_of_the_package():
    """The words before the first value; in the code they may be broken over lines and hold values."""
    code = re.sub(r'"\s*\n\s*f?"', "", CODE)
    for message in re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.M):
        argument, _, rest = message.partition(": ")
        words = max(re.split(r"…|'[^']*'|\d+|cuda:0|cpu|\[0, 1\]", rest), key=len).strip(" ,()")
        assert f"{argument}:" in code and words in code, message


def test_every_public_name_is_on_the_api_page_or_is_an_error():
    import instaaug_transforms as ia

    listed = set(re.findall(r"^::: instaaug_transforms\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.M))
    assert listed <= set(ia.__all__) and len(listed) > 20
