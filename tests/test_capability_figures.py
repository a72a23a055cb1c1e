"""The figures on costs, drawn from made-up numbers: axes, marks and labels stand where they should."""

import matplotlib.pyplot as plt
import pytest
from made_costs import SCALES, made_bcs, made_costs

from fgaa_utils.evaluation import capability_figures as figures
from fgaa_utils.evaluation.capability_front import PAYING, behaviour_points, beyond_the_axis, mean_points, ratio_limit
from fgaa_utils.evaluation.capability_tables import prices
from fgaa_utils.evaluation.costs_figures import costs_of_cells
from fgaa_utils.names import CONTROLS, UNSTEERED


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    return made_costs(tmp_path_factory.mktemp("costs"), spread=0.1)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def legend(grid):
    return [text.get_text() for text in grid.legend.get_texts()]


def test_perplexity_is_drawn_on_two_logarithmic_axes_with_the_chosen_scales(costs):
    grid = figures.perplexity_by_scale(costs, "resid_std", seed=0)
    for ax in grid.axes.flat:
        assert ax.get_xscale() == ax.get_yscale() == "log"
        assert [t.get_text() for t in ax.get_xticklabels()] == [f"{s:g}" for s in SCALES]
        triangles = [line for line in ax.lines if line.get_marker() == "^" and len(line.get_xdata())]
        assert [float(line.get_xdata()[0]) for line in triangles] == [0.2] * 4
    assert legend(grid)[:5] == ["FGAA", "SAE-TS", "SAE", "CAA", "median\nchosen scale"]
    assert "spreads of the residual stream" in grid.figure.get_supxlabel()


def test_accuracy_has_a_panel_a_task_with_chance_and_the_unsteered_model(costs):
    grid = figures.accuracy_by_scale(costs, "absolute", seed=0)
    assert list(grid.axes_dict) == ["SciQ", "MMLU"]
    levels = {
        line.get_linestyle(): line.get_ydata()[0] for line in grid.axes_dict["MMLU"].lines if len(line.get_xdata()) == 2
    }
    assert levels["--"] == 1.0 and levels[":"] == 0.25
    assert legend(grid)[-2:] == ["unsteered", "chance"]
    assert "absolute norm" in grid.figure.get_supxlabel()


def test_the_axis_of_the_front_ends_at_its_limit(costs):
    bcs = made_bcs(dict.fromkeys([*PAYING, *CONTROLS, UNSTEERED], 0.4))
    points = behaviour_points(costs, bcs)
    means = mean_points(prices(costs, bcs, draws=20, seed=0), points, bcs)
    grid = figures.bcs_against_cost(points, means)
    ax = grid.axes_dict["perplexity_ratio"]
    assert ax.get_xlim()[1] == pytest.approx(ratio_limit(means)) and ax.get_xscale() == "log"
    assert legend(grid) == ["FGAA", "SAE-TS", "SAE", "CAA", "prompting"]


def test_labels_of_scales_that_would_touch_are_left_out_and_the_ends_stay():
    assert figures._spaced_labels([20, 40, 80, 120, 160, 200]) == ["20", "40", "80", "120", "", "200"]
    assert figures._spaced_labels([0.1]) == ["0.1"]


def test_every_cell_but_unsteered_is_a_point(costs):
    grid = costs_of_cells(costs)
    assert sum(len(collection.get_offsets()) for collection in grid.ax.collections) == len(costs.cells) - 1
    assert legend(grid) == ["FGAA", "SAE-TS", "SAE", "CAA", "prompting", "controls"]
    levels = [line.get_ydata()[0] for line in grid.ax.lines if len(line.get_ydata())]
    assert levels == pytest.approx([1.0, 0.375])


def test_the_caption_of_the_front_ends_with_what_lies_beyond_the_axis(costs):
    bcs = made_bcs(dict.fromkeys([*PAYING, *CONTROLS, UNSTEERED], 0.5))
    points = behaviour_points(costs, bcs)
    means = mean_points(prices(costs, bcs, draws=30, seed=0), points, bcs)
    caption = figures.front_caption(points, means)
    assert caption.startswith("BCS against what it costs") and caption.endswith(beyond_the_axis(points, means))
