"""Figures of the evaluation page: scores with intervals, against scale, behaviour against coherence, side effects, n1 and n2.

Each takes the tables of fgaa_utils.evaluation and returns seaborn's grid; colours are those of every page.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from fgaa_utils.evaluation.results import Results
from fgaa_utils.figures import COLOURS, MARKS, colour_bar
from fgaa_utils.names import CONTROLS, IMPORTED, LABELS, METHODS, PROMPTING, UNSTEERED, scale_label

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "averages": "Average BCS on test prompts of every method, with 95 % intervals over behaviours; grey methods know no behaviour, and prompting steers nothing.",
    "bcs_intervals": "BCS on test prompts at the scale and variant chosen on validation, by behaviour, with 95 % intervals.",
    "figures_2_3": "BCS of the chosen variant at every scale, by behaviour, with 95 % bands; large marks are the chosen scales, the dashed line is prompting, grey the best control.",
    "figures_E1_E2": "Behaviour against coherence along the scales, by behaviour and on average; large marks are the reported scales, stars are unsteered text and prompting, which have no scale.",
    "off_target": "Behaviour scores above those of unsteered text: rows are the behaviours steered towards, columns the behaviours that the texts show.",
    "figures_A1_A2": "The best validation BCS over scales for every n1, on one sample of every prompt; one line a behaviour; diamonds are means over behaviours with Student's 95 % interval.",
    "figure_A4": "The best validation BCS over scales, on one sample of every prompt, for numbers of positive (n1) and negative (n2) latents, for two behaviours and on average.",
}
MANY = 12  # behaviours, above which a figure names them otherwise or not at all
DASHES = {
    "ng": "-",
    "ng_fgaa": (0, (6, 1)),
    "ng_caa": (0, (2, 1)),
    "fgaa": "-",
    "sae_ts": (0, (5, 1.5)),
    "sae": (0, (3, 1, 1, 1)),
    "caa": (0, (1, 1)),
    IMPORTED: (0, (4, 1, 1, 1)),
}  # equal curves stay visible


def averages(results: Results) -> sns.FacetGrid:
    """The average test BCS of every method with its interval, the highest on top."""
    ordered = sorted(results.methods, key=lambda m: -results.bcs[m]["average"]["value"])
    grid = sns.FacetGrid(
        pd.DataFrame({"panel": [""]}), height=0.28 * len(ordered) + 0.8, aspect=6 / (0.28 * len(ordered) + 0.8)
    )
    _intervals(grid.ax, [results.bcs[m]["average"] for m in ordered], ordered)
    grid.ax.set(xlabel="BCS, average over behaviours", xlim=(0, None))
    return grid


def _intervals(ax: Axes, entries: list[dict], methods: list[str]) -> None:
    for i, (m, entry) in enumerate(zip(methods, entries)):
        ax.plot([entry["lo"], entry["hi"]], [i, i], color=COLOURS[m], lw=2)
        ax.plot(entry["value"], i, "o", color=COLOURS[m], ms=4)
    ax.set_yticks(range(len(methods)), [LABELS[m] for m in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)


def by_behaviour(results: Results) -> sns.FacetGrid:
    """Test BCS of every method with its interval, one panel a behaviour."""
    frame = pd.DataFrame({"behaviour": list(results.names.values()), "key": results.keys})
    height = max(1.9, 0.19 * len(results.methods))
    grid = sns.FacetGrid(frame, col="behaviour", col_wrap=min(5, len(frame)), height=height, aspect=1.9 / height)
    grid.set_titles("{col_name}")
    for key, ax in zip(results.keys, grid.axes.flat):
        _intervals(ax, [results.bcs[m][key] for m in results.methods], results.methods)
        ax.set(xlabel="BCS")
    furthest = max(results.bcs[m][key]["hi"] for m in results.methods for key in results.keys)
    grid.set(xlim=(0, 1.05 * furthest))  # the panels share it: set by one of them, it would cut the others
    return grid


def against_scale(results: Results, unit: str) -> sns.FacetGrid:
    """Figures 2 and 3 of the paper: BCS against scale with bands; large marks are the chosen scales."""
    frame = pd.DataFrame({"behaviour": list(results.names.values())})
    grid = sns.FacetGrid(
        frame, col="behaviour", col_wrap=min(3, len(frame)), height=1.9, aspect=1.3, sharex=True, sharey=True
    )
    for key, ax in zip(results.keys, grid.axes.flat):
        _curves(ax, results, key)
    grid.set(xscale="log").set_titles("{col_name}").set_axis_labels("", "BCS")
    grid.figure.supxlabel(scale_label(unit), y=0, va="top", fontsize="medium")
    ticks = results.scales[::2]
    for ax in grid.axes.flat:
        ax.set_xticks(ticks, [f"{s:g}" for s in ticks])
        ax.minorticks_off()
    handles, labels = grid.axes.flat[0].get_legend_handles_labels()
    grid.figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return grid


def _curves(ax: Axes, results: Results, key: str) -> None:
    own = results.curve[results.curve.target == key]
    for m in results.steering:
        rows = own[own.method == m].sort_values("scale")
        style: dict = {"color": COLOURS[m], "ls": DASHES[m], "marker": MARKS[m], "ms": 3, "lw": 1.2}
        ax.plot(rows.scale, rows.value, label=LABELS[m], **style)
        ax.fill_between(rows.scale, rows.lo, rows.hi, color=COLOURS[m], alpha=0.12, lw=0)
        chosen = rows[np.isclose(rows.scale, results.choice(m, key).scale)]
        ax.plot(chosen.scale, chosen.value, MARKS[m], color=COLOURS[m], ms=7, mec="white", zorder=4)
    best = own[own.method.isin(CONTROLS)].groupby("scale").value.max()
    ax.plot(best.index, best, color=COLOURS[UNSTEERED], lw=1, label="best control")
    level = own[own.method == PROMPTING].value.iloc[0]
    ax.axhline(level, color=COLOURS[PROMPTING], lw=0.9, ls="--", label=LABELS[PROMPTING])


def behaviour_and_coherence(results: Results) -> sns.FacetGrid:
    """Figures E.1 and E.2 of the paper: behaviour against coherence along the scales; large marks are reported."""
    average = results.curve.groupby(["method", "scale"], as_index=False)[["B", "C"]].mean().assign(target="average")
    curves = pd.concat([results.curve, average])
    panels = [*results.keys, "average"]
    frame = pd.DataFrame({"behaviour": [results.names.get(key, key) for key in panels]})
    grid = sns.FacetGrid(
        frame, col="behaviour", col_wrap=min(5, len(frame)), height=1.8, aspect=1, sharex=True, sharey=True
    )
    for key, ax in zip(panels, grid.axes.flat):
        _trade(ax, results, curves[curves.target == key], key)
    shown = curves[curves.method.isin((*METHODS, UNSTEERED, PROMPTING))]
    low, high = shown.C.min(), shown.C.max()
    grid.set_titles("{col_name}").set(xlim=(low - 0.05, high + 0.05), ylim=(-0.04, shown.B.max() + 0.05))
    grid.set_axis_labels("coherence", "behaviour")
    handles, labels = grid.axes.flat[0].get_legend_handles_labels()
    grid.figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return grid


def _trade(ax: Axes, results: Results, curves: pd.DataFrame, key: str) -> None:
    for m in results.steering:
        rows = curves[curves.method == m].sort_values("scale")
        ax.plot(rows.C, rows.B, marker=MARKS[m], ms=2.5, lw=1, color=COLOURS[m], ls=DASHES[m], label=LABELS[m])
        chosen = rows[np.isclose(rows.scale, results.choice(m, key).scale)] if key in results.keys else rows.head(0)
        ax.plot(chosen.C, chosen.B, MARKS[m], ms=7, color=COLOURS[m], mec="white", zorder=4)
    for m in (UNSTEERED, PROMPTING):
        rows = curves[curves.method == m]
        ax.plot(rows.C, rows.B, "*", ms=9, color=COLOURS[m], label=LABELS[m], ls="none")


def side_effects(matrices: dict[str, pd.DataFrame], names: dict[str, str]) -> sns.FacetGrid:
    """Heat maps of scores.off_target, one a method: rows are steered towards, columns are what the text shows."""
    frame = pd.DataFrame({"method": [LABELS[m] for m in matrices]})
    height = max(2.7, 0.16 * len(names))  # room for every name
    grid = sns.FacetGrid(frame, col="method", col_wrap=min(3 if len(names) <= MANY else 2, len(frame)), height=height)
    grid.set_titles("{col_name}")
    for matrix, ax in zip(matrices.values(), grid.axes.flat):
        shown = matrix.rename(index=names, columns=names)
        every = {"xticklabels": 1, "yticklabels": 1}
        sns.heatmap(shown, vmin=-1, vmax=1, cmap="vlag", square=True, cbar=False, ax=ax, **every)
        ax.set(xlabel="behaviour shown", ylabel="steered towards")
    colour_bar(grid, "behaviour score above unsteered text")
    return grid


def best_by_n1(
    best: pd.DataFrame, means: dict[int, tuple[float, float, float]], names: dict[str, str]
) -> sns.FacetGrid:
    """Figures A.1 and A.2 of the paper: the best validation BCS over scales for every n1; diamonds are means."""
    shown = best.assign(behaviour=best.target.map(names))
    style: dict = {"kind": "line", "marker": "o", "lw": 1, "palette": "husl", "legend": len(names) <= MANY}
    grid = sns.relplot(shown, x="n1", y="BCS", hue="behaviour", height=3, aspect=1.6, **style)
    for n, (value, lo, hi) in means.items():
        error = [[value - lo], [hi - value]]
        grid.ax.errorbar(n, value, yerr=error, fmt="D", ms=5, color="0.2", capsize=2, zorder=5)
    grid.set_axis_labels("n1, positive latents in the target", "best BCS over scales (validation)")
    grid.set(xscale="log", ylim=(0, None))
    grid.ax.set_xticks(sorted(best.n1.unique()), sorted(best.n1.unique()))
    grid.ax.minorticks_off()
    return grid


def n1_and_n2(best: pd.DataFrame, panels: dict[str, str]) -> sns.FacetGrid:
    """Figure A.4 of the paper: heat maps of the best validation BCS, of the behaviours of `panels` and of all."""
    parts = [best[best.target == key].assign(panel=name) for key, name in panels.items()]
    shown = pd.concat([*parts, best.assign(panel="all behaviours")])
    grid = sns.FacetGrid(shown, col="panel", height=2.5, aspect=1.2)
    top = shown.groupby(["panel", "n1", "n2"]).BCS.mean().max()
    for (name, ax), last in zip(grid.axes_dict.items(), [*[False] * len(panels), True]):
        values = shown[shown.panel == name].pivot_table(index="n2", columns="n1", values="BCS")
        style = {"vmin": 0, "vmax": top, "cmap": "viridis", "annot": True, "fmt": ".2f", "square": True}
        sns.heatmap(values, ax=ax, cbar=last, cbar_kws={"label": "best BCS", "shrink": 0.7} if last else None, **style)
        ax.invert_yaxis()
    grid.set_titles("{col_name}").set_axis_labels("n1, positive latents", "n2, negative latents")
    return grid
