"""Figures of the page on the gradient: halves against one another, F's spectrum, promises against steering."""

import numpy as np
import pandas as pd
import seaborn as sns
from numpy.typing import NDArray

from fgaa_utils.method.gradient_checks import NEAR

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "halves": "How well two maps from separate rollouts agree, against the rollouts of each: median over latents of the cosine of their gradients, shaded from the lower to the upper quartile.",
    "spectrum": "Eigenvalues of F in falling order, on a logarithmic axis: how much text changes under a vector of length one. Dashed: what is added to all of them before F is inverted.",
    "kl": "Measured KL against the KL that F promises, both in nats a token and on logarithmic axes; a line is a vector. Dashed: equality. Shaded: from 0.8 to 1.25 times as much.",
    "changes": "Measured change of the mean activation of every latent against the change that G predicts, at the smallest cost; a dot is a latent, a panel a vector. Dashed: equality.",
}
DASHED = {"color": "0.35", "lw": 1, "ls": "--"}
SHOWN = 2  # vectors of each kind in draw_changes


def draw_halves(halves: pd.DataFrame) -> sns.FacetGrid:
    """Median cosine and quartiles against the rollouts of a half, a panel for each thing compared (split_halves)."""

    def band(data: pd.DataFrame, **_) -> None:
        ax = sns.mpl.pyplot.gca()
        ax.fill_between(data.rollouts, data.lo, data.hi, alpha=0.2, lw=0)

    lines = {"x": "rollouts", "y": "median", "kind": "line", "errorbar": None, "marker": "o"}
    grid = sns.relplot(halves, col="compared", height=2.3, aspect=1.0, **lines)
    grid.map_dataframe(band)
    grid.refline(y=0, color="0.6", ls="-", lw=0.8)
    return grid.set_axis_labels("rollouts of each half", "cosine of the halves").set_titles("{col_name}")


def draw_spectrum(eigenvalues: NDArray, ridge: float) -> sns.FacetGrid:
    """Eigenvalues against their rank; dashed `ridge` times their mean. What rounding left below zero is not drawn."""
    frame = pd.DataFrame({"rank": np.arange(1, len(eigenvalues) + 1), "eigenvalue": eigenvalues})
    grid = sns.relplot(frame[frame.eigenvalue > 0], x="rank", y="eigenvalue", kind="line", height=2.8, aspect=1.7)
    grid.set(yscale="log").set_axis_labels("rank", "eigenvalue of F (logarithmic)")
    return grid.refline(y=ridge * eigenvalues.mean(), **DASHED) if ridge > 0 else grid


def draw_kl(kl: pd.DataFrame) -> sns.FacetGrid:
    """Measured against nominal KL (Measured.kl), a line a vector; dashed equality, shaded the range NEAR it."""
    lines = {"x": "nats", "y": "measured", "units": "vector", "estimator": None, "kind": "line"}
    grid = sns.relplot(kl, hue="kind", marker="o", markersize=4, lw=1, alpha=0.8, height=3, aspect=1.2, **lines)
    levels = np.sort(kl.nats.unique())
    grid.ax.fill_between(levels, NEAR[0] * levels, NEAR[1] * levels, color="0.88", lw=0, zorder=0)
    grid.ax.plot(levels, levels, zorder=1, **DASHED)
    grid.set(xscale="log", yscale="log").set_axis_labels("nominal KL (nats a token)", "measured KL (nats a token)")
    grid.ax.set_xticks(levels, [f"{level:g}" for level in levels])
    grid.ax.minorticks_off()
    grid.ax.yaxis.set_major_formatter("{x:g}")
    grid.legend.set_title("")
    return grid


def draw_changes(changes: pd.DataFrame) -> sns.FacetGrid:
    """Measured against predicted change of every latent (Measured.changes), for the first vectors of each kind."""
    first = changes.groupby("kind", sort=False).vector.transform(lambda v: v.rank(method="dense")).astype(int)
    shown = changes.assign(panel=changes.kind + " " + first.astype(str))[first <= SHOWN]
    dots = {"x": "predicted", "y": "measured", "kind": "scatter", "s": 7, "lw": 0, "alpha": 0.4, "rasterized": True}
    panels = {"col": "panel", "col_wrap": SHOWN, "facet_kws": {"sharex": False, "sharey": False}}
    grid = sns.relplot(shown, height=2.2, aspect=1.3, **dots, **panels)
    for ax in grid.axes.flat:
        ax.axline((0, 0), slope=1, zorder=0, **DASHED)
        ax.locator_params(nbins=4)
    return grid.set_axis_labels("predicted change of activation", "measured change").set_titles("{col_name}")
