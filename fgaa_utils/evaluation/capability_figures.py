"""Figures of the page on capability: perplexity and accuracy against scale, BCS against cost."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.stats import gmean

from fgaa_utils.evaluation.capability_front import PAYING, beyond_the_axis, pareto_front, ratio_limit, steering
from fgaa_utils.evaluation.capability_tables import (
    ACCURACY,
    PERPLEXITY,
    accuracy_by_task,
    chosen_scale,
    unsteered_accuracy,
)
from fgaa_utils.evaluation.costs import Costs
from fgaa_utils.evaluation.costs_figures import RATIO
from fgaa_utils.figures import COLOURS, MARKS
from fgaa_utils.names import LABELS, UNSTEERED, scale_label

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "figure_4": "Perplexity as a multiple of the unsteered model's, against scale. Lines are geometric means over behaviours, with 95 % bands over behaviours. Triangles mark each method's median chosen scale.",
    "figure_5": "Accuracy against scale, on the same questions for every vector. Lines are means over behaviours, with 95 % bands over behaviours. Dashed: the unsteered model. Dotted: chance. Triangles mark each method's median chosen scale.",
}
TASKS = {"arc_easy": "ARC-Easy", "sciq": "SciQ", "basic_skills": "basic skills", "mmlu": "MMLU"}


def perplexity_by_scale(costs: Costs, unit: str, *, seed: int) -> sns.FacetGrid:
    """Figure 4: the perplexity ratio against scale, by mean and median over texts; triangles at the median chosen scales."""
    long = costs.grid.melt(["method", "behaviour", "scale"], ["ratio_mean", "ratio_median"], "over texts", "ratio")
    long["over texts"] = long["over texts"].str.removeprefix("ratio_")
    grid = _lines(long, costs, "ratio", "over texts", estimator=gmean, seed=seed, height=3)
    grid.set(yscale="log").set_axis_labels("", RATIO).set_titles("{col_name} over texts")
    for ax in grid.axes.flat:
        ax.axhline(1, color="0.6", lw=0.8)
    _scale_axis(grid, costs, unit)
    return grid


def accuracy_by_scale(costs: Costs, unit: str, *, seed: int) -> sns.FacetGrid:
    """Figure 5: accuracy against scale, a panel a task; dashed the unsteered model, dotted chance."""
    by_task = accuracy_by_task(costs)
    long = by_task[by_task.method != UNSTEERED].assign(task=lambda d: d.task.map(_task_label))
    grid = _lines(long, costs, "accuracy", "task", estimator="mean", seed=seed, height=2.6, col_wrap=2)
    grid.set_axis_labels("", "accuracy").set_titles("{col_name}")
    plain = unsteered_accuracy(costs)
    for task, chance in costs.chance.items():
        ax = grid.axes_dict[_task_label(task)]
        for level, style in ((plain[task], "--"), (chance, ":")):
            ax.axhline(level, color="0.35", lw=1, ls=style, zorder=1)
    ax = grid.axes.flat[0]
    ax.plot([], [], color="0.35", lw=1, ls="--", label="unsteered")
    ax.plot([], [], color="0.35", lw=1, ls=":", label="chance")
    _scale_axis(grid, costs, unit)
    return grid


def bcs_against_cost(points: pd.DataFrame, means: pd.DataFrame) -> sns.FacetGrid:
    """BCS against each cost: small marks behaviours, diamonds means with intervals, bars medians, steps the Pareto front."""
    long = points.melt(["method", "behaviour", "BCS"], [PERPLEXITY, ACCURACY], "cost", "value")
    order = [m for m in PAYING if m in set(points.method)]
    grid = sns.relplot(
        long,
        x="value",
        y="BCS",
        hue="method",
        hue_order=order,
        palette=COLOURS,
        col="cost",
        s=16,
        alpha=0.45,
        linewidth=0,
        legend=False,
        height=3.4,
        aspect=1.1,
        facet_kws={"sharex": False},
    )
    for cost, ax in grid.axes_dict.items():
        _draw_means(ax, means, cost)
    left, right = grid.axes_dict[PERPLEXITY], grid.axes_dict[ACCURACY]
    left.set(xlabel=f"{RATIO} (logarithmic)", xscale="log")
    left.set_xlim(min(0.9, 0.9 * points[PERPLEXITY].min()), ratio_limit(means))
    right.set(xlabel="accuracy change")
    right.axvline(0, color="0.8", lw=0.8, zorder=0)
    left.axvline(1, color="0.8", lw=0.8, zorder=0)
    _plain_ticks(left, "x")
    grid.set_titles("")
    handles = {LABELS[m]: ax.plot([], [], "D", ms=7, color=COLOURS[m], mec="white")[0] for m in order}
    grid.add_legend(handles, label_order=list(handles), title="")
    return grid


def front_caption(points: pd.DataFrame, means: pd.DataFrame) -> str:
    """What bcs_against_cost shows, and what of it lies beyond the axis."""
    return (
        "BCS against what it costs at the chosen scales. Small marks are behaviours, diamonds the means over behaviours with "
        "95 % intervals, upright bars the medians. Dashed steps join the steering methods that no other one beats in both. "
        + beyond_the_axis(points, means)
    )


def _task_label(task: str) -> str:
    return TASKS.get(task, task)


def _lines(
    long: pd.DataFrame, costs: Costs, y: str, panels: str, *, estimator: object, seed: int, height: float, **layout: int
) -> sns.FacetGrid:
    """One line a method over the grid of scales, a 95 % band over behaviours, a panel a value of the column `panels`."""
    return sns.relplot(
        long,
        x="scale",
        y=y,
        hue="method",
        hue_order=costs.methods,
        style="method",
        style_order=costs.methods,
        palette=COLOURS,
        markers=MARKS,
        dashes=False,
        col=panels,
        kind="line",
        estimator=estimator,
        errorbar=("ci", 95),
        seed=seed,
        err_kws={"alpha": 0.13, "linewidth": 0},
        markersize=5,
        height=height,
        aspect=1.25,
        legend=False,
        **layout,
    )


def _scale_axis(grid: sns.FacetGrid, costs: Costs, unit: str) -> None:
    """A logarithmic axis of scale: the grid's scales as ticks, triangles at the median chosen scales, one label below all
    panels, and the legend."""
    axes = list(grid.axes.flat)
    grid.set(xscale="log")
    _make_room_below(axes[0], share=0.06 * len(costs.methods))  # the panels share it
    for ax in axes:
        ax.set_xticks(costs.scales, _spaced_labels(costs.scales))
        ax.minorticks_off()
        for row, m in enumerate(reversed(costs.methods)):
            place = (chosen_scale(costs, m), 0.04 + 0.055 * row)
            ax.plot(*place, "^", color=COLOURS[m], ms=6, mec="white", mew=0.6, transform=ax.get_xaxis_transform())
    handles = {LABELS[m]: ax.plot([], [], f"{MARKS[m]}-", color=COLOURS[m], ms=5)[0] for m in costs.methods}
    handles["median\nchosen scale"] = ax.plot([], [], "^", color="0.4", ms=6)[0]
    handles |= dict(zip(*reversed(axes[0].get_legend_handles_labels())))
    grid.add_legend(handles, label_order=list(handles), title="")
    grid.figure.supxlabel(scale_label(unit), y=0.02, fontsize=axes[0].xaxis.label.get_size())


def _spaced_labels(scales: list[float]) -> list[str]:
    """A label a scale, the largest first; none where it would touch the next on a logarithmic axis of a panel's width."""
    labels, last = [], np.inf
    gap = 0.12 * np.log(scales[-1] / scales[0])
    for scale in reversed(scales):
        far = last - np.log(scale) >= gap
        labels.append(f"{scale:g}" if far else "")
        last = np.log(scale) if far else last
    return labels[::-1]


