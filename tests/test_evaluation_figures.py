"""What the evaluation's figures draw: the right marks at the right places, in the method's colour."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from test_tables import KEYS, results  # noqa: F401  (a fixture)

from fgaa_utils.evaluation import figures, latent_counts, tables
from fgaa_utils.figures import COLOURS, MARKS
from fgaa_utils.names import METHODS


@pytest.fixture(autouse=True)
def closed():
    yield
    figures.sns.mpl.pyplot.close("all")


def marks(ax, size):
    return [line for line in ax.lines if line.get_markersize() == size and line.get_marker() not in ("None", "")]


def test_averages_stand_in_falling_order_in_the_methods_colours(results):  # noqa: F811
    ax = figures.averages(results).ax
    dots = marks(ax, 4)
    values = [line.get_xdata()[0] for line in dots]
    assert values == sorted(values, reverse=True)
    best = max(results.methods, key=lambda m: results.bcs[m]["average"]["value"])
    assert to_hex(dots[0].get_color()) == COLOURS[best]
    assert next(t.get_text() for t in ax.get_yticklabels()) == tables.LABELS[best]


def test_chosen_scales_and_prompting_are_marked_in_the_curves(results):  # noqa: F811
    grid = figures.against_scale(results, "resid_std")
    for key, ax in zip(KEYS, grid.axes.flat):
        chosen = {to_hex(line.get_color()): line.get_xdata()[0] for line in marks(ax, 7)}
        assert chosen == {COLOURS[m]: pytest.approx(results.choice(m, key).scale) for m in results.steering}
        prompting = [line for line in ax.lines if to_hex(line.get_color()) == COLOURS["prompting"]]
        assert prompting[0].get_ydata()[0] == results.bcs["prompting"][key]["value"]
    assert "spreads of the residual stream" in grid.figure._supxlabel.get_text()


def test_behaviour_and_coherence_has_a_panel_for_the_average_and_marks_what_is_reported(results):  # noqa: F811
    grid = figures.behaviour_and_coherence(results)
    assert [ax.get_title() for ax in grid.axes.flat] == ["Anger", "Love", "average"]
    assert len(marks(grid.axes.flat[0], 7)) == 4
    assert not any(len(line.get_xdata()) for line in marks(grid.axes.flat[2], 7)), "an average has no chosen scale"
    curve = results.curve[(results.curve.target == "love") & (results.curve.method == "fgaa")].sort_values("scale")
    line = next(l for l in grid.axes.flat[1].lines if l.get_label() == "FGAA")
    np.testing.assert_allclose(line.get_xdata(), curve.C)


def test_heat_maps_name_their_axes(results):  # noqa: F811
    matrix = pd.DataFrame(np.eye(2), index=KEYS, columns=KEYS)
    grid = figures.side_effects({"fgaa": matrix, "caa": matrix}, results.names)
    assert grid.axes.flat[0].get_ylabel() == "steered towards" and grid.axes.flat[1].get_xlabel() == "behaviour shown"
    best = pd.DataFrame({"target": ["love"] * 4, "n1": [1, 2, 1, 2], "n2": [0, 0, 4, 4], "BCS": [0.1, 0.2, 0.3, 0.4]})
    heat = figures.n1_and_n2(best, {"love": "Love"})
    assert {text.get_text() for text in heat.axes.flat[0].texts} == {"0.10", "0.20", "0.30", "0.40"}
    assert [ax.get_title() for ax in heat.axes.flat][:2] == ["Love", "all behaviours"]


def test_n1_lines_have_a_mean_with_its_interval(results):  # noqa: F811
    best = latent_counts.best_by_latents(results.validation, KEYS)
    grid = figures.best_by_n1(best, latent_counts.means_by_n1(best), results.names)
    assert grid.ax.get_xscale() == "log" and [t.get_text() for t in grid.ax.get_xticklabels()] == ["2", "16"]


def test_no_interval_is_cut_by_a_panel(results):  # noqa: F811
    grid = figures.by_behaviour(results)
    ends = [line.get_xdata().max() for ax in grid.axes.flat for line in ax.lines]
    assert all(ax.get_xlim()[1] >= max(ends) for ax in grid.axes.flat)


def test_every_method_has_its_colour_mark_and_dashes():
    assert set(METHODS) <= set(COLOURS) and set(METHODS) == set(MARKS) == set(figures.DASHES)
