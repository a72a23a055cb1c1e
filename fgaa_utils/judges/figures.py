"""Figures of the judge's page; each takes a frame of fgaa_utils.judges.validation and returns a grid."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from seaborn import FacetGrid

from fgaa_utils.figures import COLOURS
from fgaa_utils.names import LABELS

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "agreement": "Rank correlation of the judge's scores with the labels of steered text, with 95 % intervals (dots), and of the two annotators' labels with each other (diamonds).",
    "bias": "Score minus label by method, with 95 % intervals over texts; right of the line the judge is too kind.",
    "calibration": "Share of a bin's texts that show the behaviour, over their mean score, with 95 % intervals (Wilson). On the diagonal a score is a probability.",
    "graded_corruption": "Mean coherence of held-out text over the share of its words that is damaged, by kind of damage; 0 is untouched text. Grey: the mean of all kinds.",
}
GREY = "0.7"


def _interval_rows(ax: Axes, data: pd.DataFrame, colours: list, labels: list[str]) -> None:
    """A dot with its interval for each row, from the top down."""
    for place, (row, colour) in enumerate(zip(data.itertuples(), colours)):
        ax.plot([row.lo, row.hi], [place, place], color=colour, lw=2)
        ax.plot(row.value, place, "o", color=colour, ms=4)
    ax.set_yticks(range(len(data)), labels)
    ax.set_ylim(len(data) - 0.5, -0.5)


def agreement(points: pd.DataFrame) -> FacetGrid:
    """Spearman of judge and labels with its interval, by criterion; diamonds where the annotators agree."""
    grid = FacetGrid(points, height=0.3 * len(points) + 0.9, aspect=5 / (0.3 * len(points) + 0.9))
    _interval_rows(grid.ax, points, [sns.color_palette()[0]] * len(points), points.criterion.tolist())
    grid.ax.plot(points.annotators, range(len(points)), "D", color="0.3", ms=4, mfc="none", ls="none")
    grid.ax.axvline(0, color=GREY, lw=0.8)
    return grid.set(xlim=(min(-0.05, points.lo.min() - 0.05), 1.05)).set_axis_labels("Spearman's correlation", "")


def calibration(curves: pd.DataFrame) -> FacetGrid:
    """Share of texts that show a behaviour over their mean score, a panel a behaviour; the diagonal is calibrated."""

    def curve(data: pd.DataFrame, **_) -> None:
        ax, colour = sns.mpl.pyplot.gca(), sns.color_palette()[0]
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        ax.vlines(data.score, data.lo, data.hi, color=colour, lw=1)
        ax.plot(data.score, data.share, "o-", ms=3, lw=1, color=colour)

    grid = FacetGrid(curves, col="behaviour", col_wrap=5, height=1.5)
    grid.map_dataframe(curve)
    ends = {"xlim": (-0.05, 1.05), "ylim": (-0.05, 1.05), "xticks": (0, 1), "yticks": (0, 1)}
    return grid.set_titles("{col_name}").set(**ends).set_axis_labels("score", "share")


def damage(means: pd.DataFrame) -> FacetGrid:
    """Mean coherence over the share of damaged words, a panel a kind of damage; grey: the mean of all kinds."""
    average = means.groupby("severity").coherence.mean()

    def line(data: pd.DataFrame, **_) -> None:
        ax = sns.mpl.pyplot.gca()
        ax.plot(average.index, average, color=GREY, lw=1)
        ax.plot(data.severity, data.coherence, "o-", color=sns.color_palette()[0], ms=3, lw=1.2)

    grid = FacetGrid(means, col="kind", col_wrap=5, height=1.5)
    grid.map_dataframe(line)
    grid.set_titles("{col_name}").set(xlim=(-0.05, 1.05), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    return grid.set_axis_labels("share damaged", "coherence")


def bias(points: pd.DataFrame) -> FacetGrid:
    """Score minus label with its interval by method, a panel a criterion."""

    def rows(data: pd.DataFrame, **_) -> None:
        ax = sns.mpl.pyplot.gca()
        _interval_rows(ax, data, [COLOURS[m] for m in data.method], [LABELS[m] for m in data.method])
        ax.axvline(0, color=GREY, lw=0.8, zorder=0)

    grid = FacetGrid(points, col="criterion", height=1.9, aspect=1.5)
    grid.map_dataframe(rows)
    return grid.set_titles("{col_name}").set_axis_labels("score minus label", "")
