"""The figure of the SAE page: how often latents fire."""

import numpy as np
import seaborn as sns
from numpy.typing import NDArray

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "densities": "How often latents fire on held-out text; the line is the paper's density filter, theta = 0.01.",
}


def draw_densities(densities: NDArray) -> sns.FacetGrid:
    """Histogram of the densities (d_sae,) above zero on a log axis, the paper's theta of 0.01 marked."""
    grid = sns.displot(np.log10(densities[densities > 0]), height=3, aspect=1.8, bins=50)
    grid.refline(x=-2)
    return grid.set_axis_labels("log10 of the share of tokens on which a latent fires", "latents")
