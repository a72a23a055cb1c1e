"""Figures of the ablations: what they hold of made-up scores."""

import pytest
import seaborn as sns
from made_ablations import KEYS, made_plan, made_scores

from fgaa_utils.evaluation import ablation_figures as figures
from fgaa_utils.evaluation import ablation_tables as tables

PLAN = made_plan()
SCORES = made_scores(PLAN, {"density_filter off": (-0.3, 0.05), "examples 2": (-0.1, 0.05)})


@pytest.fixture(autouse=True)
def closed():
    yield
    sns.mpl.pyplot.close("all")


def test_the_ranking_has_a_line_a_row_and_fills_what_is_clear():
    ax = figures.ranking(tables.marks(SCORES), tables.dots(PLAN, SCORES)).ax
    assert [label.get_text() for label in ax.get_yticklabels()] == SCORES.ranked
    assert ax.get_xlabel() == "BCS minus the default's"
    assert sum(len(c.get_offsets()) for c in ax.collections if hasattr(c, "get_offsets")) >= len(KEYS) * len(PLAN.rows)
    faces = {line.get_markerfacecolor(): len(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"}
    assert faces == {"white": len(PLAN.rows) - 2, figures.COLOURS["fgaa"]: 2}


def test_the_map_has_a_number_a_pair_and_n2_grows_upwards():
    grid = figures.n1_n2_map(tables.heat_map(PLAN, SCORES))
    assert [text.get_text() for text in grid.ax.texts] == ["0.390"] * 4
    assert [label.get_text() for label in grid.ax.get_yticklabels()] == ["4", "0"]
    assert grid.ax.get_xlabel() == "n1 (positive latents of the target)"


def test_series_have_named_axes_and_a_tick_at_every_value():
    axes = figures.how_much(tables.tried_values(PLAN, SCORES)).axes_dict
    assert list(axes) == ["n1", "theta", "examples"]
    assert axes["theta"].get_xlabel() == "theta (share of tokens)"
    assert axes["n1"].get_ylabel() == "BCS minus the default's"
    assert [label.get_text() for label in axes["theta"].get_xticklabels()] == ["0.003", "0.01", "0.03"]
    assert axes["theta"].get_xscale() == "log" and axes["examples"].get_xscale() == "linear"
