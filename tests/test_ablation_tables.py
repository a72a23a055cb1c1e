"""Scores of the ablations: each row's are of its own texts, differences are paired, tables hold what was scored."""

import numpy as np
import pandas as pd
import pytest
from made_ablations import KEYS, RECIPE, made_plan, made_samples, made_scores
from scipy.stats import ttest_rel

from fgaa_utils.evaluation import ablation_tables as tables
from fgaa_utils.stats import bcs, detectable_difference


def test_a_rows_score_is_mean_behaviour_times_mean_coherence():
    rng = np.random.default_rng(0)
    cells = [
        pd.DataFrame({"B": rng.random(12), "coherence": rng.random(12), "prompt": list("abc") * 4}) for _ in range(2)
    ]
    by_hand = [c.B.sum() / 12 * c.coherence.sum() / 12 for c in cells]
    assert tables.score_row(cells).tolist() == pytest.approx(by_hand)


def test_rows_are_scored_on_their_own_texts_at_their_own_scale():
    plan = made_plan()
    samples = made_samples(plan, {"theta 0.03": 0.2})
    far = samples[samples.variant == "theta 0.03"].assign(scale=0.5)
    far[[f"B_{key}" for key in KEYS]] = 0.9
    scores = tables.score_rows(plan, pd.concat([samples, far]), draws=50, seed=0)
    assert scores.default["value"] == pytest.approx(0.5 * 0.8, abs=0.02) and scores.default["n"] == 9 * 12
    assert scores.table["theta 0.03"]["value"] == pytest.approx(0.2 * 0.8, abs=0.02)
    assert scores.difference("theta 0.03")["value"] == pytest.approx(-0.3 * 0.8, abs=0.03)
    assert scores.difference("target_norm l2")["same"] and "difference" not in scores.default
    assert scores.ranked[0] == "theta 0.03" and "target_norm l2" not in scores.compared
    by_hand = [bcs(c[f"B_{b}"], c.coherence) for b, c in samples[samples.variant == "default"].groupby("behaviour")]
    assert scores.by_behaviour["default"].tolist() == pytest.approx(by_hand)


def test_a_row_without_texts_is_named():
    plan = made_plan()
    samples = made_samples(plan)
    with pytest.raises(ValueError, match=r"the row 'examples 5' has no test samples of .*b0.* again STAGE"):
        tables.score_rows(plan, samples[samples.variant != "examples 5"], draws=5, seed=0)


def test_test_samples_are_those_of_both_runs(tmp_path):
    plan = made_plan()
    samples = made_samples(plan)
    main, own = samples[samples.variant == "default"], samples[samples.variant != "default"]
    main.to_parquet(tmp_path / "test.parquet")
    pd.concat([own.assign(split="test"), own.assign(split="validation")]).to_parquet(tmp_path / "samples.parquet")
    found = tables.read_test(tmp_path / "test.parquet", tmp_path / "samples.parquet")
    pd.testing.assert_frame_equal(
        found[samples.columns].reset_index(drop=True), pd.concat([main, own], ignore_index=True)
    )


def test_differences_are_row_minus_default_and_equal_rows_are_no_comparison():
    generator = np.random.default_rng(0)
    rows = {"worse": {"theta": 1.0}, "noise": {"theta": 2.0}, "target_norm l2": {"target_norm": "l2"}}
    base = generator.random(9)
    scores = {"default": base, "target_norm l2": base, "worse": base - 0.3 + generator.normal(0, 0.02, 9)}
    scores["noise"] = base + generator.normal(0, 0.2, 9)
    found = tables.differences(scores, made_plan(rows))
    assert found["worse"]["value"] == pytest.approx(-0.3, abs=0.03) and found["worse"]["hi"] < 0
    assert found["worse"]["lo"] < found["worse"]["value"] < found["worse"]["hi"] and found["worse"]["better_on"] == 0
    assert found["target_norm l2"] == {"value": 0.0, "lo": 0.0, "hi": 0.0, "p": 1.0, "better_on": 0, "same": True}
    raw = sorted(ttest_rel(base, scores[row]).pvalue for row in ("worse", "noise"))
    assert found["worse"]["p"] == pytest.approx(2 * raw[0], abs=1e-4), "two comparisons, not three"


def test_the_ranked_table_begins_with_the_worst():
    plan = made_plan()
    scores = made_scores(plan, {"density_filter off": (-0.3, 0.05), "examples 5": (0.2, 0.05)})
    found = tables.ranked_table(plan, scores)
    assert found.index[0] == "density_filter off" and found.index[-1] == "examples 5" and len(found) == len(plan.rows)
    assert found.loc["density_filter off", "minus the default's"].startswith("-0.300 [")
    assert found.loc["examples 5", "better on"] == "9 of 9" and found.loc["examples 5", "median scale"] == "0.1"
    assert found.loc["target_norm l2", "p (Holm)"] == "same vectors"


def test_the_figure_of_the_ranking_has_a_mark_a_row_and_a_dot_a_behaviour():
    plan = made_plan()
    scores = made_scores(plan, {"density_filter off": (-0.3, 0.05)})
    marks, dots = tables.marks(scores), tables.dots(plan, scores)
    assert marks.row.tolist() == scores.ranked and marks[marks.clear].row.tolist() == ["density_filter off"]
    assert len(dots) == len(plan.rows) * len(KEYS)
    means = dots.groupby("row").difference.mean()
    assert means["density_filter off"] == pytest.approx(-0.3) and means["target_norm l2"] == 0


def test_the_heat_map_holds_every_pair_and_no_other_row():
    plan = made_plan()
    scores = made_scores(plan, {"n1 8, n2 4": (-0.2, 0.01)})
    heat = tables.heat_map(plan, scores).pivot(index="n2", columns="n1", values="BCS")
    assert heat.shape == (2, 2) and heat.loc[4, 8] == pytest.approx(0.2) and heat.loc[0, 1] == pytest.approx(0.39)


def test_series_are_of_numbers_changed_alone_with_the_defaults_value_among_them():
    plan = made_plan()
    tried = tables.tried_values(plan, made_scores(plan, {"examples 2": (-0.1, 0.05)}))
    values = {name: part["at"].tolist() for name, part in tried.groupby("parameter", sort=False)}
    assert values == {"n1": [1, 8], "theta": [0.003, 0.01, 0.03], "examples": [2, 5, 10]}
    own = tried[tried.default].set_index("parameter")
    assert own["at"].to_dict() == {"theta": RECIPE["theta"], "examples": 10} and not own.difference.any()
    two = tried[(tried.parameter == "examples") & (tried["at"] == 2)].iloc[0]
    assert two.difference == pytest.approx(-0.1) and two.lo < -0.1 < two.hi and two.BCS == pytest.approx(0.3)
    assert tables.tried_table(tried).loc["examples"].item() == "2: 0.300, 5: 0.390, **10: 0.400**"


def test_nothing_tried_at_several_values_is_an_empty_series():
    plan = made_plan({"theta 0.1": {"theta": 0.1}})
    assert tables.tried_values(plan, made_scores(plan, {})).empty


def test_what_the_samples_can_show_is_the_median_over_rows_that_differ():
    plan = made_plan()
    scores = made_scores(plan, {})
    one = detectable_difference(scores.by_behaviour["theta 0.03"], scores.by_behaviour["default"])
    assert tables.detectable(scores) == pytest.approx(one)
    assert tables.detectable(scores, comparisons=10) > one
    same = made_plan({"target_norm l2": {"target_norm": "l2"}})
    assert np.isnan(tables.detectable(made_scores(same, {})))
