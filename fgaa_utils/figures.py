"""One style for all figures, and text made safe to stand in a rendered table."""

import html
import re

import seaborn as sns


def set_style() -> None:
    """seaborn's style for the whole project: legible at column width, colour-blind safe."""
    rc = {"axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 140, "figure.dpi": 110}
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=rc)


def escape_markdown(text: str) -> str:
    """The text on one line, outer spaces kept, to be shown as it is in a cell of a Markdown table."""
    folded = html.escape(re.sub(r"\s+", " ", text), quote=False)
    return re.sub(r"([\\`*_{}\[\]|$#~]|:(?=//))", lambda m: f"&#{ord(m.group(1))};", folded)
