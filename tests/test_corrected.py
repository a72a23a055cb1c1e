"""Scores corrected by labels: right under a biased judge, sharper than labels alone under a good one."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fgaa_utils.data.behaviours import sets_of
from fgaa_utils.evaluation import corrected

KEYS = ["anger", "love"]
METHODS = ["ng", "fgaa", "sae_ts", "sae", "caa", "prompting"]


def texts_of(rng, truth, kindness, noise, count=60):
    """Texts whose labels average to `truth` (0..1), with a judge's scores that are `kindness` too high."""
    label = np.clip(rng.normal(truth, 0.2, count), 0, 1)
    return label, np.clip(label + kindness + rng.normal(0, noise, count), 0, 1)


def made(seed, kindness, noise=0.05, labelled=12):
    """(results, labels, all texts) of methods that are equally good, whose judge is kinder to some."""
    rng = np.random.default_rng(seed)
    rows = []
    for method in METHODS:
        for key in KEYS:
            label, score = texts_of(rng, 0.5, kindness.get(method, 0.0), noise)
            rows.append(
                pd.DataFrame({"method": method, "behaviour": key, "B": score, "behaviour_label": label}).assign(
                    text=[f"{seed} {method} {key} {i}" for i in range(len(label))], coherence=0.8, coherence_label=0.8
                )
            )
    frame = pd.concat(rows, ignore_index=True)
    frame = frame.assign(variant="", scale=1.0, **{f"B_{key}": frame.B for key in KEYS})
    choices = pd.DataFrame([{"target": k, "method": m, "variant": "", "scale": 1.0} for m in METHODS for k in KEYS])
    results = SimpleNamespace(
        methods=METHODS,
        keys=KEYS,
        test=frame.drop(columns=["behaviour_label", "coherence_label", "B"]),
        choice=lambda method, key: choices[(choices.method == method) & (choices.target == key)].iloc[0],
    )
    chosen = frame.groupby(["method", "behaviour"]).head(labelled)
    return results, chosen[["method", "behaviour", "text", "behaviour_label", "coherence_label"]], frame


def scores_of(results, labels):
    return corrected.corrected_scores(results, corrected.labelled_cells(results, labels))


def difference(scores):
    return float((scores["fgaa"] - scores["caa"]).mean())


def test_a_judge_that_favours_a_method_no_longer_does():
    found, judged = [], []
    for seed in range(60):
        results, labels, frame = made(seed, {"fgaa": 0.2, "caa": 0.0})
        found.append(difference(scores_of(results, labels)))
        by_judge = frame.groupby("method").B.mean() * 0.8
        judged.append(by_judge.fgaa - by_judge.caa)
    assert np.mean(judged) > 0.12
    assert abs(np.mean(found)) < 3 * np.std(found) / len(found) ** 0.5 + 1e-3


@pytest.mark.parametrize(("noise", "gain"), [(0.02, 0.75), (2.0, 1.1)])
def test_a_good_judge_sharpens_and_a_bad_one_does_little_harm(noise, gain):
    by_labels, found = [], []
    for seed in range(80):
        results, labels, _ = made(seed, {"fgaa": 0.0, "caa": 0.0}, noise=noise)
        found.append(difference(scores_of(results, labels)))
        means = labels.groupby(["method", "behaviour"]).behaviour_label.mean().unstack(0) * 0.8
        by_labels.append((means.fgaa - means.caa).mean())
    assert np.std(found) < gain * np.std(by_labels)


def test_the_estimate_by_hand():
    sample = pd.DataFrame({"behaviour_label": [0.0, 1.0], "behaviour_score": [0.2, 0.6]})
    scores = np.array([0.2, 0.6, 0.8, np.nan])
    assert corrected.slope([sample], "behaviour") == 1.0  # 2.5, held at 1
    assert corrected.corrected_mean(scores, sample, "behaviour", 0.5) == pytest.approx(0.5 + 0.5 * (1.6 / 3 - 0.4))
    flat = pd.DataFrame({"behaviour_label": [0.0, 1.0], "behaviour_score": [0.3, 0.3]})
    assert corrected.slope([flat], "behaviour") == 0.0


def test_a_method_without_labels_of_some_behaviour_is_left_out():
    results, labels, _ = made(0, {"fgaa": 0.1, "caa": 0.0})
    some = labels[(labels.method != "ng") | (labels.behaviour != "love")]
    assert list(scores_of(results, some)) == METHODS[1:]
    for gone in ("caa", "prompting"):  # without one of the paper's methods, or prompting, nothing is corrected
        assert corrected.corrected_metrics(results, labels[labels.method != gone], draws=10, seed=0) == {}


def test_texts_of_another_run_are_no_sample_even_if_some_are_alike():
    results, labels, _ = made(0, {})
    foreign = labels.assign(text=[t if i % 4 else f"of another run {i}" for i, t in enumerate(labels.text)])
    assert corrected.corrected_metrics(results, foreign, draws=10, seed=0) == {}


def test_metrics_hold_both_pairings_and_the_number_of_labels():
    results, labels, _ = made(0, {"fgaa": 0.1, "caa": 0.0})
    found = corrected.corrected_metrics(results, labels, draws=50, seed=0)
    scores = scores_of(results, labels)
    assert found["labels"] == 144 and list(found["paired"]) == ["fgaa", "ng"]
    assert found["bcs"]["fgaa"]["value"] == pytest.approx(scores["fgaa"].mean(), abs=1e-4)
    assert found["paired"]["fgaa"]["caa"]["value"] == pytest.approx(difference(scores), abs=1e-4)


def test_sets_of_behaviours_are_also_compared_alone(monkeypatch):
    keys = ["anger", "birds", "calm", "love"]
    monkeypatch.setattr(sys.modules[__name__], "KEYS", keys)
    results, labels, _ = made(0, {"caa": 0.1})
    scores = scores_of(results, labels)
    sets = {"test": ["anger", "love"], "later": ["birds", "calm"], "one": ["calm"]}
    found = corrected.corrected_metrics(results, labels, draws=50, seed=0, sets=sets)["sets"]
    assert list(found) == ["test", "later"], "one behaviour tells nothing of others"
    assert found["later"]["bcs"]["ng"]["value"] == pytest.approx(scores["ng"][[1, 2]].mean(), abs=1e-4)
    lead = (scores["ng"] - scores["caa"])[[0, 3]].mean()
    assert found["test"]["paired"]["caa"]["value"] == pytest.approx(lead, abs=1e-4)
    shown = corrected.sets_table(found)
    assert shown.loc["CAA", "NG minus it, `test`"].startswith(f"{lead:+.2f} [") and shown.loc["NG"].iloc[1] == ""
    assert corrected.sets_sentence(found).startswith(
        "Each set of behaviours alone: the 2 of `test` and the 2 of `later`."
    )
    one = corrected.corrected_metrics(results, labels, draws=50, seed=0, sets={"test": keys})
    assert one["sets"] == {}, "they are all"


def test_behaviours_know_their_set():
    assert sets_of(["love", "swedish", "verse", "diary"]) == {"test": ["verse"], "later": ["swedish", "diary"]}
