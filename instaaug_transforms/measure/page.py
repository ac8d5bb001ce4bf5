"""One self-contained HTML page of reports: text, tables and plots in a single file that needs no network."""

import base64
import html
import os
from pathlib import Path
from string import Template
from typing import Any

from ..utils.errors import InstaAugError
from ..utils.files import check_folder, drawn, replace_file
from ..utils.report import Report, Section
from .invariance import InvarianceReport

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(path: str | os.PathLike, report: InvarianceReport, *others: Report, title: str | None = None) -> None:
    """Write reports to one HTML file, plots inside it as SVG.

    Args:
        path: the file.
        report: what comes first.
        *others: any other reports, in any order.
        title: heading of the page.

    Raises:
        InstaAugError: something that is no report, a folder that does not exist, or matplotlib is not installed.
    """
    from .. import __version__

    path = check_folder(path)
    for other in others:
        if not isinstance(other, Report):
            raise InstaAugError(f"write_page: expected reports of `measure`, got {type(other).__name__}")
    sections = [section for each in (report, *others) for section in each.sections()]
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(title or f"What {report.model} is invariant to"),
        contents=" ".join(f'<a href="#{_anchor(s)}">{html.escape(s.title)}</a>' for s in sections),
        sections="\n".join(_section(s) for s in sections),
        version=html.escape(__version__),
    )
    replace_file(path, page.encode())


def _anchor(section: Section) -> str:
    return section.title.lower().replace(" ", "-").replace("/", "-")


def _section(section: Section) -> str:
    """The section as HTML, everything in it escaped."""
    text = "".join(f"<p>{html.escape(line)}</p>" for line in section.text.split("\n") if line)
    picture = _picture(section.draw(), section.caption) if section.draw else ""
    table = f'<div class="scroll">{section.table("html")}</div>' if section.records else ""
    return f'<section id="{_anchor(section)}"><h2>{html.escape(section.title)}</h2>{text}{picture}{table}</section>'


def _picture(figure: Any, caption: str) -> str:
    data = base64.b64encode(drawn(figure, "svg", metadata={"Date": None})).decode()
    alt = html.escape(caption or "plot of the figures in the table below", quote=True)
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}">{note}</figure>'
