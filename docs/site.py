"""Hook of mkdocs: the README as the first page, the tour, run, as a page and a notebook, and no links that lead out of the site."""

import ast
import base64
import io
import json
import re
import warnings
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.structure.files import File

DOCS = Path(__file__).parent


def cells(source: str) -> list[tuple[str, str]]:
    """The kind and text of every cell of a percent-format script (``# %%``)."""
    found = []
    for kind, text in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, re.S | re.M):
        text = text.strip("\n")
        found.append(("markdown", re.sub(r"^# ?", "", text, flags=re.M)) if kind else ("code", text))
    return found


class Cell(NamedTuple):
    """A cell, what it printed, and its last line's picture, PNG."""

    kind: str
    text: str
    printed: str = ""
    picture: bytes | None = None


@cache
def run(source: str) -> tuple[list[Cell], dict[str, Any]]:
    """Every cell with its outputs, and the names that the script leaves; one that warns is an error."""
    names: dict[str, Any] = {"__name__": "__main__"}
    done = []
    for kind, text in cells(source):
        printed, value = io.StringIO(), None
        if kind == "code":
            tree = ast.parse(text)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            with redirect_stdout(printed), warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                exec(compile(tree, "tour.py", "exec"), names)
                value = last and eval(compile(ast.Expression(last.value), "tour.py", "eval"), names)
        picture = value._repr_png_() if hasattr(value, "_repr_png_") else None
        done.append(Cell(kind, text, printed.getvalue(), picture))
    return done, names


def page(ran: list[Cell]) -> tuple[str, dict[str, bytes]]:
    """The script as a page, outputs below each cell, and its pictures by name."""
    parts, pictures, heading = [], {}, ""
    for cell in ran:
        if cell.kind == "markdown":
            heading = cell.text.splitlines()[0].lstrip("# ")
            parts.append(cell.text)
            continue
        parts.append(f"```python\n{cell.text}\n```")
        if cell.printed:
            parts.append(f'```text title="prints"\n{cell.printed.rstrip()}\n```')
        if cell.picture:
            name = f"tour-{len(pictures) + 1}.png"
            pictures[name] = cell.picture
            parts.append(f"![{heading}: the picture that this draws]({name})")
    return "\n\n".join(parts), pictures


def notebook(ran: list[Cell]) -> dict:
    """The script as a Jupyter notebook, with its outputs."""
    made, count = [], 0
    for number, cell in enumerate(ran):
        entry = {"cell_type": cell.kind, "id": f"cell-{number}", "metadata": {}}
        entry["source"] = cell.text.splitlines(keepends=True)
        if cell.kind == "code":
            count += 1
            outputs = []
            if cell.printed:
                lines = cell.printed.splitlines(keepends=True)
                outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
            if cell.picture:
                data = {"image/png": base64.b64encode(cell.picture).decode()}
                outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
            entry |= {"execution_count": count, "outputs": outputs}
        made.append(entry)
    return {"cells": made, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def on_files(files, config):
    """Add the pages that are made."""
    ran, _ = run((DOCS / "tour.py").read_text(encoding="utf-8"))
    tour, pictures = page(ran)
    readme = (
        (DOCS.parent / "README.md")
        .read_text(encoding="utf-8")
        .replace("](docs/", "](")
        .replace("(tour.py)", "(tour.md)")
    )
    made = {"index.md": readme, "tour.md": tour.replace("`tour.ipynb`", "[tour.ipynb](tour.ipynb)")}
    made |= {"tour.ipynb": json.dumps(notebook(ran), indent=1), **pictures}
    made |= {page: (DOCS.parent / path).read_text(encoding="utf-8") for page, path in PAGES.items()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


PAGES = {"weights.md": "hub/README.md", "changes.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_page_markdown(markdown, page, **_):
    """Links to pages that are made lead there; those to other files of the repository become the name of the file."""
    for name, path in PAGES.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(path)}", f"]({name}", markdown)
    if page.file.src_uri in PAGES:
        markdown = markdown.replace("](../docs/", "](").replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r'<span title="\2">\1</span>', markdown)