def _make_room_below(ax: Axes, *, share: float) -> None:
    """Stretch the axis of y so that `share` of it is empty below what is drawn, without ticks there."""
    lo, hi = ax.get_ylim()
    ticks = [t for t in ax.get_yticks() if lo <= t <= hi]
    if ax.get_yscale() == "log":
        ax.set_ylim(lo / (hi / lo) ** (share / (1 - share)), hi)
    else:
        ax.set_ylim(lo - (hi - lo) * share / (1 - share), hi)
    ax.set_yticks(ticks)


def _plain_ticks(ax: Axes, axis: str) -> None:
    """1, 10, 100 in place of powers of ten on an axis that spans few of them."""
    which = getattr(ax, f"{axis}axis")
    lo, hi = which.get_view_interval()
    if hi / lo < 1e4:
        steps = [m * 10.0**p for p in range(-2, 5) for m in (1, 2, 5)]
        ticks = [t for t in steps if lo <= t <= hi]
        which.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
        which.set_minor_locator(sns.mpl.ticker.NullLocator())


def _draw_means(ax: Axes, means: pd.DataFrame, cost: str) -> None:
    front = pareto_front(steering(means), cost)
    ax.plot(front[cost], front.BCS, color="0.15", lw=1.2, ls="--", zorder=3.5, drawstyle="steps-post")
    for point in means.to_dict("records"):
        colour = COLOURS[point["method"]]
        across = [[point[cost] - point[f"{cost}_lo"]], [point[f"{cost}_hi"] - point[cost]]]
        along = [[point["BCS"] - point["BCS_lo"]], [point["BCS_hi"] - point["BCS"]]]
        ax.errorbar(point[cost], point["BCS"], xerr=across, yerr=along, color=colour, lw=1.1, zorder=2)
        ax.plot(point[f"{cost}_median"], point["BCS"], "|", color=colour, ms=11, mew=2, zorder=3)
        ax.plot(point[cost], point["BCS"], "D", color=colour, ms=8, mec="white", zorder=4)
