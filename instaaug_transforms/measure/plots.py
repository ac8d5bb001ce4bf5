"""Pictures of what was measured. `viz` imports matplotlib, when a function here is called.

Reports draw themselves with these, so this module knows none of their classes: ``Any`` stands for the report named.
"""

from typing import Any

import numpy as np

from ..viz import ACCENT, FAINT, INK, new_figure, save

BLUE = "#2a6fb0"
STYLES = ("-", "--", ":", "-.")
COLUMNS = 5


def finish(figure: Any, path: Any) -> Any:
    """The figure, written to ``path`` where one is given."""
    if path is not None:
        save(figure, path)
    return figure


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=INK)


def _panels(n: int, width: float, height: float, columns: int = COLUMNS) -> tuple[Any, list[Any]]:
    rows = -(-n // columns)
    columns = -(-n // rows)  # rows of about the same length
    figure = new_figure(width * columns, height * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[n:]:
        axes.set_axis_off()
    return figure, list(grid[:n])


def invariance(report: Any, title: str | None = None) -> Any:
    """An `InvarianceReport`, a panel per transformation: relative invariance, same answer, accuracy over magnitude; a line style per fill."""
    names = list(dict.fromkeys(sweep.transformation.name for sweep in report.sweeps))
    fills = list(dict.fromkeys(sweep.fill for sweep in report.sweeps if sweep.fill))
    figure, panels = _panels(len(names), 2.3, 1.9)
    lines = [("relative_cosine", "relative invariance (cosine)", ACCENT), ("agreement", "same answer", BLUE)]
    if not np.isnan(report.accuracy).all():
        lines.append(("accuracy", "top-1", FAINT))
    for axes, name in zip(panels, names, strict=True):
        of_name = [sweep for sweep in report.sweeps if sweep.transformation.name == name]
        for sweep in of_name:
            style = STYLES[fills.index(sweep.fill) % len(STYLES)] if sweep.fill else "-"
            for measure, _, colour in lines:
                means = sweep.values[measure].mean(1)
                axes.plot(sweep.magnitudes, means, style, color=colour, linewidth=1.3, marker=".", markersize=3)
        t = of_name[0].transformation
        axes.axvline(t.identity, color=FAINT, linewidth=0.6, zorder=0)
        axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        lowest = min(float(np.nanmin(s.values["relative_cosine"].mean(1))) for s in of_name)
        axes.set_ylim(min(-0.08, lowest - 0.05) if np.isfinite(lowest) else -0.08, 1.05)
        if t.magnitudes[0] > t.magnitudes[-1]:
            axes.invert_xaxis()
        axes.set_title(name.replace("_", " "), fontsize=9, color=INK)
        axes.set_xlabel(t.unit, fontsize=7, color=INK)
        _tidy(axes)
    handles = [panels[0].plot([], [], color=colour, label=label)[0] for _, label, colour in lines]
    if len(fills) > 1:
        handles += [
            panels[0].plot([], [], STYLES[k % len(STYLES)], color=INK, label=f"outside: {fill}")[0]
            for k, fill in enumerate(fills)
        ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=9, color=INK)
    return figure


def raw_distances(report: Any) -> Any:
    """Per sweep of an `InvarianceReport`, the mean distance to the own transformed image (d) and to other images (b), cosine and L2."""
    labels = [sweep.name.replace("_", " ") for sweep in report.sweeps]
    figure = new_figure(9, 0.24 * len(labels) + 0.9)
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("cosine", "l2"), strict=True):
        b, d = (np.array([s.per_image(f"{kind}_{metric}").mean() for s in report.sweeps]) for kind in "bd")
        y = np.arange(len(labels))[::-1]
        axes.hlines(y, d, b, color="#dcdcdc", linewidth=2)
        axes.plot(d, y, "o", color=ACCENT, markersize=5, label="d: own image, transformed")
        axes.plot(b, y, "o", color=INK, markersize=5, label="b: other images, transformed")
        axes.set_yticks(y, labels, fontsize=8)
        axes.set_xlim(0, None)
        axes.set_xlabel(f"{'cosine' if metric == 'cosine' else 'L2'} distance", fontsize=8, color=INK)
        _tidy(axes)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def per_class(report: Any, measure: str = "relative_cosine", most: int = 60) -> Any:
    """Class × sweep of an `InvarianceReport`; the ``most`` classes with the most images, rows by their mean."""
    targets = report.images.targets.cpu().numpy()
    labels, counts = np.unique(targets, return_counts=True)
    labels = labels[np.argsort(-counts, kind="stable")[:most]]
    table = np.array([[s.per_image(measure)[targets == label].mean() for s in report.sweeps] for label in labels])
    order = np.argsort(-table.mean(1), kind="stable")
    figure = new_figure(0.42 * len(report.sweeps) + 3.2, 0.17 * len(labels) + 1.9)
    axes = figure.subplots()
    shown = axes.imshow(table[order], aspect="auto", cmap="RdYlBu", vmin=0, vmax=1, interpolation="nearest")
    names = [sweep.name.replace("_", " ") for sweep in report.sweeps]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(labels)), [report.images.class_name(int(labels[k])) for k in order], fontsize=6)
    bar = figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(measure.replace("_", " "), fontsize=8)
    return figure


