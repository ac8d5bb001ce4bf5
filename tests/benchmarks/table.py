"""The JSON of a benchmark run to the tables and the picture of docs/speed.md:

python -m pytest tests/benchmarks --benchmark-json speed.json
python tests/benchmarks/table.py speed.json
"""

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).parent.parent.parent
PAGE, PICTURE = ROOT / "docs" / "speed.md", ROOT / "docs" / "images" / "scaling.png"
START, END = "<!-- figures: written by tests/benchmarks/table.py -->", "<!-- end of figures -->"


def machine(run: dict) -> str:
    """One line about where and when it ran."""
    info = run["machine_info"]
    versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
    cpu = info.get("cpu", {}).get("brand_raw") or info.get("processor") or info["machine"]
    commit = run.get("commit_info", {}).get("id", "")[:7]
    gpu = f", {info['gpu']}" if info.get("gpu") else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}; {versions}; {run['datetime'][:10]}, commit {commit}."


def rows_of(run: dict) -> list[dict]:
    """One row per work and rival, with a ratio per setting."""
    rows: dict[tuple, dict] = {}
    for benchmark in run["benchmarks"]:
        for bar in benchmark["extra_info"].get("bars", []):
            row = rows.setdefault((bar["work"], bar["against"]), {"bar": bar["bar"], "settings": {}})
            row["settings"][bar["setting"]] = bar
    return [{"work": work, "against": against, **row} for (work, against), row in rows.items()]


def figure(bar: dict | None, limit: float | None) -> str:
    """``0.71 (0.68)``: the ratio, that of the fastest rounds; bold where it is above the bar."""
    if bar is None:
        return ""
    text = f"{bar['ratio']:.2f}"
    if limit is not None and bar["ratio"] > limit:
        text = f"**{text}**"
    return text + (f" ({bar['fastest']:.2f})" if "fastest" in bar else "")


def table(rows: Iterable[dict], with_time: bool) -> str:
    """Markdown, the settings that occur side by side."""
    rows = list(rows)
    settings = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    lines = []
    for row in rows:
        line = {
            "work": row["work"],
            "against": row["against"],
            "bar": "" if row["bar"] is None else f"≤ {row['bar']:g}",
        }
        for name in settings:
            bar = row["settings"].get(name)
            if with_time:
                line[f"ms, {name}"] = "" if bar is None else f"{bar['milliseconds']:.2f}"
            line[name] = figure(bar, row["bar"])
        lines.append(line)
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def draw(run: dict, path: Path) -> None:
    """Time and memory against size, one panel each, relative to the smallest; a dashed line is linear growth."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    curves = [b["extra_info"]["curve"] for b in run["benchmarks"] if "curve" in b["extra_info"]]
    names = list(dict.fromkeys(curve["what"] for curve in curves))
    figure, axes = plt.subplots(2, len(names), figsize=(3 * len(names), 5.4), layout="constrained", squeeze=False)
    for column, name in enumerate(names):
        for curve in (curve for curve in curves if curve["what"] == name):
            sizes = curve["sizes"]
            for axis, key, unit in ((axes[0][column], "seconds", "ms"), (axes[1][column], "bytes", "MiB")):
                factor = 1000 if unit == "ms" else 2**-20
                values = [factor * value for value in curve[key]]
                axis.loglog(sizes, values, marker="o", label=curve["setting"])
                axis.loglog(sizes, [values[-1] * size / sizes[-1] for size in sizes], "--", color="0.7", zorder=0)
                axis.set_xlabel(name)
                axis.set_ylabel({"ms": "time, ms", "MiB": "peak memory, MiB"}[unit])
                axis.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
                axis.minorticks_off()
    axes[0][0].legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def text(run: dict) -> str:
    """Everything that goes between the markers of the page."""
    rows = rows_of(run)
    timed = [row for row in rows if all("fastest" in bar for bar in row["settings"].values())]
    counted = [row for row in rows if row not in timed]
    growth = [row for row in counted if row["against"].startswith("linear")]
    memory = [row for row in counted if row not in growth]
    parts = [machine(run)]
    if timed:
        parts += ["### Time", table(timed, with_time=True)]
    if memory:
        parts += ["### Memory", table(memory, with_time=False)]
    if growth:
        parts += [
            "### Growth",
            table(growth, with_time=False),
            "![Time and memory as sizes double](images/scaling.png)",
        ]
    for benchmark in run["benchmarks"]:
        if "import" in benchmark["extra_info"]:
            found = benchmark["extra_info"]["import"]
            heavy = ", ".join(found["heavy"]) or "none of kornia, matplotlib, timm, sklearn, scipy"
            parts += [
                "### Import",
                f"After torch and torchvision: {found['ours']:.3f} s (bar: {found['bar']} s), and {found['first']:.3f} s more for "
                f"the first `LearnedAugment`. Both import {heavy}.",
            ]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables; write them to the page unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    parsed = parser.parse_args(arguments)
    run = json.loads(parsed.json.read_text(encoding="utf-8"))
    figures = text(run)
    print(figures)
    if parsed.dry_run:
        return
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    PAGE.write_text(f"{before}{START}\n\n{figures}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    if any("curve" in benchmark["extra_info"] for benchmark in run["benchmarks"]):
        draw(run, PICTURE)


if __name__ == "__main__":
    main()
