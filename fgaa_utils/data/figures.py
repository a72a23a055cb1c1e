"""The figure of the data page: how much text each source gives to each split."""

import pandas as pd
import seaborn as sns

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "sources": "Background text by source and split, in million characters of the documents kept.",
}


def draw_sources(characters: pd.DataFrame) -> sns.FacetGrid:
    """Stacked bars of million characters, sources (rows of a source_table) down, splits (its columns) in colours."""
    long = characters.reset_index().melt("source", var_name="split", value_name="characters")
    grid = sns.displot(
        long, y="source", weights="characters", hue="split", multiple="stack", shrink=0.8, height=3.4, aspect=1.6
    )
    return grid.set_axis_labels("million characters", "")
