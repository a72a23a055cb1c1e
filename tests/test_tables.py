"""The evaluation page's tables, on made-up samples whose answers are known or found by plain loops."""

import numpy as np
import pandas as pd
import pytest
from made_samples import KEYS, PROMPTS, SCALES, samples_of, score_of, scored

from fgaa_utils.evaluation import latent_counts, protocol, scale_tables, tables
from fgaa_utils.evaluation.scores import Choices, cell_scores, choices_by_method, choose_cells

OWN = [
    (key, method, variant)
    for key in KEYS
    for method, variants in {
        "caa": [""],
        "sae": ["rank=1"],
        "sae_ts": ["rank=1"],
        "fgaa": ["n1=2,n2=0", "n1=16,n2=0"],
    }.items()
    for variant in variants
]
PLAIN = [(key, "prompting", "draw=1") for key in KEYS]


def frame(seed):
    return scored(seed, own=OWN, plain=PLAIN)


@pytest.fixture
def results(tmp_path):
    validation, test = frame(1), frame(2)
    choices = choose_cells(cell_scores(validation, KEYS))
    validation.to_parquet(tmp_path / "validation.parquet")
    test.to_parquet(tmp_path / "test.parquet")
    names = {"anger": "Anger", "love": "Love"}
    made = Choices(names, 1500.0, 100.0, "gemma-3-270m:1:float32", "s", 9, choices_by_method(choices), {})
    made.write(tmp_path / "choices.json")
    return tables.Results.read(tmp_path, draws=60, seed=0)


def test_results_are_those_of_the_samples_and_refuse_other_choices(results, tmp_path):
    assert results.methods == ["fgaa", "sae_ts", "sae", "caa", "prompting", "random", "unsteered"]
    assert results.steering == ["fgaa", "sae_ts", "sae", "caa"] and results.scales == SCALES
    for method in results.methods:
        for key, value in zip(KEYS, results.scores(method)):
            c = results.choice(method, key)
            assert value == round(score_of(samples_of(results.test, key, method, c.variant, c.scale)), 4)
    frame(3).to_parquet(tmp_path / "validation.parquet")
    with pytest.raises(ValueError, match=r"choices\.json .* is of other samples"):
        tables.Results.read(tmp_path, draws=2, seed=0)


def test_the_tables_of_scores_and_choices_say_what_the_results_hold(results):
    scores = tables.scores_table(results)
    entry = results.bcs["fgaa"]["love"]
    assert scores.loc["Love", "FGAA"] == f"{entry['value']:.3f} [{entry['lo']:.3f}, {entry['hi']:.3f}]"
    assert list(scores.index) == ["Anger", "Love", "average"]
    choice = results.choice("fgaa", "anger")
    assert (
        tables.choices_table(results).loc["Anger", "FGAA"]
        == f"{choice.scale:g}, norm {choice.coeff:.0f} ({choice.variant})"
    )
    assert "unsteered" not in tables.choices_table(results)


def test_ends_of_the_grid_are_counted(results):
    for method, (low, high) in scale_tables.ends_of_the_grid(results).items():
        scales = [results.choice(method, key).scale for key in KEYS]
        assert (low, high) == (scales.count(0.1), scales.count(0.4))


def test_differences_from_fgaa_are_paired_over_behaviours(results):
    paired = tables.against_others(results)
    assert "fgaa" not in paired and set(paired) == {"sae_ts", "sae", "caa", "prompting"}
    for method, entry in paired.items():
        difference = results.scores("fgaa") - results.scores(method)
        assert entry["value"] == pytest.approx(difference.mean(), abs=1e-4)
        assert entry["wins"] == (difference > 0).sum() and entry["lo"] <= entry["value"] <= entry["hi"]
    shown = tables.against_table(paired)
    assert shown.loc["CAA", "FGAA minus it"] == f"{paired['caa']['value']:+.3f}"
    found = tables.by_behaviour(results)
    assert found["caa"]["love"]["value"] == round(results.scores("fgaa")[1] - results.scores("caa")[1], 4)
    column = tables.by_behaviour_table(results, found)["CAA"]
    assert column["Love"].startswith(f"{found['caa']['love']['value']:+.2f} [")
    assert column["Love"].endswith("*") == (found["caa"]["love"]["p"] < 0.05)


def test_a_paper_difference_below_what_is_detectable_is_named():
    paper = {"table_1": {"2B": {"average": {"fgaa": 0.5, "caa": 0.2, "sae": 0.45, "sae_ts": 0.4}}}}
    paired = {m: {"detectable": 0.1} for m in ("caa", "sae", "sae_ts")}
    assert tables.missed_differences(paired, paper) == ["SAE in 2B (0.05)", "SAE-TS in 2B (0.10)"] or (
        tables.missed_differences(paired, paper) == ["SAE in 2B (0.05)"]
    )


def curves(fgaa, caa):
    rows = [
        {"target": key, "method": m, "scale": s, "B": v, "C": 1 - s, "value": v, "lo": v, "hi": v, "n": 1}
        for m, of in (("fgaa", fgaa), ("caa", caa), ("sae", caa), ("sae_ts", caa))
        for key, values in zip(KEYS, of)
        for s, v in zip(SCALES, values)
    ]
    return pd.DataFrame(rows)


