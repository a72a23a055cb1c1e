"""Figures of the ablations: the ranking of rows, the map of n1 and n2, the numbers tried at several values."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fgaa_utils.figures import COLOURS, colour_bar

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "ranking": "What each change costs, worst first: BCS on test prompts minus the default's, mean over behaviours with its 95 % interval; filled marks are those whose interval leaves out zero, grey dots are the behaviours.",
    "n1_n2": "BCS on test prompts, averaged over behaviours, by the number of positive (n1) and negative (n2) latents of FGAA's target.",
    "how_much": "BCS minus the default's, with its 95 % interval, at every value tried; the hollow mark is the default. n1 has none, since the default has an n1 for each behaviour.",
}
LESS_DEFAULT = "BCS minus the default's"
ROW = 0.2  # inches of height for a row of the ranking
AXES = {  # parameters and their units
    "n1": "n1 (positive latents of the target)",
    "n2": "n2 (negative latents of the target)",
    "theta": "theta (share of tokens)",
    "bias_weight": "bias_weight (times the paper's)",
    "examples": "examples (contrastive texts of a side)",
    "effect_vectors": "effect_vectors (thousands of vectors)",
}


def ranking(marks: pd.DataFrame, dots: pd.DataFrame) -> sns.FacetGrid:
    """One line a row: its mean difference with interval, filled where that leaves out zero, over one grey dot a
    behaviour. marks and dots as of ablation_tables."""
    height = ROW * len(marks) + 1
    grid = sns.catplot(
        dots,
        y="row",
        x="difference",
        kind="strip",
        order=marks.row.tolist(),
        height=height,
        aspect=7 / height,
        color="0.6",
        size=3,
        jitter=False,
        zorder=4,
    )
    grid.ax.set_axisbelow(True)
    grid.ax.grid(axis="y", color="0.93")
    colour = COLOURS["fgaa"]
    grid.ax.hlines(range(len(marks)), marks.lo, marks.hi, color=colour, lw=1.5, zorder=2)
    for clear, part in marks.reset_index().groupby("clear"):
        face = colour if clear else "white"
        grid.ax.plot(part.value, part["index"], "o", ms=4.5, color=colour, mfc=face, zorder=5)
    grid.refline(x=0).set_axis_labels(LESS_DEFAULT, "")
    grid.ax.margins(y=0.6 / len(marks))
    return grid


def n1_n2_map(heat: pd.DataFrame) -> sns.FacetGrid:
    """BCS by n1 (columns) and n2 (rows, growing upwards); heat as of ablation_tables.heat_map."""
    rows, columns = heat.n2.nunique(), heat.n1.nunique()
    height = 0.55 * rows + 1
    grid = sns.FacetGrid(heat, height=height, aspect=(0.8 * columns + 1.6) / height)
    grid.map_dataframe(_heat_panel)
    grid.set_axis_labels(AXES["n1"], "n2 (negative)")
    colour_bar(grid, "BCS")
    return grid


def _heat_panel(data: pd.DataFrame, **_) -> None:
    table = data.pivot_table(index="n2", columns="n1", values="BCS").sort_index(ascending=False)
    sns.heatmap(table, cmap="viridis", annot=True, fmt=".3f", cbar=False, linewidths=1)


def how_much(tried: pd.DataFrame) -> sns.FacetGrid:
    """One panel a parameter: the difference with its interval at every value, the default hollow; tried as of
    ablation_tables.tried_values. Values that grow more than eightfold stand on a log axis."""
    shown = tried.assign(at=tried["at"].where(tried.parameter != "effect_vectors", tried["at"] / 1000))
    grid = sns.FacetGrid(
        shown, col="parameter", col_wrap=min(3, shown.parameter.nunique()), height=2.4, aspect=1.2, sharex=False
    )
    grid.map_dataframe(_series_panel)
    grid.refline(y=0, color="0.7").set_titles("").set_ylabels(LESS_DEFAULT)
    for parameter, ax in grid.axes_dict.items():
        ax.set_xlabel(AXES.get(parameter, parameter))
        _values_as_ticks(ax, shown[shown.parameter == parameter]["at"].to_numpy())
    grid.figure.tight_layout()
    return grid


def _series_panel(data: pd.DataFrame, **_) -> None:
    ax, colour = sns.mpl.pyplot.gca(), COLOURS["fgaa"]
    others, own = data[~data.default], data[data.default]
    ends = [others.difference - others.lo, others.hi - others.difference]
    ax.plot(data["at"], data.difference, color=colour, lw=0.8, alpha=0.5)
    ax.errorbar(others["at"], others.difference, yerr=ends, fmt="o", ms=4.5, color=colour)
    ax.plot(own["at"], own.difference, "o", ms=6, mfc="white", color="0.2")


def _values_as_ticks(ax: Axes, values: np.ndarray) -> None:
    """A tick at every value tried."""
    if values.min() > 0 and values.max() > 8 * values.min():
        ax.set_xscale("log")
        ax.margins(x=0.1)
    ax.set_xticks(values, [f"{value:.3g}" for value in values])
    ax.set_xticks([], minor=True)
