"""One self-contained HTML page of reports: text, tables and plots in a single file that needs no network."""

import base64
import html
import io
import os
from string import Template
from typing import Any

from ..utils.errors import InstaAugError
from ..utils.files import replace_file
from .invariance import InvarianceReport
from .report import Report, Section

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1f1f1f; background: #fff;
       max-width: 1120px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; padding-top: .8rem; border-top: 1px solid #ddd; }
p { margin: .4rem 0; max-width: 78ch; }
nav a { margin-right: 1.1rem; color: #c8102e; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #eee; }
th { border-bottom: 1px solid #999; font-weight: 600; }
td[style*="right"], th[style*="right"] { text-align: right; }
tr:hover td { background: #f7f7f7; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption { font-size: .84rem; color: #555; max-width: 90ch; }
footer { margin-top: 3rem; font-size: .8rem; color: #777; }
</style>
</head>
<body>
<h1>$title</h1>
<nav>$contents</nav>
$sections
<footer>Written by instaaug_transforms $version. Intervals are 95 % percentile bootstrap intervals over images.</footer>
</body>
</html>
""")


def write_page(path: str | os.PathLike, report: InvarianceReport, *others: Report, title: str | None = None) -> None:
    """Write reports to one HTML file, plots inside it as SVG.

    Args:
        path: the file.
        report: what comes first.
        *others: any other reports, in any order.
        title: heading of the page.

    Raises:
        InstaAugError: something that is no report, or matplotlib is not installed.
    """
    from .. import __version__

    for other in others:
        if not isinstance(other, Report):
            raise InstaAugError(
                f"write_page: expected reports of instaaug_transforms.measure, got {type(other).__name__}"
            )
    sections = [section for each in (report, *others) for section in each.sections()]
    page = PAGE.substitute(
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
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    data = base64.b64encode(svg.getvalue()).decode()
    alt = html.escape(caption or "plot of the figures in the table below", quote=True)
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}">{note}</figure>'
