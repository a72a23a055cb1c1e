"""What is read off made-up costs: cheap scales, intervals, prices, accuracies."""

import numpy as np
import pytest
from made_costs import NATS, SCALES, made_bcs, made_costs

from fgaa_utils.evaluation import capability_tables as tables
from fgaa_utils.evaluation.capability_claims import capability_claims
from fgaa_utils.evaluation.capability_front import PAYING
from fgaa_utils.names import CONTROLS, PAPER_METHODS, PROMPTING, UNSTEERED
from fgaa_utils.project import ROOT

BCS = made_bcs(dict.fromkeys([*PAYING, *CONTROLS, UNSTEERED], 0.4))


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    return made_costs(tmp_path_factory.mktemp("costs"))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return made_costs(tmp_path_factory.mktemp("costs"), spread=0.3)


def upper(*ends):
    return {s: {"value": 0.0, "lo": -1.0, "hi": hi} for s, hi in zip((0.1, 0.2, 0.4), ends)}


def test_a_scale_is_cheap_while_its_interval_and_those_below_stay_within_a_tenth():
    assert tables.cheap_scale(upper(0.01, 0.09, 0.5)) == 0.2
    assert tables.cheap_scale(upper(0.01, 0.02, 0.03)) == 0.4
    assert tables.cheap_scale(upper(0.01, 0.5, 0.01)) == 0.1  # what is above an expensive scale does not count
    assert tables.cheap_scale(upper(0.5, 0.01, 0.01)) is None
    assert tables.cheap_scale({0.1: {"hi": float(np.log(1.1))}}) == 0.1
    assert tables.cheap_scale(upper(0.2, 0.3, 0.5), rise=0.5) == 0.2


def test_intervals_cross_behaviours_and_items():
    alike = tables.crossed_interval(np.full((3, 4), 2.0), draws=50, seed=0)
    assert alike == {"value": 2.0, "lo": 2.0, "hi": 2.0}
    rows = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])  # behaviours differ, texts do not
    columns = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])  # texts differ, behaviours do not
    for values in (rows, columns):
        found = tables.crossed_interval(values, draws=400, seed=0)
        assert found["lo"] < found["value"] < found["hi"]
    skewed = np.array([[0.0, 0.0, 9.0]])
    assert tables.crossed_interval(skewed, np.median, draws=50, seed=0)["value"] == 0.0
    assert tables.crossed_interval(skewed, draws=50, seed=0)["value"] == 3.0


