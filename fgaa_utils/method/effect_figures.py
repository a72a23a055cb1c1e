"""Figures of the effects page: scales of vectors, the learning curve, how well latents are predicted."""

import pandas as pd
import seaborn as sns
from torch import Tensor

DASHES = {"reduced rank": "", "ridge": (2, 2), "Adam": ""}  # the first two lie on one another
CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "learning_curve": "Quality of the fits on held-out decoder rows against the number of vectors; dotted, a perfect map.",
}


def draw_scales(scales: Tensor, rise: float) -> sns.FacetGrid:
    """Histogram of the coefficients (n,) at which cross-entropy rises by `rise` nats."""
    grid = sns.displot(scales.numpy(), bins=60, height=2.8, aspect=1.9)
    return grid.set_axis_labels(f"coefficient for +{rise} nats (norm of the residual stream)", "decoder rows")


def scales_caption(rise: float) -> str:
    """What draw_scales shows."""
    return f"Coefficients at which the decoder rows raise cross-entropy by {rise} nats."


def draw_learning_curve(curve: pd.DataFrame, ceiling: dict[str, float], n: int) -> sns.FacetGrid:
    """R2, centred cosine and retrieval among `n` held-out rows against the number of vectors, a line a fit; dotted what a
    perfect map would score, where noise sets a ceiling."""
    panels = {"r2": "R2", "cosine": "centred cosine", "retrieval_top1": f"retrieval, top 1 of {n}"}
    panels = {score: title for score, title in panels.items() if score in curve}
    long = curve.melt(["vectors", "fit"], value_vars=list(panels), var_name="score")
    grid = sns.relplot(
        long.assign(score=long.score.map(panels)),
        x="vectors",
        y="value",
        hue="fit",
        style="fit",
        col="score",
        kind="line",
        markers=True,
        dashes=DASHES,
        height=2.3,
        aspect=1.0,
        facet_kws={"sharey": False},
    )
    for key, ax in zip(panels, grid.axes.flat, strict=True):
        if key in ceiling:
            ax.axhline(ceiling[key], color="0.5", linestyle=":", linewidth=1.2)
            ax.text(
                0.02, ceiling[key], "ceiling", transform=ax.get_yaxis_transform(), color="0.4", va="top", size="small"
            )
    grid.set_axis_labels("vectors", "held out").set_titles("{col_name}").legend.set_title("")
    return grid


def draw_latents(latents: pd.DataFrame) -> sns.FacetGrid:
    """Boxes of the correlation of predicted and measured effect, by the spread of the true effect (see latent_table)."""
    grid = sns.catplot(
        latents, x="spread of the true effect", y="correlation", kind="box", height=2.8, aspect=1.7, showfliers=False
    )
    return grid.refline(y=0)


def latents_caption(fit: str) -> str:
    """What draw_latents shows of the map of `fit`."""
    return (
        f"Correlation of predicted and measured effect ({fit}), latents in fifths by the spread of their true effect."
    )
