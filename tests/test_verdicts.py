"""Tables, points of figures and sentences on a judge, from made-up measurements."""

import pandas as pd
import pytest

from fgaa_utils.figures import markdown_table
from fgaa_utils.judges import figures, verdicts
from fgaa_utils.judges.validation import Measured

NAMES = {"love": "Love", "french": "French"}


def entry(value: float, spread: float = 0.1, n: int = 30) -> dict:
    return {"value": value, "lo": round(value - spread, 4), "hi": round(value + spread, 4), "n": n}


MEASURED = Measured(
    judge={"love": {"auc": entry(0.9), "brier": entry(0.1, 0.05)}, "coherence": {"auc": entry(0.8)}},
    judge_on_steered={
        "behaviour": {"spearman": entry(0.82), "auc": entry(0.93), "annotators": 0.96},
        "love": {"spearman": entry(0.7), "auc": None, "annotators": 0.9},
        "coherence": {"spearman": entry(0.63), "auc": entry(0.81), "annotators": 0.79},
    },
    labelled_bcs={
        "labels": {"caa": entry(0.2), "fgaa": entry(0.3), "prompting": entry(0.5)},
        "judge": {"caa": entry(0.2), "fgaa": entry(0.6), "prompting": entry(0.5)},
    },
    labelled_paired={"caa": entry(0.1, 0.2) | {"p": 0.4}, "prompting": entry(-0.2, 0.1) | {"p": 0.01}},
    judge_bias={
        "behaviour": {"caa": entry(0.1), "fgaa": entry(0.25), "prompting": entry(0.05)},
        "coherence": {"caa": entry(0.0), "fgaa": entry(0.02), "prompting": entry(-0.05)},
    },
)


@pytest.fixture
def labelled() -> pd.DataFrame:
    """24 texts of love, all clear, and three of French, none of them clear; FGAA's scores are 0.2 above the labels."""
    rows = [("last", "love", method, f"{method} {i}", 1.0) for method in ("fgaa", "caa") for i in range(12)]
    rows += [("last", "french", "fgaa", "f", 0.0), ("last", "french", "caa", "c", 0.0), (*["last", "french"], "caa", "d", 0.5)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["drawn", "behaviour", "method", "text", "behaviour_label"])
    frame["behaviour_score"] = frame.behaviour_label + 0.2 * (frame.method == "fgaa")
    return frame.assign(coherence_label=1.0, coherence_score=1.0)


def test_the_verdict_names_agreement_validation_and_favour(labelled):
    said = verdicts.verdict(MEASURED, labelled, NAMES, "local")
    assert said[0] == (
        "On steered text, scores of the local judge agree with the labels at 0.82 [0.72, 0.92] for behaviour (the two "
        "annotators: 0.96) and 0.63 [0.53, 0.73] for coherence (the two annotators: 0.79), by Spearman's rank "
        "correlation with 95 % intervals."
    )
    assert said[1] == "Not validated, for fewer than 20 labelled texts clearly show them: French (0)."
    assert said[2] == (
        "For behaviour, score minus label runs from +0.05 (prompting) to +0.25 (FGAA), a spread of 0.20 between methods."
    )
    assert said[-1] == (
        "By 95 % intervals of score minus label, paired over behaviours, it favours FGAA against CAA for behaviour and "
        "against none for coherence."
    )


def test_a_verdict_without_labelled_texts_of_fgaa(labelled):
    bare = Measured({}, {"coherence": MEASURED.judge_on_steered["coherence"]}, {}, {}, {})
    said = verdicts.verdict(bare, labelled[labelled.method == "caa"], {"desert": "Desert"}, "openai")
    assert "agree with the labels at 0.63 [0.53, 0.73] for coherence" in said[0] and "behaviour" not in said[0]
    assert said[1].endswith("Desert (0).") and said[2] == verdicts.order_sentence(bare) == verdicts.NO_FGAA


def test_enough_clear_texts_of_every_behaviour(labelled):
    assert verdicts.validated_sentence(labelled, {"love": "Love"}).startswith("Every behaviour has at least 20")


def test_favour_by_paired_intervals(labelled):
    assert verdicts.favour_sentence(labelled, list(NAMES), "behaviour") == (
        "Score minus label for behaviour, FGAA's less the other's, paired over behaviours: CAA +0.20 [+0.20, +0.20]. The "
        "intervals put the judge on FGAA's side against: CAA; on the other's side: none."
    )
    assert verdicts.favour_sentence(labelled, list(NAMES), "coherence").endswith(
        "against: none; on the other's side: none."
    )


def test_the_order_of_methods_by_labels_and_by_the_judge():
    assert verdicts.order_sentence(MEASURED) == (
        "From best to worst, the labels order the methods prompting, FGAA, CAA; the judge, FGAA, prompting, CAA. By the "
        "labels, the interval of the difference puts FGAA above none and below prompting."
    )


