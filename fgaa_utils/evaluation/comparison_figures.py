"""The figure of the page that compares settings."""

import pandas as pd
import seaborn as sns

from fgaa_utils.figures import COLOURS
from fgaa_utils.names import LABELS, method_order

CAPTIONS = {  # what each figure shows, by the name under which it is saved
    "settings": "Average BCS on test prompts, a panel a setting, with 95 % intervals over behaviours.",
}


def averages_by_setting(rows: pd.DataFrame) -> sns.FacetGrid:
    """Average BCS with its interval, a panel a setting, a row a method; the methods are named on the left only."""
    methods = method_order(rows.method.unique().tolist())
    panels = rows.setting.nunique()
    grid = sns.FacetGrid(
        rows, col="setting", col_wrap=min(4, panels), height=0.5 + 0.24 * len(methods), aspect=0.85, despine=True
    )
    for name, ax in grid.axes_dict.items():
        for row in rows[rows.setting == name].itertuples():
            interval = [[row.value - row.lo], [row.hi - row.value]]
            ax.errorbar(row.value, methods.index(row.method), xerr=interval, fmt="o", ms=5, color=COLOURS[row.method])
    first = grid.axes.flat[0]
    first.set_yticks(range(len(methods)), [LABELS[m] for m in methods])
    first.set_ylim(len(methods) - 0.5, -0.5)
    first.set_xlim(0, 1)
    first.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    grid.set_titles("{col_name}").set_axis_labels("average BCS", "")
    return grid
