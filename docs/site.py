"""Hook of mkdocs: the README as the first page, the tour as a page and a notebook, and no links that lead out of the site."""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

DOCS = Path(__file__).parent


def cells(source: str) -> list[tuple[str, str]]:
    """The kind and text of every cell of a percent-format script (``# %%``)."""
    found = []
    for kind, text in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, re.S | re.M):
        text = text.strip("\n")
        found.append(("markdown", re.sub(r"^# ?", "", text, flags=re.M)) if kind else ("code", text))
    return found


def notebook(source: str) -> dict:
    """The script as a Jupyter notebook, without outputs."""
    made = []
    for number, (kind, text) in enumerate(cells(source)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return {"cells": made, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def on_files(files, config):
    """Add the pages that are made."""
    source = (DOCS / "tour.py").read_text(encoding="utf-8")
    tour = "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells(source))
    readme = (
        (DOCS.parent / "README.md")
        .read_text(encoding="utf-8")
        .replace("](docs/", "](")
        .replace("(tour.py)", "(tour.md)")
    )
    made = {"index.md": readme, "tour.md": tour.replace("`tour.ipynb`", "[tour.ipynb](tour.ipynb)")}
    made |= {"tour.ipynb": json.dumps(notebook(source), indent=1)}
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
