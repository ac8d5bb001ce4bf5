"""One self-contained HTML page of reports: text, tables and plots in a single file that needs no network."""

import base64
import html
import os
from pathlib import Path
from string import Template

from ..utils.errors import InstaAugError
from ..utils.files import check_folder, drawn, replace_file
from ..utils.report import Report, Section
from .invariance import InvarianceReport


def write_page(path: str | os.PathLike, report: Report, *others: Report, title: str | None = None) -> None:
    """Write reports to one HTML file, plots inside it as SVG.

    Args:
        path: the file.
        report: what comes first, of any kind.
        *others: any other reports, in any order.
        title: heading of the page; by default it names the model of an `InvarianceReport` that comes first.

    Raises:
        InstaAugError: something that is no report, a folder that does not exist, or matplotlib is not installed.
    """
    from .. import __version__

    path = check_folder(path)
    for each in (report, *others):
        if not isinstance(each, Report):
            raise InstaAugError(f"write_page: expected reports of `measure`, got {type(each).__name__}")
    sections = list(enumerate((section for each in (report, *others) for section in each.sections()), 1))
    heading = f"What {report.model} is invariant to" if isinstance(report, InvarianceReport) else sections[0][1].title
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=html.escape(title or heading),
        contents=" ".join(f'<a href="#s{k}">{html.escape(section.title)}</a>' for k, section in sections),
        sections="\n".join(_section(section, k) for k, section in sections),
        version=html.escape(__version__),
    )
    replace_file(path, page.encode())


def _section(section: Section, k: int) -> str:
    """The section as HTML, everything in it escaped; by its number, which two of one title do not share."""
    text = "".join(f"<p>{html.escape(line)}</p>" for line in section.text.split("\n") if line)
    picture = ""
    if section.draw:
        data = base64.b64encode(drawn(section.draw(), "svg", metadata={"Date": None})).decode()
        alt = html.escape(section.caption or "plot of the figures in the table below", quote=True)
        note = f"<figcaption>{html.escape(section.caption)}</figcaption>" if section.caption else ""
        picture = f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}">{note}</figure>'
    table = f'<div class="scroll">{section.table("html")}</div>' if section.records else ""
    return f'<section id="s{k}"><h2>{html.escape(section.title)}</h2>{text}{picture}{table}</section>'