def test_intervals_are_those_of_the_seed():
    values = np.random.default_rng(1).random((4, 6))
    again = [tables.crossed_interval(values, draws=100, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_losses_and_what_is_read_off_them(costs):
    loss = tables.losses(costs, draws=20, seed=0)
    assert list(loss) == ["fgaa", "sae_ts", "sae", "caa"] and list(loss["caa"]) == SCALES
    for m, of in loss.items():
        for scale, entry in of.items():
            assert entry["value"] == pytest.approx(NATS[m] * scale, rel=1e-4)
    cheap = {m: tables.cheap_scale(of) for m, of in loss.items()}
    assert cheap == {"fgaa": None, "sae_ts": None, "sae": 0.1, "caa": 0.2}
    assert tables.losing(loss, 0.4) == ["FGAA", "SAE-TS", "SAE", "CAA"]
    assert tables.losing_sentence(costs, loss) == (
        "At the largest scale of the grid the whole interval lies above 1 for FGAA, SAE-TS, SAE and CAA."
    )
    table = tables.scale_table(costs, loss)
    assert table.loc["CAA"].tolist() == ["0.2", "0.2", "1.13 [1.13, 1.13]"]
    assert table.loc["FGAA", "largest scale within a tenth"] == "none"
    assert table.columns[-1] == "perplexity ratio at 0.4"


def test_accuracy_by_task_and_against_unsteered(costs):
    by_task = tables.accuracy_by_task(costs)
    assert not by_task[by_task.method == "prompting"].size
    at = by_task[(by_task.method == "fgaa") & (by_task.scale == 0.4)].groupby("task").accuracy.mean()
    assert at.to_dict() == {"sciq": 1.0, "mmlu": 0.0}  # the first four of eight are SciQ's
    assert tables.unsteered_accuracy(costs).to_dict() == {"sciq": 1.0, "mmlu": 1.0}
    table = tables.accuracy_table(costs)
    assert table.loc["FGAA"].tolist() == ["-0.12", "-0.25", "-0.50"]
    assert table.index.name and table.columns.tolist() == ["0.1", "0.2", "0.4"]


def test_the_doubt_about_an_accuracy_is_that_of_one_task(costs):
    assert tables.accuracy_doubt(costs) == 0.0  # all right
    costs.right[0, :4] = 0.0
    assert tables.accuracy_doubt(costs) == pytest.approx(1.96 * (0.25 / 4) ** 0.5)
    assert tables.accuracy_sentence(costs) == (
        "On 8 questions the unsteered model has 0.500. Its accuracy on a single task is known to 0.49 either way (95 %)."
    )
    costs.right[0, :4] = 1.0


def test_prices_are_means_over_behaviours_at_the_chosen_scales(costs):
    price = tables.prices(costs, BCS, draws=30, seed=0)
    assert list(price) == [m for m in PAYING if m in PAPER_METHODS or m == PROMPTING] + [*CONTROLS]
    ratios = np.exp([4.0 * s for s in (0.1, 0.2, 0.2)])
    of = price["fgaa"]
    assert of["perplexity_ratio"]["value"] == pytest.approx(np.exp(np.log(ratios).mean()), abs=1e-3)
    assert of["perplexity_ratio"]["median"] == pytest.approx(np.exp(0.8), abs=1e-3)
    assert of["accuracy_change"]["value"] == round(-5 / 24, 4)
    assert of["bcs"] == 0.4
    assert price[PROMPTING]["perplexity_ratio"]["lo"] == pytest.approx(np.exp(0.2), abs=1e-3)
    assert set(price["random"]["perplexity_ratio"]) == {"value", "median"}  # no interval of a few vectors
    assert set(price["random"]["accuracy_change"]) == {"value"}


def test_the_price_table_says_at_whose_scales_the_controls_are(costs):
    table = tables.price_table(tables.prices(costs, BCS, draws=30, seed=0), 0.03)
    assert table.loc["random vector, at FGAA's scales", "average BCS"] == "0.400 (at its own scale)"
    assert table.loc["unsteered"].tolist() == ["0.030", "1", "1", "0"]
    assert table.loc["prompting", "perplexity ratio"] == "1.22 [1.22, 1.22]"


def test_metrics_are_plain_and_complete(noisy):
    loss = tables.losses(noisy, draws=20, seed=0)
    price = tables.prices(noisy, BCS, draws=20, seed=0)
    found = tables.capability_metrics(noisy, price, loss, capability_claims(noisy))
    assert set(found) == {
        "at_chosen_scale",
        "by_scale",
        "chance",
        "claims",
        "claims_shown_in",
        "largest_scale_within_a_tenth",
        "model",
        "questions",
        "texts",
        "unsteered",
    }
    assert found["questions"] == 8 and found["texts"] == 5 and found["model"] == "tiny:0:float32"
    assert list(found["by_scale"]["fgaa"]) == ["0.1", "0.2", "0.4"]
    part = noisy.grid[(noisy.grid.method == "fgaa") & (noisy.grid.scale == 0.2)]
    expected = np.exp(np.log(part.ratio_median).mean())
    assert found["by_scale"]["fgaa"]["0.2"]["perplexity_ratio_median"] == pytest.approx(expected, abs=1e-3)
    assert found["unsteered"] == {"nats": 3.0, "accuracy": {"sciq": 1.0, "mmlu": 1.0}}


def test_a_ratio_is_written_legibly_however_large():
    assert tables.ratio_text({"value": 14.8779, "lo": 2.5326, "hi": 590.6}) == "14.88 [2.53, 591]"
    assert tables.ratio_text({"value": 813656.2, "median": 3.0}) == "813,656"
    assert tables.ratio_text({"value": 1.0}) == "1.00"


def test_the_papers_figure_5_is_a_row_a_task():
    table = tables.paper_figure_5(ROOT / "data" / "paper.yaml")
    assert table.loc["MMLU", 20] == 40.6 and table.index.name
