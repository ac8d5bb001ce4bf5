"""Pictures of what was measured. `viz` imports matplotlib when a function here is called.

Reports draw themselves with these, so this module knows none of their classes: ``Any`` stands for the report named.
"""

from typing import Any

import numpy as np

from ..viz.style import STYLES, accent, faint, ink, new_figure, panels, tidy

BLUE, GREY = "#2a6fb0", "#cccccc"


def _panels(n: int, width: float, height: float, most: int) -> tuple[Any, list[Any]]:
    rows = -(-n // most)
    return panels(n, -(-n // rows), width, height, 0.5)  # rows of about the same length


def _legend_above(axes: Any) -> None:
    (handles, labels), columns = axes.get_legend_handles_labels(), max(1, int(axes.figure.get_figwidth() // 2.1))
    axes.figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8, frameon=False)


def _class_map(
    axes: Any, values: np.ndarray, rows: list[str], of: int, columns: list[str], label: str, **colours: Any
) -> None:
    """A row per class; ``of`` so many, which a title says where some are left out."""
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **colours)
    names = [name.replace("_", " ") for name in columns]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=6)
    if len(rows) < of:
        axes.set_title(f"{len(rows)} of {of} classes", fontsize=8, color=ink(), loc="left")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label.replace("_", " "), fontsize=8)


def _line_per(axes: Any, names: list[str]) -> np.ndarray:
    """Names down the left side; where their lines are."""
    y = np.arange(len(names), dtype=float)[::-1]
    axes.set_yticks(y, [name.replace("_", " ") for name in names], fontsize=8)
    return y


def invariance(report: Any) -> Any:
    """An `InvarianceReport`, a panel per transformation: curves over magnitude, a line style per fill."""
    names = list(dict.fromkeys(sweep.transformation.name for sweep in report.sweeps))
    fills = list(dict.fromkeys(sweep.fill for sweep in report.sweeps if sweep.fill))
    figure, places = _panels(len(names), 2.3, 1.9, most=5)
    lines = [("relative_cosine", "relative invariance (cosine)", accent()), ("agreement", "same answer", BLUE)]
    if not np.isnan(report.accuracy).all():
        lines.append(("accuracy", "top-1", faint()))
    for axes, name in zip(places, names, strict=True):
        of_name = [sweep for sweep in report.sweeps if sweep.transformation.name == name]
        for sweep in of_name:
            style = STYLES[fills.index(sweep.fill) % len(STYLES)] if sweep.fill else "-"
            for measure, _, colour in lines:
                means = sweep.values[measure].mean(1)
                axes.plot(sweep.magnitudes, means, style, color=colour, linewidth=1.3, marker=".", markersize=3)
        t = of_name[0].transformation
        axes.axvline(t.identity, color=faint(), linewidth=0.6, zorder=0)
        axes.axhline(0, color=faint(), linewidth=0.6, zorder=0)
        lowest = min(float(np.nanmin([0, *s.values["relative_cosine"].mean(1)])) for s in of_name)  # 0: all may be NaN
        axes.set_ylim(min(-0.08, lowest - 0.05) if np.isfinite(lowest) else -0.08, 1.05)
        if t.magnitudes[0] > t.magnitudes[-1]:
            axes.invert_xaxis()
        tidy(axes, t.unit, title=name)
    for _, label, colour in lines:
        places[0].plot([], [], color=colour, label=label)
    for k, fill in enumerate(fills if len(fills) > 1 else []):
        places[0].plot([], [], STYLES[k % len(STYLES)], color=ink(), label=f"outside: {fill}")
    _legend_above(places[0])
    return figure


def raw_distances(report: Any) -> Any:
    """Per sweep of an `InvarianceReport`, the mean distance to the own transformed image (d) and to other images (b)."""
    figure = new_figure(9, 0.24 * len(report.sweeps) + 0.9)
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("cosine", "l2"), strict=True):
        y = _line_per(axes, [sweep.name for sweep in report.sweeps])
        b, d = (np.array([s.per_image(f"{kind}_{metric}").mean() for s in report.sweeps]) for kind in "bd")
        axes.hlines(y, d, b, color=GREY, linewidth=2)
        axes.plot(d, y, "o", color=accent(), markersize=5, label="d: own image, transformed")
        axes.plot(b, y, "o", color=ink(), markersize=5, label="b: other images, transformed")
        axes.set_xlim(0, None)
        tidy(axes, f"{'cosine' if metric == 'cosine' else 'L2'} distance")
    _legend_above(axes)
    return figure


