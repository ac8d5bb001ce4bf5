"""The table of a fit's report, as the report and the model card show it."""

from collections.abc import Mapping, Sequence
from typing import Any


def show_table(rows: Sequence[Mapping[str, Any]], recommended: int | None = None) -> str:
    """What `HeldOutReport.rows` gave as a Markdown table, with an arrow at the recommended row."""
    from tabulate import tabulate

    by_classes, undisturbed, lines = "top1" in rows[0], "undisturbed" in rows[0], []
    for i, row in enumerate(rows):
        if by_classes:
            figures = [f"{row['top1']:.2f}", _interval(row, "gain", ".2f") if i else "", f"{row['nll']:.3f}"]
        else:
            figures = [f"{row['loss']:.4g}", _interval(row, "gain", ".3g") if i else ""]
        if undisturbed:
            figures.append(_interval(row, "undisturbed", ".2f" if by_classes else ".3g") if i else "")
        lines.append([row["arm"] + (" ←" if i == recommended else ""), row["K"], f"{row['cost']:.3g}", *figures])
    measures = ["top-1 %", "points over one view [95 %]", "NLL"] if by_classes else ["loss", "below one view [95 %]"]
    as_they_are = "images as they are, points" if by_classes else "images as they are, below one view"
    measures += [as_they_are] if undisturbed else []
    return tabulate(lines, ["views", "K", "forwards", *measures], tablefmt="github", disable_numparse=True)


def _interval(row: Mapping[str, Any], name: str, digits: str) -> str:
    return f"{row[name]:+{digits}} [{row[f'{name}_low']:+{digits}}, {row[f'{name}_high']:+{digits}}]"
