"""One self-contained HTML page of reports: text, tables and plots in a single file that needs no network."""

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from tabulate import tabulate

from ..utils.files import replace_file
from . import plots
from .agreement import LearnedReport
from .comparison import Comparison
from .equivariance import EquivarianceReport
from .factors import FactorReport
from .invariance import InvarianceReport
from .lie import LieReport
from .stats import Interval

Cell = str | float | int

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
.facts { color: #555; max-width: none; }
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
<p class="facts">$facts</p>
<nav>$contents</nav>
$sections
<footer>Written by instaaug_transforms $version. Intervals are 95 % percentile bootstrap intervals over images, seed $seed.</footer>
</body>
</html>
""")


@dataclass(frozen=True)
class _Section:
    title: str
    text: str
    body: str

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-").replace("/", "-")

    def render(self) -> str:
        about = "".join(f"<p>{line}</p>" for line in self.text.split("\n") if line)
        return f'<section id="{self.anchor}"><h2>{html.escape(self.title)}</h2>{about}{self.body}</section>'


def write_page(path: str | os.PathLike, report: InvarianceReport, *others: Any, title: str | None = None) -> None:
    """Write reports to one HTML file, plots inside it as SVG.

    Args:
        path: the file.
        report: always there, and first.
        *others: `FactorReport`, `EquivarianceReport`, `LieReport`, `LearnedReport`, `Comparison`, in any order.
        title: heading of the page.
    """
    from .. import __version__

    sections = _invariance(report)
    for other in others:
        sections += _other(other, report)
    known = "" if np.isnan(report.accuracy).all() else f" · top-1 {100 * report.accuracy.mean():.1f} % untransformed"
    facts = (
        f"{report.model} · {report.layer} · {len(report.images)} images of {report.images.images.shape[-2]} × "
        f"{report.images.images.shape[-1]} pixels{known} · {_noise(report.noise)}"
    )
    page = PAGE.substitute(
        title=html.escape(title or f"What {report.model} is invariant to"),
        facts=html.escape(facts),
        contents=" ".join(f'<a href="#{s.anchor}">{html.escape(s.title)}</a>' for s in sections),
        sections="\n".join(section.render() for section in sections),
        version=html.escape(__version__),
        seed=report.seed,
    )
    replace_file(Path(path), page.encode())


def _noise(noise: float) -> str:
    return "the model is deterministic" if noise == 0 else f"two forwards of one image differ by up to {noise:.2g} (L2)"


def _invariance(report: InvarianceReport) -> list[_Section]:
    lines, raw = [], []
    for row in report.summary_rows():
        about: list[Cell] = [row["transformation"].replace("_", " "), row["fill"] or "–", row["range"]]
        line = list(about)
        for measure, form, scale in (
            ("relative_cosine", "+.2f", 1),
            ("relative_l2", "+.2f", 1),
            ("agreement", ".1f", 100),
            ("accuracy", ".1f", 100),
            ("p_true", ".3f", 1),
        ):
            line.append(_text(row, measure, form, scale))
        lines.append(line)
        distances = ("b_cosine", "d_cosine", "b_l2", "d_l2")
        raw.append([*about, *(_text(row, measure, ".3f", 1) for measure in distances)])
    head = ["transformation", "outside", "range"]
    measured = ["invariance, cosine", "invariance, L2", "same answer %", "top-1 %", "p(true)"]
    table = _table([*head, *measured], lines, right=5)
    raw_table = _table([*head, "b, cosine", "d, cosine", "b, L2", "d, L2"], raw, right=4)
    summary = _Section(
        "Invariance",
        "Relative invariance (b − d) / b compares d, how far a transformation moves an image's embedding, with b, how far "
        "the transformed embeddings of other images are: 1 is invariant, 0 is as far as another image. Values are means "
        "over all magnitudes but the identity.",
        _picture(plots.invariance(report), "Means over images, by magnitude. The grey upright line is the identity.")
        + table,
    )
    distances = _Section(
        "Raw distances",
        "A high relative invariance can come from a small d or a large b; these are both. An untrained network can "
        "seem less invariant than another merely because all of its embeddings lie close together.",
        _picture(plots.raw_distances(report), "Means over images and all magnitudes but the identity.") + raw_table,
    )
    found = [summary, distances]
    if report.images.labelled:
        picture = _picture(plots.per_class(report), "Mean relative invariance (cosine); classes by their mean.")
        found.append(_Section("Classes", "", picture))
    return found


def _other(report: Any, first: InvarianceReport) -> list[_Section]:
    if isinstance(report, FactorReport):
        return [_factors(report, first)]
    if isinstance(report, LearnedReport):
        text = (
            "The measured range is the interval around the identity over which the model keeps its answer. Over-reach: "
            "share of the learned range outside it. Coverage: share of it inside the learned range. Crops: Spearman's ρ "
            "over the anchors of an image; “shuffled” takes the probabilities of another image."
        )
        return [
            _Section(
                "Learned against measured", text, _picture(plots.learned_against_measured(report)) + _learned(report)
            )
        ]
    if isinstance(report, Comparison):
        names = list(report.reports)
        text = f"Paired differences to {html.escape(names[0])} on the same images, 95 % intervals over images."
        return [_Section("Before and after", text, _picture(plots.comparison(report)))]
    if isinstance(report, LieReport):
        lines = [
            [row["generator"], Interval(row["lee"], row["low"], row["high"]).text(".3g"), f"{row['relative']:.3g}"]
            for row in report.rows()
        ]
        text = (
            "How fast the embedding begins to move: LEE = E ‖L f(x)‖² / D (Gruver et al. 2023), per radian, image width, "
            "shear, log size or factor. Relative: √(E ‖L f‖² / E ‖f‖²)."
        )
        return [_Section("Local error", text, _table(["generator", "LEE [95 %]", "relative"], lines, right=2))]
    if isinstance(report, EquivarianceReport):
        rows = report.rows()
        numbers = [key for key, value in rows[0].items() if isinstance(value, float) and key != "magnitude"]
        keys = list(dict.fromkeys((row["transformation"], row["fill"]) for row in rows))
        lines = []
        for key in keys:
            of_key = [row for row in rows if (row["transformation"], row["fill"]) == key]
            means = [
                format(np.mean([row[number] for row in of_key]), ".3f" if number in ("b", "d") else "+.3f")
                for number in numbers
                if number not in _ENDS
            ]
            lines.append([key[0].replace("_", " "), key[1] or "–", *means])
        head = ["transformation", "outside", *(n.replace("_", " ") for n in numbers if n not in _ENDS)]
        text = f"Layer: {html.escape(report.layer)}. Means over magnitudes. {_meaning(report.kind)}"
        return [_Section(report.kind[0].upper() + report.kind[1:], text, _table(head, lines, right=len(head) - 2))]
    raise TypeError(f"write_page: no section for {type(report).__name__}")


def _learned(report: LearnedReport) -> str:
    """A line per field, a column per figure; crops, which have other figures, in a table of their own."""
    cells = {(row["field"], row["figure"]): Interval(row["mean"], row["low"], row["high"]) for row in report.rows()}
    tables = []
    for fields in (list(report.ranges), ["crop"]):
        figures = [figure for field, figure in cells if field == fields[0]] if fields else []
        if figures:
            form = {figure: "+.2f" if "correlation" in figure or "above" in figure else ".2f" for figure in figures}
            lines = [[field, *(cells[field, figure].text(form[figure]) for figure in figures)] for field in fields]
            tables.append(_table(["", *(figure.replace("_", " ") for figure in figures)], lines, right=len(figures)))
    return "".join(tables)


_ENDS = ("low", "high")


def _meaning(kind: str) -> str:
    if kind.startswith("displacement"):
        return (
            "Mean cosine between the displacements of different images: 1, all embeddings move the same way; 0, each its "
            "own. Shuffled: displacements to another image's transformed embedding."
        )
    return (
        "Relative: (b − d)/b of F(t(x)) against t(F(x)); 1, the map moves as the image does. Relative unmoved: against F(x) "
        "left where it is."
    )


def _factors(report: FactorReport, first: InvarianceReport) -> _Section:
    lines = [
        [
            row["rank"],
            row["factor"].replace("_", " "),
            row["kind"] or "–",
            f"{100 * row['share']:.1f}",
            f"{row['gain']:+.3f}",
        ]
        for row in report.ranking()
    ]
    share, chance = report.appearance()
    specific = report.specificity()
    text = (
        f"{len(report.before)} pairs of images of one class. Which transformation of the first brings it closest to the "
        "second, and what share of their distance it takes away (gain).\n"
        f"Appearance is best for {share.text('.0f', 100)} % of pairs ({100 * chance:.0f} % of the transformations tried). "
        f"Do classes differ in their factors? Cramér's V {specific.text()} (permutation test).\n"
    )
    if len(report.names) > 2 and set(report.names) <= {sweep.transformation.name for sweep in first.sweeps}:
        text += (
            f"Over transformations, gain against measured invariance: Spearman's ρ {report.alignment(first).text()}. "
        )
        if len(np.unique(report.targets)) > 2:
            text += f"Within classes: r {report.class_alignment(first).text()}."
    table = _table(["rank", "factor", "kind", "best for % of pairs", "mean gain"], lines, right=2)
    return _Section("Factors of variation", text, _picture(plots.factors(report)) + table)


def _text(row: dict[str, Any], measure: str, form: str, scale: float) -> str:
    found = Interval(row[measure], row[f"{measure}_low"], row[f"{measure}_high"])
    return found.text(form, scale)


def _table(headers: Sequence[str], lines: Sequence[Sequence[Cell]], right: int) -> str:
    """An HTML table (cells escaped), its last ``right`` columns aligned right."""
    align = ["left"] * (len(headers) - right) + ["right"] * right
    made = tabulate(lines, headers, tablefmt="html", disable_numparse=True, colalign=align)
    return f'<div class="scroll">{made}</div>'


def _picture(figure: Any, caption: str = "") -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    data = base64.b64encode(drawn.getvalue()).decode()
    alt = html.escape(caption or "plot of the figures in the table below", quote=True)
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}">{note}</figure>'