def per_class(report: Any, measure: str = "relative_cosine", most: int = 60) -> Any:
    """Class × sweep of an `InvarianceReport`; the ``most`` classes with the most images, rows by their mean."""
    targets = report.images.targets.cpu().numpy()
    labels, counts = np.unique(targets, return_counts=True)
    labels = labels[np.argsort(-counts, kind="stable")[:most]]
    values = np.array([[s.per_image(measure)[targets == label].mean() for s in report.sweeps] for label in labels])
    order = np.argsort(-values.mean(1), kind="stable")
    figure = new_figure(0.42 * len(report.sweeps) + 3.2, 0.17 * len(labels) + 1.9)
    rows, columns = [report.images.class_name(int(labels[k])) for k in order], [s.name for s in report.sweeps]
    _class_map(figure.subplots(), values[order], rows, len(counts), columns, measure, cmap="RdYlBu", vmin=0, vmax=1)
    return figure


def factors(report: Any, most: int = 40) -> Any:
    """A `FactorReport`. Left, how often each factor brings a pair closest; right, the same for the first ``most`` classes."""
    ranking, known = report.ranking(), np.unique(report.targets)
    classes = known[:most]
    figure = new_figure(10, max(0.24 * len(ranking), 0.17 * len(classes)) + 1.6)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.3])
    y = _line_per(left, [row["factor"] for row in ranking])
    for kind, colour in {"appearance": accent(), "geometry": BLUE, "": faint()}.items():
        rows = [k for k, row in enumerate(ranking) if row["kind"] == kind]
        label = kind or "none brings them closer"
        left.barh(y[rows], [100 * ranking[k]["share"] for k in rows], color=colour, height=0.7, label=label)
    left.legend(fontsize=7, frameon=False)
    tidy(left, "best for % of within-class pairs")
    order = [row["factor"] for row in ranking[:-1]]
    shares = np.array([[{r["factor"]: r["share"] for r in report.ranking(int(c))}[f] for f in order] for c in classes])
    rows = [report.images.class_name(int(c)) for c in classes]
    _class_map(right, 100 * shares, rows, len(known), order, "% of the class's pairs", cmap="Greys", vmin=0)
    return figure


def comparison(result: Any, measures: tuple[str, ...] = ("relative_cosine", "d_cosine", "agreement")) -> Any:
    """A `Comparison`: paired differences with 95 % intervals, a panel per measure, a row per sweep, a colour per model."""
    others, sweeps = list(result.reports)[1:], result.reports[result.baseline].sweeps
    figure = new_figure(3.2 * len(measures) + 1.2, 0.26 * len(sweeps) + 1.1)
    colours = (accent(), BLUE, ink(), faint())
    for axes, measure in zip(figure.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True):
        axes.axvline(0, color=faint(), linewidth=0.8)
        y = _line_per(axes, [sweep.name for sweep in sweeps])
        for k, name in enumerate(others):
            intervals = [result.interval(name, s.transformation.name, s.fill, measure) for s in sweeps]
            means, low, high = zip(*intervals, strict=True)
            place, colour = y + 0.18 * (k - (len(others) - 1) / 2), colours[k % len(colours)]
            axes.hlines(place, low, high, color=colour, linewidth=1.2)
            axes.plot(means, place, "o", color=colour, markersize=4, label=f"{name} − {result.baseline}")
        tidy(axes, title=f"Δ {measure}")
    _legend_above(axes)
    return figure


def learned_against_measured(report: Any, most: int = 120) -> Any:
    """A `LearnedReport`, a panel per field: an image per column; a histogram per family with a table of candidates."""
    fields = list(report.ranges.items())
    figure, places = _panels(len(fields) + len(report.ranks), 4.4, 2.3, most=2)
    for axes, (field, ranges) in zip(places, fields, strict=False):
        order = ranges.scores()["measured_width"].argsort(kind="stable")
        order = order[np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)]
        x, thick = np.arange(len(order)), min(6.0, 260 / len(order))
        axes.vlines(x, *ranges.measured[order].T, color=GREY, linewidth=thick, label="measured: answer kept")
        axes.vlines(x, *ranges.learned[order].T, color=accent(), linewidth=thick / 2.2, label="learned")
        axes.axhline(ranges.identity, color=ink(), linewidth=0.5)
        axes.set_xticks([])
        tidy(axes, "images, by measured width", title=field)
    for axes, (family, own) in zip(places[len(fields) :], report.ranks.items(), strict=True):
        bins = np.linspace(-1, 1, 41)
        axes.hist(report.ranks_shuffled[family], bins, color=GREY, label="another image's probabilities")
        axes.hist(own, bins, histtype="step", color=accent(), linewidth=1.5, label="own probabilities")
        axes.legend(fontsize=7, frameon=False)
        tidy(axes, "rank correlation of learned probability with p(true)", title=family)
    if fields:
        _legend_above(places[0])
    return figure