def factors(report: Any, most: int = 40) -> Any:
    """A `FactorReport`. Left, how often each factor brings a pair closest; right, the same for every class, the strongest factors named."""
    ranking = report.ranking()
    classes = np.unique(report.targets)[:most]
    figure = new_figure(10, max(0.24 * len(ranking), 0.17 * len(classes)) + 1.6)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.3])
    y = np.arange(len(ranking))[::-1]
    colours = {"appearance": ACCENT, "geometry": BLUE, "": FAINT}
    for kind in ("appearance", "geometry", ""):
        rows = [k for k, row in enumerate(ranking) if row["kind"] == kind]
        label = kind or "none brings them closer"
        left.barh(y[rows], [100 * ranking[k]["share"] for k in rows], color=colours[kind], height=0.7, label=label)
    left.set_yticks(y, [row["factor"].replace("_", " ") for row in ranking], fontsize=8)
    left.set_xlabel("best for % of within-class pairs", fontsize=8, color=INK)
    left.legend(fontsize=7, frameon=False)
    _tidy(left)
    order = [row["factor"] for row in ranking[:-1]]
    shares = np.array([[{r["factor"]: r["share"] for r in report.ranking(int(c))}[f] for f in order] for c in classes])
    shown = right.imshow(100 * shares, aspect="auto", cmap="Greys", vmin=0, interpolation="nearest")
    names = [factor.replace("_", " ") for factor in order]
    right.set_xticks(range(len(order)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    right.set_yticks(range(len(classes)), [report.images.class_name(int(c)) for c in classes], fontsize=6)
    bar = figure.colorbar(shown, ax=right, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("% of the class's pairs", fontsize=8)
    return figure


def comparison(result: Any, measures: tuple[str, ...] = ("relative_cosine", "d_cosine", "agreement")) -> Any:
    """A `Comparison`: paired differences with 95 % intervals, a panel per measure, a row per sweep, a colour per model."""
    reports = list(result.reports)
    sweeps = result.reports[reports[0]].sweeps
    figure = new_figure(3.2 * len(measures) + 1.2, 0.26 * len(sweeps) + 1.1)
    colours = (ACCENT, BLUE, INK, FAINT)
    y = np.arange(len(sweeps))[::-1].astype(float)
    for axes, measure in zip(figure.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True):
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for k, name in enumerate(reports[1:]):
            found = np.array([result.interval(name, s.transformation.name, s.fill, measure) for s in sweeps])
            place = y + 0.18 * (k - (len(reports) - 2) / 2)
            colour = colours[k % len(colours)]
            axes.hlines(place, found[:, 1], found[:, 2], color=colour, linewidth=1.2)
            axes.plot(found[:, 0], place, "o", color=colour, markersize=4, label=f"{name} − {reports[0]}")
        axes.set_yticks(y, [s.name.replace("_", " ") for s in sweeps], fontsize=8)
        axes.set_title(f"Δ {measure.replace('_', ' ')}", fontsize=9, color=INK)
        _tidy(axes)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def learned_against_measured(report: Any, most: int = 120) -> Any:
    """A `LearnedReport`, a panel per field, an image per column, sorted by measured width: measured range grey, learned range red."""
    panels = list(report.ranges.items())
    figure, axes_list = _panels(len(panels) + bool(report.crop.size), 4.4, 2.3, columns=2)
    for axes, (field, ranges) in zip(axes_list, panels, strict=False):
        width = ranges.measured[:, 1] - ranges.measured[:, 0]
        order = width.argsort(stable=True)
        order = order[np.linspace(0, len(order) - 1, min(most, len(order))).round()]
        x = np.arange(len(order))
        thick = min(6.0, 260 / len(order))
        axes.vlines(x, *ranges.measured[order].T, color="#cccccc", linewidth=thick, label="measured: answer kept")
        axes.vlines(x, *ranges.learned[order].T, color=ACCENT, linewidth=thick / 2.2, label="learned")
        axes.axhline(ranges.identity, color=INK, linewidth=0.5)
        axes.set_xticks([])
        axes.set_title(field, fontsize=9, color=INK)
        axes.set_xlabel("images, by measured width", fontsize=7, color=INK)
        _tidy(axes)
    if report.crop.size:
        axes = axes_list[-1]
        bins = np.linspace(-1, 1, 41)
        axes.hist(report.crop_shuffled, bins, color="#cccccc", label="another image's probabilities")
        axes.hist(report.crop, bins, histtype="step", color=ACCENT, linewidth=1.5, label="own probabilities")
        axes.set_title("crop: rank correlation of learned probability with p(true)", fontsize=8, color=INK)
        axes.legend(fontsize=7, frameon=False)
        _tidy(axes)
    if panels:
        handles, names = axes_list[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure
