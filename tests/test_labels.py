import numpy as np
import pandas as pd
import pytest

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.judges import labels as labels_module
from fgaa_utils.judges.labels import (
    STEERED,
    agreement,
    fitting_lots,
    judge_bias,
    label_auc,
    last_by_behaviour,
    method_scores,
    read_labels,
)
from fgaa_utils.stats import rank_correlation

KEYS = [b.key for b in read_behaviours()]


def test_shipped_labels_are_enough_and_in_no_training_text():
    labels = read_labels()
    assert labels.groupby("behaviour").size().reindex(KEYS).min() >= 30
    assert labels.groupby("method").size().min() >= 9 and labels.scale.nunique() > 4
    assert not labels.duplicated(["drawn", "behaviour", "method", "text"]).any()
    known = {t for b in read_behaviours() for t in (*b.positive, *b.negative, *b.judge_positive, *b.judge_negative)}
    assert not known & set(labels.text)


def test_a_small_judge_is_fitted_to_some_of_the_lots_that_fit_one():
    labels = read_labels()
    whole, some = fitting_lots(labels), fitting_lots(labels, 50)
    assert len(some) == 50 and some.equals(fitting_lots(labels, 50)) and some.index.isin(whole.index).all()
    assert (
        fitting_lots(labels, len(whole)).equals(whole)
        and not whole.index.isin(labels_module.tested_lots(labels).index).any()
    )


def test_labels_use_the_whole_range_and_annotators_agree():
    labels = read_labels()
    for criterion in ("behaviour", "coherence"):
        a, b = labels[f"a_{criterion}"], labels[f"b_{criterion}"]
        assert set(a) == set(b) == {0, 1, 2, 3}
        assert rank_correlation(a.to_numpy(), b.to_numpy()) > 0.8 and not a.equals(b)
        np.testing.assert_allclose(labels[f"{criterion}_label"], (a + b) / 6)


def test_a_label_out_of_range_is_refused(tmp_path):
    labels = pd.read_csv(STEERED)
    labels.loc[3, "b_coherence"] = 4
    labels.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(ValueError, match=r"bad\.csv: labels of coherence must be 0 to 3"):
        read_labels(tmp_path / "bad.csv")


def test_agreement_of_the_labels_themselves_their_reverse_and_noise():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 200) / 6
    same = agreement(labels, labels, draws=50, seed=0)
    assert same["spearman"]["value"] == pytest.approx(1) and same["auc"]["value"] == 1
    reverse = agreement(labels, -labels, draws=50, seed=0)
    assert reverse["spearman"]["value"] == pytest.approx(-1) and reverse["auc"]["value"] == 0
    noise = agreement(labels, rng.random(200), draws=200, seed=0)
    assert noise["spearman"]["lo"] < 0 < noise["spearman"]["hi"] and noise["auc"]["lo"] < 0.5 < noise["auc"]["hi"]
    assert noise["auc"]["n"] == 200


def test_one_sided_labels_have_no_auc():
    table = agreement(np.array([0.0, 0.2, 0.4, 0.5]), np.arange(4.0), draws=20, seed=0)
    assert table["auc"] is None and table["spearman"]["value"] == 1
    assert np.isnan(label_auc(np.ones(3), np.arange(3)))


def test_constant_scores_agree_with_nothing():
    assert rank_correlation(np.array([0.0, 1.0]), np.array([0.5, 0.5])) == 0


def test_labelled_texts_give_a_score_for_each_method():
    labels = read_labels()
    last = last_by_behaviour(labels, KEYS)
    scores, table = method_scores(last, "label", draws=200, seed=0)
    one = last[(last.method == "caa") & (last.behaviour == "french")]
    assert scores["caa"][sorted(set(last.behaviour)).index("french")] == pytest.approx(
        one.behaviour_label.mean() * one.coherence_label.mean()
    )
    for method, found in scores.items():
        assert table[method]["lo"] < found.mean() < table[method]["hi"] and table[method]["n"] == len(
            last[last.method == method]
        )


def test_a_method_without_texts_of_a_behaviour_is_named():
    labels = read_labels()
    gap = labels[(labels.method != "caa") | (labels.behaviour != "love")]
    with pytest.raises(ValueError, match="no labelled text of caa for love"):
        method_scores(last_by_behaviour(gap, KEYS), "label", draws=10, seed=0)


def test_texts_without_a_score_do_not_count():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, 60) / 3, rng.uniform(size=60)
    with_gaps = np.where(np.arange(60) % 7 == 0, np.nan, scores)
    kept = ~np.isnan(with_gaps)
    assert agreement(labels, with_gaps, draws=50, seed=0) == agreement(labels[kept], scores[kept], draws=50, seed=0)
    with pytest.raises(ValueError, match="scored none of the 60"):
        agreement(labels, np.full(60, np.nan), draws=50, seed=0)


def test_bias_is_score_minus_label_by_method():
    texts = pd.DataFrame({"method": ["caa"] * 20 + ["fgaa"] * 20, "behaviour_label": [0.0, 1.0] * 20})
    texts["behaviour_score"] = texts.behaviour_label + np.where(texts.method == "caa", 0.0, 0.25)
    texts.loc[3, "behaviour_score"] = np.nan
    found = judge_bias(texts, "behaviour", draws=50, seed=0)
    assert found["caa"] == {"value": 0.0, "lo": 0.0, "hi": 0.0, "n": 19}
    assert found["fgaa"] == {"value": 0.25, "lo": 0.25, "hi": 0.25, "n": 20}