def test_peaks_are_counted_inside_the_grid_and_against_the_others(results):
    curve = curves([(0.1, 0.5, 0.2), (0.1, 0.2, 0.3)], [(0.4, 0.3, 0.2), (0.4, 0.1, 0.1)])
    changed = tables.Results(**(vars(results) | {"curve": curve}))
    assert scale_tables.peaks(changed) == {"inside": 1, "highest": 1}
    over = scale_tables.changes_over_scales(changed)
    assert over.loc["FGAA"].tolist() == ["+0.15", "-0.30", "1 of 2"]


def test_best_by_latents_reads_counts_from_the_names():
    rows = [
        ("love", "fgaa", "n1=1,n2=0", 0.1, 0, 0.2),
        ("love", "fgaa", "n1=1,n2=0", 0.2, 0, 0.6),
        ("love", "fgaa", "n1=1,n2=0", 0.2, 1, 1.0),  # a finalist's second sample, which not every cell has
        ("love", "fgaa", "n1=16,n2=4", 0.1, 0, 0.4),
        ("love", "caa", "", 0.1, 0, 0.9),
    ]
    samples = pd.DataFrame(rows, columns=["behaviour", "method", "variant", "scale", "sample", "B_love"])
    best = latent_counts.best_by_latents(samples.assign(coherence=0.5, coeff=1.0), ["love"])
    assert best.to_dict("records") == [
        {"target": "love", "n1": 1, "n2": 0, "BCS": pytest.approx(0.3)},
        {"target": "love", "n1": 16, "n2": 4, "BCS": pytest.approx(0.2)},
    ]
    assert latent_counts.change_by_n2(best, 0)["love"] == pytest.approx(-0.1)
    assert {n: m[0] for n, m in latent_counts.means_by_n1(best).items()} == {
        1: pytest.approx(0.3),
        16: pytest.approx(0.2),
    }


def test_n1_stands_beside_the_papers(results):
    shown = latent_counts.chosen_n1(results, {"best_n1": {"2B": {"love": 2}}})
    assert shown.loc["2B"].tolist() == ["", "2"]
    chosen = results.choice("fgaa", "love").variant
    assert chosen == f"n1={shown.loc['gemma-3-270m', 'Love']},n2=0"


def test_the_protocol_is_the_maximum_on_one_prompt_and_adds_optimism(results):
    by_paper, steps = protocol.protocol_table(results, PROMPTS[0], draws=20, seed=0)
    one = results.test[results.test.prompt == PROMPTS[0]]
    for key in KEYS:
        variant = results.choice("fgaa", key).variant
        best = max(score_of(samples_of(one, key, "fgaa", variant, s)) for s in SCALES)
        assert by_paper["fgaa"][key]["value"] == round(best, 4)
    row = steps.loc["fgaa"]
    assert row["test, maximum over scales"] >= row["test, chosen on validation"] - 1e-4
    assert row["the paper's prompt, maximum"] == pytest.approx(np.mean([by_paper["fgaa"][k]["value"] for k in KEYS]))


def test_the_papers_table_stands_above_ours(results):
    printed = {"2B": {k: {m: 0.5 for m in ("caa", "sae", "sae_ts", "fgaa")} for k in ("love", "average")}}
    table = protocol.beside_the_paper(results, {"table_1": printed})
    assert table.loc["2B, CAA", "Love"] == "0.50" and table.loc["2B, CAA", "Anger"] == ""
    assert table.loc["gemma-3-270m, CAA", "Love"] == f"{results.bcs['caa']['love']['value']:.2f}"


def test_other_judges_are_compared_by_rank_and_height():
    rows = pd.DataFrame(
        {"method": ["fgaa", "fgaa", "caa", "caa"], "B": [0.1, 0.2, 0.3, 0.4], "coherence": [1.0, 0.5, 0.2, 0.1]}
    )
    rows = rows.assign(hf_B=rows.B + 0.1, hf_C=1 - rows.coherence)
    correlations, bias = tables.judges_agreement(rows, "local")
    assert correlations == [{"judge": "hf", "B with local": 1.0, "C with local": -1.0, "samples": 4}]
    assert bias.method.tolist() == ["FGAA", "CAA"] and bias.B.tolist() == pytest.approx([0.1, 0.1])
    assert tables.judges_agreement(rows[["method", "B", "coherence"]], "local")[0] == []


def test_extreme_samples_are_the_best_the_median_and_the_worst(results):
    frame = results.test.assign(text=[f"text {i}" for i in range(len(results.test))])
    changed = tables.Results(**(vars(results) | {"test": frame}))
    shown = tables.extreme_samples(changed, "love")
    own = shown[shown["method, scale"].str.startswith("FGAA")]
    assert own.place.tolist() == ["best", "median", "worst"]
    products = (own.B * own.C).tolist()
    assert products == sorted(products, reverse=True)