def test_tables_have_a_head_over_every_column(labelled):
    tables = {
        "criterion": verdicts.quality_table(MEASURED.judge, NAMES),
        "method": verdicts.bcs_table(MEASURED),
        "judge": verdicts.others_table([{"judge": "hf", "B with labels": 0.1, "C with labels": 0.2, "labelled": 9}]),
    }
    for head, frame in tables.items():
        assert markdown_table(frame).startswith(f"| {head} | ")
    assert tables["criterion"].loc["coherence"].tolist() == ["0.80 [0.70, 0.90]", "none", 30]
    assert tables["method"].index.tolist() == ["FGAA", "CAA", "prompting"]
    assert tables["method"].loc["CAA", "FGAA minus it, by labels"] == "+0.10 [-0.10, +0.30], p (Holm) 0.40"
    bias = verdicts.bias_table(MEASURED.judge_bias)
    assert bias.loc["FGAA"].tolist() == ["+0.25 [+0.15, +0.35]", "+0.02 [-0.08, +0.12]"]
    agreement = verdicts.agreement_table(MEASURED.judge_on_steered, labelled.assign(a_behaviour=0), NAMES)
    assert agreement.index.tolist() == ["all behaviours", "Love", "coherence"]
    assert agreement.loc["Love"].tolist() == ["0.70 [0.60, 0.80]", "0.90", "none", 24, 24]


@pytest.fixture
def heldout() -> pd.DataFrame:
    """Ten texts of love, half of them right only, and windows of which shuffling costs all, grammar next to nothing."""
    love = pd.DataFrame({"criterion": "love", "label": [0, 1] * 5, "score": [i / 10 for i in range(10)]})
    rows = [(1, 0.0, "natural", 0.8), (1, 0.0, "natural", 0.6)]
    rows += [(0, s, kind, 0.7 - s * cost) for s in (0.5, 1.0) for kind, cost in (("shuffle", 0.7), ("grammar", 0.1))]
    windows = pd.DataFrame(rows, columns=["label", "severity", "kind", "score"]).assign(criterion="coherence")
    return pd.concat([love, windows], ignore_index=True).assign(own=True)


def test_calibration_bins_hold_equally_many_texts(heldout):
    curves = verdicts.calibration(heldout, NAMES)
    assert curves.behaviour.tolist() == ["Love"] * 5
    assert curves.score.tolist() == pytest.approx([0.05, 0.25, 0.45, 0.65, 0.85])
    assert curves.share.tolist() == [0.5] * 5 and ((curves.lo < 0.5) & (curves.hi > 0.5)).all()
    assert verdicts.calibration_sentence(curves) == (
        "The interval leaves the diagonal in 1 of 5 bins. Furthest from it: Love, where of texts with a mean score of "
        "0.05 a share of 0.50 shows the behaviour."
    )


def test_damage_is_told_by_kind_from_untouched_text_on(heldout):
    means = verdicts.damage_means(heldout)
    shuffle, grammar = (means[means.kind == kind] for kind in ("shuffle", "grammar"))
    assert shuffle.severity.tolist() == [0, 0.5, 1] and shuffle.coherence.tolist() == pytest.approx([0.7, 0.35, 0])
    assert grammar.coherence.tolist() == pytest.approx([0.7, 0.65, 0.6])
    assert verdicts.damage_sentence(means) == (
        "Untouched text has a mean coherence of 0.70; text with every word damaged has 0.30, averaged over the kinds of "
        "damage. More than half of its coherence is left to text with every word damaged by: grammar (0.60)."
    )


def test_other_judges_without_agreement_are_no_evidence(labelled):
    rows = [
        {"judge": "hf", "B with labels": -0.1, "C with labels": 0.2, "labelled": 9},
        {"judge": "openai", "B with labels": 0.7, "C with labels": 0.2, "labelled": 9},
    ]
    assert verdicts.others_sentence(rows).endswith("labels: hf.")
    assert verdicts.others_sentence(rows[1:]).startswith("Each reaches 0.3")
    assert verdicts.others_sentence([]) == "No other judge was asked."
    gaps = labelled.assign(hf_behaviour=[None] * 2 + [0.5] * 25, hf_coherence=0.5)
    assert verdicts.missing_sentence(gaps, "hf", list(NAMES)) == (
        "hf left 2 of 27 texts without a score for behaviour, 0 for coherence."
    )
    assert verdicts.missing_sentence(gaps.fillna(0.5), "hf", list(NAMES)) == ""


def test_figures_have_a_panel_or_a_row_for_everything(heldout):
    assert len(figures.calibration(verdicts.calibration(heldout, NAMES)).axes.flat) == 1
    damage = figures.damage(verdicts.damage_means(heldout))
    assert [ax.get_title() for ax in damage.axes.flat] == ["shuffle", "grammar"]
    assert damage.axes.flat[0].lines[1].get_ydata().tolist() == pytest.approx([0.7, 0.35, 0])
    points = verdicts.agreement_points(MEASURED.judge_on_steered, NAMES)
    agreement = figures.agreement(points)
    assert [label.get_text() for label in agreement.ax.get_yticklabels()] == ["all behaviours", "Love", "coherence"]
    assert points.annotators.tolist() == [0.96, 0.9, 0.79]
    bias = figures.bias(verdicts.bias_points(MEASURED.judge_bias))
    assert [label.get_text() for label in bias.axes.flat[0].get_yticklabels()] == ["FGAA", "CAA", "prompting"]
