"""What is measured of a judge, with made-up labels and scores."""

import numpy as np
import pandas as pd
import pytest

from fgaa_utils.judges import validation
from fgaa_utils.judges.labels import (
    FITTING,
    agreement,
    judge_bias,
    last_by_behaviour,
    last_lot,
    method_scores,
)
from fgaa_utils.stats import rank_correlation

BEHAVIOURS, METHODS = ["anger", "love"], ["fgaa", "caa", "prompting"]
DRAWS = {"draws": 20, "seed": 0}


class Judge:
    """Scores a text by the number that it ends with; asks are noted."""

    def __init__(self, kinder: float = 0.0):
        self.kinder, self.asked = kinder, []

    def behaviour(self, texts, behaviour):
        self.asked.append((behaviour, list(texts)))
        return np.array([int(text.split()[-1]) / 3 + self.kinder * ("fgaa" in text) for text in texts])

    def coherence(self, texts):
        self.asked.append(("coherence", list(texts)))
        return np.array([1 - int(text.split()[-1]) / 6 for text in texts])


@pytest.fixture
def labels() -> pd.DataFrame:
    """A lot that fits and two that test; the label is the number at the end of the text, annotator b gives one less where that can be."""
    rows = [
        (lot, behaviour, method, f"{behaviour} {method} {lot} {number}", number)
        for lot in (FITTING[0], "an earlier", "the last")
        for behaviour in ("love", "anger", "ocean")
        for method in METHODS
        for number in range(4)
    ]
    frame = pd.DataFrame(rows, columns=["drawn", "behaviour", "method", "text", "a_behaviour"])
    frame["b_behaviour"] = np.maximum(frame.a_behaviour - 1, 0)
    frame["a_coherence"] = frame["b_coherence"] = 3 - frame.a_behaviour
    for criterion in ("behaviour", "coherence"):
        frame[f"{criterion}_label"] = (frame[f"a_{criterion}"] + frame[f"b_{criterion}"]) / 6
    return frame


def test_lots_that_fitted_nothing_test_behaviour_and_the_last_alone_coherence(labels):
    judge = Judge()
    scored = validation.score_labelled(labels, judge, BEHAVIOURS)
    assert dict(judge.asked) == validation.questions(labels, BEHAVIOURS)
    assert [name for name, _ in judge.asked] == ["coherence", "anger", "love"]
    last = labels.behaviour.isin(BEHAVIOURS) & (labels.drawn == "the last")
    assert set(dict(judge.asked)["coherence"]) == set(labels.text[last])
    known = labels.behaviour.isin(BEHAVIOURS) & (labels.drawn != FITTING[0])
    assert scored.behaviour_score[known].tolist() == [int(t[-1]) / 3 for t in labels.text[known]]
    assert scored.behaviour_score[~known].isna().all()
    assert scored.coherence_score.notna().equals(last)


def test_a_later_lot_of_other_behaviours_is_no_last_lot(labels):
    later = labels[labels.behaviour == "ocean"].assign(drawn="later", behaviour="desert")
    every = pd.concat([labels, later], ignore_index=True)
    assert set(last_lot(every, BEHAVIOURS).drawn) == {"the last"}
    assert set(last_lot(every, ["desert"]).drawn) == {"later"} == set(last_lot(every, ["unheard of"]).drawn)
    assert len(last_by_behaviour(every, ["desert"])) == len(later) and last_by_behaviour(every, ["unheard of"]).empty


def test_another_judge_reads_each_text_of_the_last_lot_once(labels):
    shared = labels.text.eq("love caa the last 2")
    labels.loc[shared, "text"] = "love fgaa the last 2"
    judge = Judge()
    scores = validation.score_by_other(labels, judge, "hf", BEHAVIOURS)
    assert dict(judge.asked) == validation.questions_of_last(labels, BEHAVIOURS)
    assert sum(len(texts) for name, texts in judge.asked if name != "coherence") == 2 * 3 * 4 - 1
    assert list(scores) == ["hf_behaviour", "hf_coherence"] and scores.index.equals(labels.index)
    asked = (labels.drawn == "the last") & labels.behaviour.isin(BEHAVIOURS) & ~shared
    assert scores.notna().all(axis=1).equals(asked)
    found = validation.other_on_labels(labels.join(scores), "hf", BEHAVIOURS)
    rows = labels[asked]
    expected = rank_correlation(rows.behaviour_label.to_numpy(), np.array([int(t[-1]) for t in rows.text]))
    assert found == {"judge": "hf", "B with labels": round(expected, 4), "C with labels": 1.0, "labelled": 23}


def test_no_labelled_texts_of_these_behaviours(labels):
    judge = Judge()
    labelled = validation.score_labelled(labels, judge, ["desert"])
    labelled = labelled.join(validation.score_by_other(labels, judge, "hf", ["desert"]))
    assert list(validation.agreement_on_steered(labelled, ["desert"], **DRAWS)) == ["coherence"]
    assert validation.other_on_labels(labelled, "hf", ["desert"])["labelled"] == 0
    assert validation.not_validated(labelled, ["desert"]) == {"desert": 0}
    heldout = pd.DataFrame({"criterion": ["coherence"] * 4, "own": True, "label": [1, 1, 0, 0], "score": [4, 3, 2, 1]})
    found = validation.measure(heldout, labelled, ["desert"], **DRAWS)
    assert found.labelled_bcs == found.labelled_paired == found.judge_bias == {}


