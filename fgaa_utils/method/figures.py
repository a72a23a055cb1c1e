"""Figures of latents and vectors: each takes a frame or tensors and returns the seaborn grid (paper, figures 1 and
A.3)."""

import numpy as np
import pandas as pd
import seaborn as sns
from numpy.typing import NDArray
from torch import Tensor

from fgaa_utils.figures import COLOURS, colour_bar
from fgaa_utils.method.feature_tables import FATES, FIVE, HIGHEST, Differences, tallest
from fgaa_utils.method.vector_tables import AVERAGE
from fgaa_utils.names import LABELS, method_order

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "auc": "How well the mean activation of the highest filtered latent, and of the five highest, weighted as in FGAA's target, tell texts of a behaviour from near misses: area under the ROC curve, a dot each for every behaviour; the line is chance.",
    "density": "How many latents have which density, on a logarithmic axis; the line is theta, right of which latents are removed.",
    "figure_A3": "The hundred largest entries of v_diff by size in falling order, before and after the filters; a panel is a behaviour. Heights are activations, in the norm of the residual stream.",
    "cosines": "Cosine of FGAA's vector with the other methods' vectors, a dot for each behaviour; the dark marks are averages, ours and those that the paper prints.",
    "predicted_effect": "Cosine of the effect that the map predicts of a behaviour's vector (rows) with the latents that a behaviour wants (columns); a panel is a method, red is positive, blue negative.",
}
ACTIVATION = "activation, norm in the residual stream"
SORTED = 100  # largest entries drawn in figure A.3


def densities(density: NDArray, theta: float) -> sns.FacetGrid:
    """Histogram of the densities (d_sae,) that are not zero, with a line at theta."""
    grid = sns.displot(x=density[density > 0], log_scale=True, height=2.8, aspect=1.9, bins=60)
    grid.set_axis_labels("density (share of background tokens on which a latent fires)", "number of latents")
    return grid.refline(x=theta)


def sorted_differences(found: Differences, names: dict[str, str]) -> sns.FacetGrid:
    """The largest entries of each behaviour's v_diff by size, before and after the filters (paper, figure A.3)."""
    curves = []
    for label, v_diff in (("before filters", found.before), ("after filters", found.after)):
        for key, v in v_diff.items():
            heights = v.abs().sort(descending=True).values[:SORTED].numpy()
            rank = np.arange(1, len(heights) + 1)
            curves.append(pd.DataFrame({"behaviour": names[key], "rank": rank, "value": heights, "v_diff": label}))
    panels = {"col": "behaviour", "col_wrap": min(3, len(names)), "facet_kws": {"sharey": False}}
    lines = {"x": "rank", "y": "value", "hue": "v_diff", "kind": "line", "height": 1.7, "aspect": 1.3}
    grid = sns.relplot(pd.concat(curves, ignore_index=True), **lines, **panels)
    return grid.set_axis_labels("rank by size", "|v_diff| (activation)").set_titles("{col_name}")


def fates_of_tallest(v_diff: Tensor, fates: NDArray, behaviour: str) -> sns.FacetGrid:
    """The largest entries of one behaviour's v_diff by size, coloured by what the filters do (paper, figure 1)."""
    top = tallest(v_diff)
    frame = pd.DataFrame({"latent": [str(i) for i in top], "v_diff": v_diff[top].numpy(), "fate": fates[top]})
    bars = {"x": "latent", "y": "v_diff", "hue": "fate", "hue_order": FATES, "kind": "bar", "dodge": False}
    grid = sns.catplot(frame, **bars, height=2.8, aspect=2.2)
    grid.set_axis_labels("latent", f"v_diff of {behaviour}\n({ACTIVATION})").legend.set_title("")
    grid.refline(y=0, color="0.3", ls="-", lw=0.8)
    return grid.tick_params(axis="x", rotation=90)


def fates_caption(behaviour: str) -> str:
    """What fates_of_tallest shows."""
    return (
        f"The twenty largest entries of v_diff of {behaviour} by size, positive and negative, coloured by what the filters "
        "do with them."
    )


def aucs(table: pd.DataFrame) -> sns.FacetGrid:
    """AUC of the highest latent and of the five highest for each behaviour (auc_table by name), with a line at
    chance."""
    long = table[[HIGHEST, FIVE]].rename_axis("behaviour").reset_index()
    long = long.melt("behaviour", var_name="latents", value_name="AUC")
    order = table[FIVE].sort_values(ascending=False).index
    dots = {"x": "AUC", "y": "behaviour", "hue": "latents", "order": order, "kind": "strip", "jitter": False, "size": 7}
    grid = sns.catplot(long, **dots, height=0.6 + 0.28 * len(order), aspect=6 / (0.6 + 0.28 * len(order)))
    grid.set_axis_labels("AUC on fresh texts against near misses (0.5 is chance)", "").legend.set_title("")
    return grid.refline(x=0.5)


def cosines(shown: pd.DataFrame) -> sns.FacetGrid:
    """Cosine of FGAA's vector with the other methods' (vector_tables.beside_paper), one dot a behaviour and method."""
    averages = shown.index.str.startswith(AVERAGE)
    long = shown[~averages].rename_axis("behaviour").reset_index()
    long = long.melt("behaviour", var_name="method", value_name="cosine")
    order = [LABELS[m] for m in method_order(list(LABELS)) if LABELS[m] in shown.columns]
    palette = {LABELS[m]: COLOURS[m] for m in LABELS if LABELS[m] in order}
    dots = {
        "x": "cosine",
        "y": "method",
        "hue": "method",
        "order": order,
        "palette": palette,
        "jitter": False,
        "alpha": 0.7,
    }
    grid = sns.catplot(long, **dots, kind="strip", legend=False, height=1.9, aspect=3)
    for model, marker in zip(shown.index[averages], "|^v<>"):
        grid.ax.scatter(shown.loc[model, order], order, marker=marker, color="0.2", s=60, label=model, zorder=3)
    grid.ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return grid.set_axis_labels("cosine with FGAA's vector", "")


def predicted_effects(matrices: dict[str, pd.DataFrame]) -> sns.FacetGrid:
    """One heat map a method of vector_tables.predicted_effects, all in the same colours."""
    long = pd.concat([matrix.assign(method=LABELS[method]) for method, matrix in matrices.items()])

    def heat(data: pd.DataFrame, **_) -> None:
        sns.heatmap(data.drop(columns="method"), vmin=-0.4, vmax=0.4, cmap="vlag", square=True, cbar=False)

    wrap, height = (2, 2.9) if len(matrices) <= 4 else (4, 2.3)
    grid = sns.FacetGrid(long, col="method", col_wrap=wrap, height=height)
    grid.map_dataframe(heat)
    grid.set_titles("{col_name}").set_axis_labels("target of", "vector for")
    colour_bar(grid, "cosine of predicted effect and target")
    return grid
