"""The paper's Figures 4, 6 and 7 with a study's own data, and its laws: PNG for pages, SVG for print.

    figure4   loss, token accuracy and image score of drawing against tokens read, a line per size (mix `both`)
    figure6   text: trained alone and with pictures, by size; and what it costs
    figure7   drawing: trained alone and with text, by size; and what it costs
    laws      L(N), L(D) and L(C) with their data, and the compute-optimal frontier of L(N, D)

Each takes the tables and the results of a study, and is left out where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from liquid_mm.files import atomic_file
from liquid_mm.scaling.collect import Tables
from liquid_mm.scaling.fit import compute_optimal
from liquid_mm.scaling.study import groups, kinds, law_of, pairs, same_length, studied

STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "liquid",  # the same data give the same file
}

PANEL = (2.9, 2.4)
"""Inches."""

LABELS = {
    "parameters": "non-embedding parameters N",
    "tokens": "tokens read D",
    "flops": "training FLOPs C",
    "text_loss": "text loss (nats)",
    "code_loss": "image code loss (nats)",
    "caption_loss": "caption loss (nats)",
    "code_accuracy": "image code accuracy",
    "score": "image score",
}


def draw(tables: Tables, results: dict[str, Any], out: str | Path) -> dict[str, list[Path]]:
    """Write every figure there is data for.

    Args:
        tables: of the study.
        results: what `study.analyse` made of them.
        out: folder.

    Returns:
        The PNG and SVG of each figure, by its name.
    """
    written = {}
    with mpl.rc_context(STYLE):
        for name, make in _FIGURES.items():
            figure = make(tables, results)
            if figure is not None:
                written[name] = [_save(figure, Path(out) / f"scaling_{name}.{kind}") for kind in ("png", "svg")]
    return written


def figure4(tables: Tables, results: dict[str, Any]) -> Figure | None:
    """Loss and accuracy of image codes over training, by size; the image score of finished runs."""
    runs = studied(tables.runs)
    runs = runs[runs["mix"] == "both"]
    if runs.empty:
        return None
    runs = same_length(runs)
    curves = tables.curves.merge(runs[["cell", "size", "parameters"]], on="cell")
    scored = runs["score"].notna().any()
    figure, axes = _panels(3 if scored else 2)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, runs["parameters"].nunique()))
    for colour, (parameters, rows) in zip(colours, curves.groupby("parameters"), strict=True):
        means = rows.groupby("step")[["tokens", "code_loss", "code_accuracy"]].mean()
        for axis, measure in zip(axes, ("code_loss", "code_accuracy"), strict=False):
            axis.plot(means["tokens"], means[measure], marker="o", color=colour, label=_short(float(str(parameters))))
    for axis, measure in zip(axes, ("code_loss", "code_accuracy"), strict=False):
        axis.set(xlabel=LABELS["tokens"], ylabel=LABELS[measure], xscale="log")
        _logarithmic(axis.xaxis)
    figure.legend(*axes[0].get_legend_handles_labels(), title="N", title_fontsize=7, loc="outside right upper")
    if scored:
        _means(axes[2], runs, "score", "both")
        axes[2].set(xlabel=LABELS["parameters"], ylabel=LABELS["score"])
    return figure


def figure6(tables: Tables, results: dict[str, Any]) -> Figure | None:
    """Text alone against text with pictures."""
    return _trade_off(tables.runs, "text", "text_loss")


def figure7(tables: Tables, results: dict[str, Any]) -> Figure | None:
    """Drawing alone against drawing with text."""
    return _trade_off(tables.runs, "t2i", "code_loss")


def laws(tables: Tables, results: dict[str, Any]) -> Figure | None:
    """The laws of drawing in the mix `both`, each with the runs it was fitted to."""
    wanted = {"mix": "both", "measure": "code_loss"}
    entries = {law["law"]: law for law in results["laws"] if wanted.items() <= law.items() and "refused" not in law}
    if not entries:
        return None
    rows = next(rows for mix, measure, rows in groups(tables.runs) if (mix, measure) == ("both", "code_loss"))
    figure, axes = _panels(len(entries))
    chosen = {kind.name: kind for kind in kinds("code_loss")}
    for axis, (name, entry) in zip(axes, entries.items(), strict=True):
        law = law_of(entry)
        if len(entry["variables"]) == 2:
            spent = 6 * rows["parameters"] * rows["tokens"]  # the frontier's C, without the head
            budgets = np.geomspace(spent.min(), spent.max(), 50)
            n, _ = compute_optimal(law, budgets)
            axis.plot(budgets, n, color="C3", label="compute-optimal N")
            axis.scatter(spent, rows["parameters"], color="C0", s=12, label="runs")
            axis.set(xlabel="6 N D (FLOPs)", ylabel=LABELS["parameters"], xscale="log", yscale="log", title=name)
            _logarithmic(axis.yaxis)
        else:
            (column,) = entry["variables"]
            points = chosen[name].rows(rows)
            x = np.geomspace(points[column].min(), points[column].max(), 100)
            exponent = entry["exponents"][0]
            label = f"exponent {exponent['value']:.2f} [{exponent['low']:.2f}, {exponent['high']:.2f}]"
            axis.plot(x, law(x), color="C3", label=label)
            axis.scatter(points[column], points["code_loss"], color="C0", s=12)
            axis.set(xlabel=LABELS[column], ylabel=LABELS["code_loss"], xscale="log", title=name)
        _logarithmic(axis.xaxis, words="flops" not in entry["variables"] and len(entry["variables"]) == 1)
        axis.legend()
    return figure


_FIGURES: dict[str, Callable[[Tables, dict[str, Any]], Figure | None]] = {
    "figure4": figure4,
    "figure6": figure6,
    "figure7": figure7,
    "laws": laws,
}


def _trade_off(runs: pd.DataFrame, alone: str, measure: str) -> Figure | None:
    """Means by size of two mixes, their difference, and the image score of both where it bears on `measure`."""
    runs = studied(runs)
    matched = pairs(runs, "both", alone, measure)
    if matched.empty:
        return None
    both = runs[runs["mix"].isin(["both", alone]) & runs["length"].isin(matched["length"])]
    scored = measure == "code_loss" and both["score"].notna().any()
    figure, axes = _panels(3 if scored else 2)
    for mix, label in ((alone, f"{alone} alone"), ("both", "both")):
        _means(axes[0], both[both["mix"] == mix], measure, label)
        if scored:
            _means(axes[2], both[both["mix"] == mix], "score", label)
            axes[2].set(xlabel=LABELS["parameters"], ylabel=LABELS["score"])
    axes[0].set(xlabel=LABELS["parameters"], ylabel=LABELS[measure])
    axes[0].legend()
    axes[1].axhline(0, color="grey", linewidth=0.8)
    axes[1].scatter(matched["parameters"], matched["difference"], color="C3", s=12)
    if matched["parameters"].nunique() > 1:
        x = np.log10(matched["parameters"].astype(float))
        line = np.polyfit(x, matched["difference"], 1)
        axes[1].plot(np.sort(matched["parameters"]), np.polyval(line, np.sort(x)), color="C3", linewidth=0.8)
    axes[1].set(xlabel=LABELS["parameters"], ylabel="cost of training both (nats)", xscale="log")
    _logarithmic(axes[1].xaxis)
    return figure


def _means(axes: Axes, runs: pd.DataFrame, measure: str, label: str) -> None:
    """Mean over seeds by size, with the standard deviation as bars."""
    by_size = runs.groupby("parameters")[measure].agg(["mean", "std"])
    axes.errorbar(by_size.index, by_size["mean"], yerr=by_size["std"].fillna(0), marker="o", capsize=2, label=label)
    axes.set_xscale("log")
    _logarithmic(axes.xaxis)


def _logarithmic(axis: Axis, words: bool = True) -> None:
    """Label a log scale at 1 and 3 of each decade, in words such as 300k and 1M or, for FLOPs, as powers.

    Within one decade 2 and 5 are labelled too: with fewer than two labels matplotlib makes linear ones, which overlap.
    """
    axis.set_minor_formatter(NullFormatter())
    if words:
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high > 10 * low else (1.0, 2.0, 3.0, 5.0)))
        axis.set_major_formatter(EngFormatter(sep=""))


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PANEL[0] * count, PANEL[1]), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def _short(parameters: float) -> str:
    return f"{parameters / 1e6:.3g} M" if parameters < 1e9 else f"{parameters / 1e9:.3g} B"


def _save(figure: Figure, path: Path) -> Path:
    with atomic_file(path) as part:
        figure.savefig(part, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