def test_agreement_is_that_of_distinct_texts_behaviour_after_behaviour(labels):
    labels.loc[labels.text.eq("love caa the last 2"), "text"] = "love fgaa the last 2"
    labelled = validation.score_labelled(labels, Judge(), BEHAVIOURS)
    found = validation.agreement_on_steered(labelled, BEHAVIOURS, **DRAWS)
    assert list(found) == ["behaviour", "anger", "love", "coherence"]
    tested = labels.drawn != FITTING[0]
    order = [t for key in BEHAVIOURS for t in labels.index[tested & (labels.behaviour == key)]]
    rows = labelled.loc[order].drop_duplicates(["behaviour", "text"])
    expected = agreement(rows.behaviour_label.to_numpy(), rows.behaviour_score.to_numpy(), **DRAWS)
    assert {name: found["behaviour"][name] for name in expected} == expected
    assert found["behaviour"]["spearman"]["n"] == 47 and found["coherence"]["spearman"]["n"] == 23
    assert found["love"]["annotators"] == round(rank_correlation(*(rows.loc[rows.behaviour == "love", f"{x}_behaviour"].to_numpy() for x in "ab")), 4)  # fmt: skip
    assert found["coherence"]["annotators"] == 1


def test_a_judge_that_is_kinder_to_fgaa_is_caught(labels):
    labelled = validation.score_labelled(labels, Judge(kinder=0.25), BEHAVIOURS)
    last = last_by_behaviour(labelled, BEHAVIOURS)
    assert set(last.drawn) == {"the last"} and last.behaviour.tolist() == ["anger"] * 12 + ["love"] * 12
    heldout = pd.DataFrame({"criterion": ["coherence"] * 4, "own": True, "label": [1, 1, 0, 0], "score": [4, 3, 2, 1]})
    found = validation.measure(heldout, labelled, BEHAVIOURS, **DRAWS)
    assert found.judge_bias["behaviour"] == judge_bias(last, "behaviour", **DRAWS)
    assert found.judge_bias["behaviour"]["fgaa"]["value"] == pytest.approx(
        found.judge_bias["behaviour"]["caa"]["value"] + 0.25
    )
    by_label, table = method_scores(last, "label", **DRAWS)
    assert found.labelled_bcs["labels"] == table and set(found.labelled_bcs) == {"labels", "judge"}
    assert found.labelled_paired["caa"]["value"] == round(float((by_label["fgaa"] - by_label["caa"]).mean()), 4)
    assert set(found.labelled_paired) == {"caa", "prompting"}
    paired = validation.paired_bias(labelled, BEHAVIOURS, "behaviour")
    assert paired["caa"] == pytest.approx((0.25, 0.25, 0.25)) and set(paired) == {"caa", "prompting"}
    assert validation.paired_bias(labelled, BEHAVIOURS, "coherence")["caa"] == pytest.approx((0, 0, 0))


def test_quality_leaves_other_behaviours_texts_out_and_coherence_has_no_brier_score():
    heldout = pd.DataFrame(
        {
            "criterion": ["love"] * 6 + ["coherence"] * 4,
            "own": [True] * 4 + [False] * 2 + [True] * 4,
            "label": [1, 1, 0, 0, 0, 0, 1, 1, 0, 0],
            "score": [0.9, 0.4, 0.5, 0.1, 1.0, 1.0, 0.9, 0.8, 0.7, 0.1],
        }
    )
    found = validation.quality(heldout, **DRAWS)
    assert found["love"]["auc"]["value"] == 0.75 and found["love"]["auc"]["n"] == 4
    assert found["love"]["brier"]["value"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4, abs=1e-4)
    assert found["coherence"] == {"auc": {"value": 1.0, "lo": 1.0, "hi": 1.0, "n": 4}}


def test_clear_texts_are_counted_once_each(labels):
    labelled = validation.score_labelled(labels, Judge(), BEHAVIOURS)
    clear = validation.clear_texts(labelled, [*BEHAVIOURS, "desert"])
    # labels above a half are those of texts that end with 3: (3 + 2) / 6; with 2 the label is a half
    assert clear == {"anger": 6, "love": 6, "desert": 0, "behaviour": 12, "coherence": 6 * 2}
    assert validation.not_validated(labelled, BEHAVIOURS) == {"anger": 6, "love": 6}


def test_judges_are_announced_with_what_they_will_be_asked(labels, monkeypatch):
    announced = []
    monkeypatch.setattr(validation, "announce", lambda judge, texts: announced.append((list(judge.asked), texts)))
    validation.score_labelled(labels, Judge(), BEHAVIOURS)
    validation.score_by_other(labels, Judge(), "hf", BEHAVIOURS)
    assert announced == [
        ([], validation.questions(labels, BEHAVIOURS)),
        ([], validation.questions_of_last(labels, BEHAVIOURS)),
    ]
