"""One style for all figures, and text made safe to stand in a rendered table."""

import html
import re
from pathlib import Path

import seaborn as sns


def save_figure(grid: sns.axisgrid.Grid, folder: Path, name: str) -> None:
    """Write the figure as folder/name.png and folder/name.pdf, without dates, so that equal figures are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    grid.figure.savefig(folder / f"{name}.png", dpi=200, bbox_inches="tight", metadata={"Software": None})
    grid.figure.savefig(folder / f"{name}.pdf", bbox_inches="tight", metadata={"CreationDate": None})


def colour_bar(grid: sns.FacetGrid, label: str) -> None:
    """One colour bar beside all panels of a grid of heat maps that share their colours."""
    axes = list(grid.axes.flat)
    grid.figure.colorbar(axes[0].collections[0], ax=axes, shrink=0.6, pad=0.02, label=label)


def set_style() -> None:
    """seaborn's style for the whole project: legible at column width, colour-blind safe."""
    rc = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "savefig.dpi": 140,
        "figure.dpi": 110,
        "pdf.fonttype": 42,
    }
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=rc)


def escape_markdown(text: str) -> str:
    """The text on one line, outer spaces kept, to be shown as it is in a cell of a Markdown table."""
    folded = html.escape(re.sub(r"\s+", " ", text), quote=False)
    return re.sub(r"([\\`*_{}\[\]|$#~]|:(?=//))", lambda m: f"&#{ord(m.group(1))};", folded)
