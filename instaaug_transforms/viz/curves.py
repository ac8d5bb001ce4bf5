"""How a fit went, and what more views are worth."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..utils.errors import InstaAugError
from .style import STYLES, accent, faint, ink, new_figure, pale, tidy

MARKERS = "osD^vPX"


def training_curves(
    history: Any, bands: Mapping[str, tuple[float, float]] | None = None, best: int | None = None
) -> Any:
    """Loss, entropy per family and λ per family, epoch by epoch.

    Args:
        history: a `FitResult`, its ``history``, or a list of dictionaries of your own loop with ``loss``, ``entropy`` (by family,
            nats) and ``weight`` (λ by family): `InstaAugObjective` has them as ``entropies`` and ``weights``. Held-out
            values, ``val_loss`` and ``val_entropy``, are dashed where there are any.
        bands: entropy bands in nats, shaded.
        best: the epoch that was kept, marked; by default that of a `FitResult`.

    Raises:
        InstaAugError: an empty history, or entries without these keys.
    """
    if hasattr(history, "history"):
        best, history = history.best_epoch if best is None else best, history.history
    missing = [key for key in ("loss", "entropy", "weight") if not history or key not in history[0]]
    if missing:
        raise InstaAugError(
            f"history: expected entries with 'loss', 'entropy' and 'weight', missing {', '.join(missing)}; give a FitResult "
            "or append {'loss': …, 'entropy': objective.entropies, 'weight': objective.weights} once an epoch"
        )
    figure = new_figure(8.6, 2.5)  # says what to install where matplotlib is missing
    from matplotlib.ticker import LogLocator

    loss, entropy, weight = figure.subplots(1, 3)
    epochs = range(1, len(history) + 1)
    families = list(history[0]["entropy"])
    loss.plot(epochs, [e["loss"] for e in history], color=accent(), linewidth=1.6, label="train")
    if "val_loss" in history[0]:
        loss.plot(epochs, [e["val_loss"] for e in history], "--", color=ink(), linewidth=1.2, label="held out")
        loss.legend(fontsize=7, frameon=False)
    for k, name in enumerate(families):
        line = {"linestyle": STYLES[k % len(STYLES)], "color": (accent(), ink(), faint())[k % 3], "linewidth": 1.6}
        entropy.plot(epochs, [e["entropy"][name] for e in history], label=name, **line)
        weight.plot(epochs, [e["weight"][name] for e in history], label=name, **line)
        if bands and name in bands:
            entropy.axhspan(*bands[name], color=pale(), zorder=0)
            entropy.text(
                len(history), sum(bands[name]) / 2, f"{name}'s band", fontsize=6, color=ink(), ha="right", va="center"
            )
    weight.set_yscale("log")
    weight.yaxis.set_major_formatter("{x:g}")
    weight.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    weight.yaxis.set_minor_formatter("{x:g}")
    entropy.legend(fontsize=7, frameon=False)
    for axes, title in ((loss, "loss"), (entropy, "entropy, nats"), (weight, "λ")):
        if best is not None:
            axes.axvline(best + 1, color=faint(), linewidth=0.8, linestyle=":")
        tidy(axes, "epoch", title=title)
        axes.tick_params(which="minor", labelsize=7, colors=ink())
    if best is not None:
        loss.text(best + 1, loss.get_ylim()[1], " kept", fontsize=7, color=ink(), va="top")
    return figure


def accuracy_against_views(evaluation: Any, arms: Sequence[str] | None = None) -> Any:
    """Top-1 against the number of views K: ours in red, what does not look at the image in grey and black.

    Args:
        evaluation: what `instaaug_transforms.tta.evaluate` returns. The shade is the 95 % paired bootstrap interval of
            the gain over a single view.
        arms: names to draw; by default all.

    Raises:
        InstaAugError: something else than an evaluation, or an arm that it does not have.
    """
    if not hasattr(evaluation, "rows"):
        raise InstaAugError(f"evaluation: expected what tta.evaluate returns, got {type(evaluation).__name__}")
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for row in evaluation.rows():
        by_arm.setdefault(row["arm"], []).append(row)
    unknown = sorted(set(arms or ()) - set(by_arm))
    if unknown:
        raise InstaAugError(f"arms: no {', '.join(unknown)} here; choose from {', '.join(by_arm)}")
    figure = new_figure(6.4, 3.4)
    axes = figure.subplots()
    single = by_arm["single view"][0]["top1"]
    axes.axhline(single, color=ink(), linewidth=0.8, linestyle=":")
    others = [name for name in (arms or by_arm) if name not in ("ours", "single view")]
    ends = []
    for k, name in enumerate([*others, *(["ours"] if "ours" in by_arm and "ours" in (arms or by_arm) else [])]):
        rows = sorted(by_arm[name], key=lambda row: row["K"])
        views, top1 = [row["K"] for row in rows], [row["top1"] for row in rows]
        ours = name == "ours"
        colour = accent() if ours else (ink(), faint())[k % 2]
        style = "-" if ours else STYLES[(k + 1) % len(STYLES)]
        marker, size, width = ("o", 5, 2.2) if ours else (MARKERS[k % len(MARKERS)], 3.5, 1.1)
        axes.plot(views, top1, style, color=colour, linewidth=width, marker=marker, markersize=size)
        if ours:
            bounds = [[single + row[bound] for row in rows] for bound in ("gain_low", "gain_high")]
            axes.fill_between(views, *bounds, color=accent(), alpha=0.15, linewidth=0)
        ends.append((top1[-1], views[-1], name, accent() if ours else ink()))
    most = max((end[1] for end in ends), default=1)
    axes.set_xscale("log", base=2)
    ticks = sorted({row["K"] for row in evaluation.rows()})
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_xlim(min(ticks) * 0.93, most * 1.03)
    tidy(axes, "views per image, K", "top-1, %")
    low, high = axes.get_ylim()
    _label_ends(axes, [*ends, (single, most, "single view", ink())], most * 1.06, (high - low) * 0.055)
    return figure


def _label_ends(axes: Any, ends: list[tuple[float, int, str, str]], x: float, gap: float) -> None:
    """Names at the right, at the height of their line's last point, at least ``gap`` apart; or left of a line that ends early."""
    below, most = float("-inf"), max(last for _, last, _, _ in ends)
    for y, last, name, colour in sorted(ends):
        text = {"fontsize": 7, "color": colour, "va": "center", "annotation_clip": False}
        if last < most:
            under = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.5}  # other lines may pass here
            axes.annotate(name, (last * 0.96, y), ha="right", bbox=under, **text)
            continue
        below = max(y, below + gap)
        axes.annotate(name, (x, below), **text)
