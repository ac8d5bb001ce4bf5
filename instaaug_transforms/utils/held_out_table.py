"""The table of a fit's report, as the report and the model card show it."""

from collections.abc import Mapping, Sequence
from typing import Any


def show_table(rows: Sequence[Mapping[str, Any]], recommended: int | None = None) -> str:
    """What `HeldOutReport.rows` gave as a Markdown table, with an arrow at the recommended row."""
    from tabulate import tabulate

    by_classes = "top1" in rows[0]
    lines = []
    for i, row in enumerate(rows):
        figures = (
            [f"{row['top1']:.2f}", _interval(row, ".2f"), f"{row['nll']:.3f}"]
            if by_classes
            else [f"{row['loss']:.4g}", _interval(row, ".3g")]
        )
        figures[1] = figures[1] if i else ""
        lines.append([row["arm"] + (" ←" if i == recommended else ""), row["K"], f"{row['cost']:.3g}", *figures])
    measures = ["top-1 %", "points over one view [95 %]", "NLL"] if by_classes else ["loss", "below one view [95 %]"]
    return tabulate(lines, ["views", "K", "forwards", *measures], tablefmt="github", disable_numparse=True)


def _interval(row: Mapping[str, Any], digits: str) -> str:
    return f"{row['gain']:+{digits}} [{row['gain_low']:+{digits}}, {row['gain_high']:+{digits}}]"
