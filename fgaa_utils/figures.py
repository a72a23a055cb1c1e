"""One style for all figures and tables of the pages: colours of the methods, captions, text made safe for Markdown."""

import html
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display

from fgaa_utils.names import CONTROLS, IMPORTED, PROMPTING, UNSTEERED
from fgaa_utils.project import REPORTS

_BLIND = "#9a9a9a"  # what knows no behaviour
# One colour a method on every page: Okabe and Ito's, which colour-blind readers tell apart.
COLOURS = {
    "ng": "#d55e00",
    "ng_fgaa": "#56b4e9",
    "ng_caa": "#882255",
    "fgaa": "#0072b2",
    "sae_ts": "#e69f00",
    "sae": "#009e73",
    "caa": "#cc79a7",
    IMPORTED: "#8b6914",
    PROMPTING: "#222222",
    **dict.fromkeys(CONTROLS, _BLIND),
    UNSTEERED: _BLIND,
}
# and one mark; no triangle that points up, which shows a chosen scale where costs are drawn
MARKS = {"ng": "P", "ng_fgaa": "v", "ng_caa": "X", "fgaa": "o", "sae_ts": "s", "sae": "h", "caa": "D", IMPORTED: "p"}
CAPTION = "caption"  # metadata of a shown figure; it becomes the image's alternative text on the pages


def save_figure(grid: sns.axisgrid.Grid, folder: Path, name: str) -> None:
    """Write the figure as folder/name.png and folder/name.pdf, without dates, so that equal figures are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    grid.figure.savefig(folder / f"{name}.png", dpi=200, bbox_inches="tight", metadata={"Software": None})
    grid.figure.savefig(folder / f"{name}.pdf", bbox_inches="tight", metadata={"CreationDate": None})


def show(grid: sns.axisgrid.Grid, stage: str, name: str, *, caption: str) -> None:
    """Save the figure under reports/figures/<stage>/ and display it once, with its caption below.

    The caption says what is seen. Raises: ValueError for none.
    """
    if not caption.strip():
        raise ValueError(f"the figure {name!r} of {stage} has no caption; say what it shows")
    save_figure(grid, REPORTS / "figures" / stage, name)
    display(grid.figure, metadata={CAPTION: caption, "figure": name})
    sns.mpl.pyplot.close(grid.figure)
    say(f"*{caption}*")


def say(*sentences: str) -> None:
    """Display sentences as one paragraph of Markdown; empty ones are left out, and of none nothing is shown."""
    if text := " ".join(sentence for sentence in sentences if sentence):
        display(Markdown(text))


def table(frame: pd.DataFrame, *, digits: int = 2, index: bool = True) -> None:
    """Display a frame as a Markdown table: floats to `digits` places, no empty head of the first column."""
    display(Markdown(markdown_table(frame, digits=digits, index=index)))


def markdown_table(frame: pd.DataFrame, *, digits: int = 2, index: bool = True) -> str:
    """The frame as a Markdown table; the first column is headed by the index's name.

    Raises: ValueError if the index is shown and has no name.
    """
    if index and not frame.index.name:
        raise ValueError("the index of a table has no name; give it one with rename_axis, it heads the first column")
    shown = frame.reset_index() if index else frame
    head = [str(name) for name in shown.columns]
    lines = [head, ["---"] * len(head), *([_entry(v, digits) for v in row] for row in shown.itertuples(index=False))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _entry(value: object, digits: int) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.{digits}f}"
    return str(value)


def with_interval(entry: dict | None, form: str = ".2f") -> str:
    """`0.48 [0.38, 0.56]` of a {value, lo, hi}; `none` without one."""
    return "none" if not entry else f"{entry['value']:{form}} [{entry['lo']:{form}}, {entry['hi']:{form}}]"


def listed(names: Iterable[str]) -> str:
    """`a, b and c`; `none` of nothing."""
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


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
