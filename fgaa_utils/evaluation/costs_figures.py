"""The figure of the page on costs: what each cell does to text and to answers."""

import seaborn as sns

from fgaa_utils.evaluation.costs import Costs
from fgaa_utils.figures import COLOURS
from fgaa_utils.names import CONTROLS, LABELS, UNSTEERED

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "cells": "Accuracy against the perplexity ratio, a point a cell. Dashed: the unsteered model. Dotted: guessing.",
}
RATIO = "perplexity, ratio to unsteered"


def costs_of_cells(costs: Costs) -> sns.FacetGrid:
    """Accuracy against the ratio of perplexities, a point a cell."""
    shown = costs.cells[costs.cells.method != UNSTEERED]
    colours = {"controls" if m in CONTROLS else LABELS[m]: c for m, c in COLOURS.items() if m in set(shown.method)}
    grid = sns.relplot(
        shown.assign(label=shown.method.map(LABELS).where(~shown.method.isin(CONTROLS), "controls")),
        x="ratio_median",
        y="accuracy",
        hue="label",
        hue_order=list(colours),
        palette=colours,
        s=18,
        linewidth=0,
        alpha=0.7,
        height=3.2,
        aspect=1.5,
    )
    grid.set(xscale="log").set_axis_labels(f"{RATIO} (median over texts, logarithmic)", "accuracy over all questions")
    grid.ax.axhline(costs.cells.accuracy[0], color="0.35", lw=1, ls="--", zorder=0)
    grid.ax.axhline(sum(costs.chance.values()) / len(costs.chance), color="0.35", lw=1, ls=":", zorder=0)
    grid.legend.set_title("")
    return grid
