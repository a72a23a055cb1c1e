"""Settings side by side, on made-up reports."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml

from fgaa_utils.evaluation import comparison as compare
from fgaa_utils.evaluation.comparison_figures import averages_by_setting
from fgaa_utils.project import METRICS, REPORTS
from fgaa_utils.stats import paired_comparisons


def entry(value):
    return {"value": value, "lo": value - 0.1, "hi": value + 0.1, "n": 6}


def report(folder, fgaa, caa, *, layer=None, verdict="holds", **params):
    """The metrics of a setting whose methods have these scores on three behaviours, and its parameters."""
    bcs = {
        m: {b: entry(v) for b, v in zip("abc", scores)} | {"average": entry(round(sum(scores) / 3, 4))}
        for m, scores in (("fgaa", fgaa), ("caa", caa))
    }
    claims = {"claims": {"FGAA is best": verdict}, "claims_shown_in": {"FGAA is best": "Scores"}}
    evaluation = {"bcs": bcs, "model": "gemma:0123:bfloat16", "samples": {"test": 30}} | claims
    (folder / "metrics").mkdir(parents=True)
    found = {
        "evaluation": evaluation,
        "judge": {"judge_kind": "local"},
        "sae": {"d_sae": 64, "explained_variance": 0.8},
    }
    for stage, metrics in found.items():
        (folder / "metrics" / f"{stage}.json").write_text(json.dumps(metrics))
    sections = {"base": {"layer": layer}, "effects": {"ce_probes": [layer]}} | params
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))


@pytest.fixture
def settings(tmp_path):
    report(tmp_path / "main", [0.5, 0.6, 0.7], [0.1, 0.2, 0.3])
    report(tmp_path / "settings" / "b", [0.1, 0.1, 0.1], [0.2, 0.3, 0.4], layer=5, verdict="undecided", sae={"l0": 9})
    report(tmp_path / "settings" / "b-deep", [0.3, 0.5, 0.4], [0.2, 0.3, 0.4], layer=8, sae={"l0": 9})
    report(tmp_path / "settings" / "other", [0.3, 0.5, 0.4], [0.2, 0.3, 0.4], layer=8, sae={"l0": 7})
    return compare.read_settings("gemma", tmp_path / "main" / "metrics", tmp_path / "settings")


def test_the_main_run_is_first_and_takes_no_part_in_layers(settings):
    assert [s.name for s in settings] == ["gemma", "b", "b-deep", "other"]
    assert settings[0].params is None
    assert [[s.name for s in group] for group in compare.layer_groups(settings)] == [["b", "b-deep"]]


def test_layers_are_compared_with_the_first_paired_over_behaviours(settings):
    (group,) = compare.layer_groups(settings)
    found = compare.layer_differences(group)
    against = paired_comparisons(np.array([0.1, 0.1, 0.1]), {8: np.array([0.3, 0.5, 0.4])})[8]
    assert found["fgaa"] == {
        8: {"value": -against["value"], "lo": -against["hi"], "hi": -against["lo"], "p": against["p"]}
    }
    assert found["fgaa"][8]["value"] == pytest.approx(0.3)
    assert found["caa"][8]["value"] == 0
    table = compare.layer_table(group)
    assert table.loc["FGAA", "layer 5"] == "0.10 [0.00, 0.20]"
    assert table.loc["FGAA", "layer 8"].startswith("0.40 [0.30, 0.50], +0.30 [")


def test_metrics_keep_their_keys(settings):
    found = compare.comparison(settings)
    assert set(found) == {"average_bcs", "layers"}
    assert found["average_bcs"]["gemma"] == {"fgaa": 0.6, "caa": 0.2}
    assert list(found["layers"]) == ["b"]


def test_what_a_setting_is_and_its_averages(settings):
    table = compare.setting_table(settings)
    assert table["b"].tolist() == ["gemma", "local", "3", "64", "0.80", "published", "30"]
    averages = compare.average_table(settings)
    assert averages.loc["b"].tolist() == ["0.10 [0.00, 0.20]", "0.30 [0.20, 0.40]"]
    assert averages.columns.tolist() == ["FGAA", "CAA"]
    rows = compare.average_rows(settings)
    assert len(rows) == 8 and rows.iloc[0].tolist() == ["gemma", "fgaa", 0.6, 0.5, 0.7]


def test_claims_name_the_page_that_decides_them(settings):
    table = compare.claims_table(settings)
    assert table.loc["FGAA is best"].tolist() == ["04_evaluation, Scores", "holds", "undecided", "holds", "holds"]
    assert table.index.name == "claim"


def test_a_claim_that_a_setting_does_not_ask_is_empty(settings):
    settings[0].metrics["capability"] = {"claims": {"keeps": "holds"}, "claims_shown_in": {"keeps": "Perplexity"}}
    table = compare.claims_table(settings)
    assert table.loc["keeps"].tolist() == ["capability, Perplexity", "holds", "", "", ""]
    assert compare.claims_sentence(settings) == "Of 2 claims 1 have one verdict in all settings that ask them (1 hold)."


def test_the_answer_in_sentences(settings):
    assert compare.steering_sentence(settings) == (
        "Of the methods that steer, FGAA has the highest average BCS in 3 of 4 settings (gemma, b-deep and other), CAA in b."
    )
    assert compare.overall_sentence(settings).endswith("the highest is FGAA in gemma, b-deep and other; CAA in b.")


def test_a_setting_that_was_not_run_whole_is_refused(tmp_path):
    report(tmp_path / "main", [0.5, 0.6, 0.7], [0.1, 0.2, 0.3])
    (tmp_path / "main" / "metrics" / "judge.json").unlink()
    with pytest.raises(ValueError, match="lacks judge"):
        compare.read_settings("gemma", tmp_path / "main" / "metrics", tmp_path / "none")


def test_reported_settings_can_be_read():
    settings = compare.read_settings("gemma-3-270m", METRICS, REPORTS / "settings")
    assert set(compare.claims_table(settings).columns) == {"decided in", *(s.name for s in settings)}
    assert "" not in set(compare.setting_table(settings).loc["judge"])


def test_the_figure_names_the_methods_on_the_left_only(settings):
    grid = averages_by_setting(compare.average_rows(settings))
    named = [[t.get_text() for t in ax.get_yticklabels() if t.get_visible()] for ax in grid.axes.flat]
    assert named[0] == ["FGAA", "CAA"] and not any(named[1:])
    assert list(grid.axes_dict) == ["gemma", "b", "b-deep", "other"]
    plt.close(grid.figure)