def test_what_more_behaviours_would_show_is_less(results):
    found = {
        n: float(tables.power_sentence(results, "fgaa", n).split(" against CAA")[0].split()[-1]) for n in (2, 8, 36)
    }
    assert found[2] > found[8] > found[36] > 0
    assert tables.power_sentence(results, "fgaa", 36).startswith(
        "At the spread of these differences 36 behaviours would"
    )


def test_a_run_whose_test_texts_have_the_chosen_scale_alone_is_drawn_from_validation(results, tmp_path):
    chosen = set(zip(results.choices.method, results.choices.variant, results.choices.scale))
    test = results.test[[cell in chosen for cell in zip(results.test.method, results.test.variant, results.test.scale)]]
    test.to_parquet(tmp_path / "test.parquet")
    found = tables.Results.read(tmp_path, draws=20, seed=0)
    assert results.whole and not found.whole and found.scales == results.scales
    pd.testing.assert_frame_equal(found.along, results.validation)
    assert found.scores("fgaa").tolist() == results.scores("fgaa").tolist()
    assert scale_tables.curve_source(found).startswith("Test texts were made at the chosen scales alone")
    assert scale_tables.curve_source(results) == "" and protocol.counts_sentence(found) == ""
    assert protocol.counts_sentence(results).startswith("A cell has ")
    by_paper, steps = protocol.protocol_table(found, "I think", draws=20, seed=0)
    assert by_paper == {} and list(steps) == ["validation, where chosen", "test, chosen on validation"]
    assert (
        tables.metrics(found, steps, latent_counts.best_by_latents(found.validation, found.keys), [])[
            "maximum_over_scales"
        ]
        == {}
    )


def test_maxima_over_scales_give_the_chosen_cell_no_second_chance(results, tmp_path):
    chosen = set(zip(results.choices.method, results.choices.variant, results.choices.scale))
    cells = zip(results.test.method, results.test.variant, results.test.scale)
    mine = np.array([cell in chosen for cell in cells])
    test = results.test[(results.test["sample"] == 0) | mine]
    test.to_parquet(tmp_path / "test.parquet")
    found = tables.Results.read(tmp_path, draws=20, seed=0)
    assert found.whole and found.scores("fgaa").tolist() == results.scores("fgaa").tolist()
    pd.testing.assert_frame_equal(found.along, results.test[results.test["sample"] == 0])
    for (_, _), scales in found.curve[found.curve.scale > 0].groupby(["target", "method"]):
        assert scales.n.nunique() == 1
    printed, steps = protocol.protocol_table(found, "I think", draws=20, seed=0)
    assert printed == {} and "the paper's prompt, maximum" not in steps, "a maximum of single texts is none"
    own = found.curve[found.curve.method == "fgaa"]
    at_choice = [own[(own.target == k) & (own.scale == found.choice("fgaa", k).scale)].value.iloc[0] for k in KEYS]
    gained = own.groupby("target").value.max().mean() - np.mean(at_choice)
    assert float(steps["added by the maximum"]["fgaa"].split(" ")[0]) == pytest.approx(gained, abs=6e-4)
    maximum, chosen = (steps[f"test, {what}"]["fgaa"] for what in ("maximum over scales", "chosen on validation"))
    assert maximum - chosen == pytest.approx(gained)
    reported, drawn = results.test["sample"].nunique(), 1
    assert scale_tables.curve_source(found).startswith(f"These curves have {drawn} of the {reported} samples")


def test_plot_rows_are_averages_over_behaviours(results):
    rows = {(r["method"], r["scale"]): r["BCS"] for r in scale_tables.plot_rows(results)}
    own = results.curve[(results.curve.method == "fgaa") & (results.curve.scale == 0.2)].value
    assert rows["fgaa", 0.2] == round(own.mean(), 4) and len(rows) == 12


def entry(value, lo, hi):
    return {"value": value, "lo": lo, "hi": hi, "n": 9}


@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [(0.1, 0.2, "above CAA"), (-0.2, -0.1, "below CAA"), (-0.1, 0.1, "not to be told from CAA")],
)
def test_the_verdict_follows_the_paired_intervals(results, lo, hi, expected):
    paired = {"caa": entry((lo + hi) / 2, lo, hi)}
    said = tables.verdict(results, paired)
    assert expected in said
    best = max(results.steering, key=lambda m: results.bcs[m]["average"]["value"])
    assert f"Of the steering methods {tables.LABELS[best]} has the highest" in said


def test_metrics_hold_counts_and_choices(results):
    best = latent_counts.best_by_latents(results.validation, KEYS)
    _, steps = protocol.protocol_table(results, PROMPTS[0], draws=5, seed=0)
    found = tables.metrics(results, steps, best, [{"judge": "hf", "B with local": 0.123456, "samples": 4}])
    assert found["samples"] == {"validation": len(results.validation), "test": len(results.test)}
    assert found["choices"]["fgaa"]["love"]["variant"] == results.choice("fgaa", "love").variant
    assert set(found["n1_n2"]) == {"2,0", "16,0"} and found["other_judges"][0]["B with local"] == 0.1235
    assert found["bcs"] is results.bcs and found["model"] == "gemma-3-270m:1:float32"
