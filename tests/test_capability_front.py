"""BCS against its price: the Pareto front of known points, medians and means, what lies beyond the axis."""

import pandas as pd
import pytest
from made_costs import BEHAVIOURS, made_bcs, made_costs

from fgaa_utils.evaluation import capability_front as front
from fgaa_utils.evaluation.capability_tables import prices
from fgaa_utils.names import CONTROLS, PAPER_METHODS, PROMPTING, UNSTEERED

HEIGHTS = {
    "fgaa": 0.5,
    "sae_ts": 0.3,
    "sae": 0.4,
    "caa": 0.2,
    "prompting": 0.6,
    **dict.fromkeys((*CONTROLS, UNSTEERED), 0.0),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(costs, price, points, means)"""
    costs, bcs = made_costs(tmp_path_factory.mktemp("costs")), made_bcs(HEIGHTS)
    price = prices(costs, bcs, draws=20, seed=0)
    points = front.behaviour_points(costs, bcs)
    return costs, price, points, front.mean_points(price, points, bcs)


def made_means(*rows):
    return pd.DataFrame(rows, columns=["method", "perplexity_ratio", "accuracy_change", "BCS"])


def test_the_front_holds_those_whom_no_other_beats_in_both():
    means = made_means(
        ("fgaa", 3.0, -0.3, 0.5), ("sae_ts", 2.0, -0.1, 0.2), ("sae", 1.5, -0.2, 0.4), ("caa", 1.1, 0.0, 0.1)
    )
    assert front.pareto_front(means, "perplexity_ratio").method.tolist() == ["caa", "sae", "fgaa"]
    assert front.pareto_front(means, "accuracy_change").method.tolist() == ["caa", "sae_ts", "sae", "fgaa"]


def test_of_equal_costs_the_higher_score_is_on_the_front_and_equal_points_are_one():
    means = made_means(("fgaa", 2.0, 0.0, 0.5), ("sae_ts", 2.0, 0.0, 0.5), ("sae", 2.0, 0.0, 0.4))
    assert len(front.pareto_front(means, "perplexity_ratio")) == 1
    assert front.pareto_front(means, "perplexity_ratio").BCS.tolist() == [0.5]


def test_points_are_those_of_the_chosen_cells(measured):
    costs, _, points, _ = measured
    assert len(points) == 5 * len(BEHAVIOURS) and set(points.method) == {*PAPER_METHODS, PROMPTING}
    love = points[(points.method == "fgaa") & (points.behaviour == "love")].iloc[0]
    assert love.perplexity_ratio == pytest.approx(2.718281828**0.8, rel=1e-4)
    assert love.accuracy_change == -0.25 and love.BCS == 0.5


def test_means_carry_intervals_and_medians(measured):
    _, price, _, means = measured
    row = means.set_index("method").loc["fgaa"]
    assert row.perplexity_ratio == price["fgaa"]["perplexity_ratio"]["value"]
    assert row.accuracy_change_lo == price["fgaa"]["accuracy_change"]["lo"]
    assert (row.BCS_lo, row.BCS, row.BCS_hi, row.BCS_median) == (0.4, 0.5, 0.6, 0.5)
    assert row.accuracy_change_median == -0.25
    assert means.method.tolist() == ["fgaa", "sae_ts", "sae", "caa", "prompting"]


def test_what_lies_beyond_the_axis_is_counted(measured):
    *_, points, means = measured
    points = points.assign(perplexity_ratio=points.perplexity_ratio.where(points.index != 0, 1e6))
    limit = front.ratio_limit(means)
    assert limit == 2 * means.perplexity_ratio.max()
    sentence = front.beyond_the_axis(points, means.assign(perplexity_ratio_hi=[limit + 1, 2, 2, 2, 2]))
    assert sentence.endswith("behaviours beyond it: 1 of 15, intervals that go on beyond it: 1 of 5.")


def test_the_answer_in_sentences(measured):
    _, price, _, means = measured
    assert front.front_sentence(means) == (
        "On the Pareto front of BCS and perplexity lie CAA, SAE and FGAA, of the methods that steer; with prompting counted "
        "in, CAA, SAE and prompting. On the Pareto front of BCS and accuracy lies FGAA, of the methods that steer; with prompting counted "
        "in, prompting."
    )
    assert "changes accuracy by -0.208 [" in front.price_sentence(price)
    assert front.price_sentence(price).endswith("Its average BCS there is 0.50.")


def test_rows_of_the_plot_and_of_the_table(measured):
    *_, points, means = measured
    rows = front.front_rows(means)
    assert list(rows[0]) == ["method", "perplexity_ratio", "accuracy_change", "BCS"]
    assert rows[0]["method"] == "fgaa" and len(rows) == 5
    table = front.behaviour_table(points, BEHAVIOURS)
    assert table.loc["Love", "FGAA"] == "0.50 / 2.23 / -0.25"
    assert table.index.name == "behaviour" and table.columns.tolist()[-1] == "prompting"
