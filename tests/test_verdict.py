"""What the sentences say for a win, a tie and a loss, and that every number of theirs is one of the metrics."""

import pytest

from fgaa_utils.evaluation import verdict as v

SCORES = {"fgaa": 0.4, "sae_ts": 0.3, "sae": 0.25, "caa": 0.2, "prompting": 0.5, "random": 0.05, "unsteered": 0.04}


def entry(value):
    return {"value": value, "lo": value - 0.1, "hi": value + 0.1, "n": 270}


def paired(scores, p):
    """FGAA less each other method, every difference with the corrected p that `p` gives it."""
    return {
        m: entry(round(scores["fgaa"] - value, 4)) | {"p": p.get(m, 1.0), "n": 9, "wins": 5, "detectable": 0.18}
        for m, value in scores.items()
        if m != "fgaa"
    }


def evaluation(scores=SCORES, **p):
    bcs = {m: {"anger": entry(value), "average": entry(value)} for m, value in scores.items()}
    return {"bcs": bcs, "paired": paired(scores, p)}


def judge(scores=SCORES, kindest="fgaa", **p):
    labelled = {m: entry(value) | {"n": 90} for m, value in scores.items() if m not in ("random", "unsteered")}
    bias = {m: entry(0.3 if m == kindest else 0.1) for m in labelled}
    return {
        "labelled_bcs": {"labels": labelled, "judge": labelled},
        "labelled_paired": {m: e for m, e in paired(scores, p).items() if m in labelled},
        "judge_bias": {"behaviour": bias, "coherence": bias},
    }


def price(**ratios):
    ratios = {"fgaa": 15.0, "sae_ts": 12.0, "sae": 2.5, "caa": 3.0, "prompting": 1.2, "random": 4.0} | ratios
    costs = {m: {"perplexity_ratio": entry(r), "accuracy_change": entry(-r / 100)} for m, r in ratios.items()}
    return {"at_chosen_scale": costs}


def with_natural(ng, corrected=None, **p):
    """A run with NG, whose differences have the p given; `corrected` are its scores by labels."""
    scores = SCORES | {"ng": ng, "ng_fgaa": 0.42, "ng_caa": 0.3}
    found = evaluation(scores)
    found["paired_natural"] = of_ng(scores, p)
    if corrected:
        bcs = {m: entry(value) for m, value in corrected.items()}
        found["corrected"] = {
            "bcs": bcs,
            "labels": 720,
            "paired": {"fgaa": paired(corrected, p), "ng": of_ng(corrected, p)},
        }
    return found


def of_ng(scores, p):
    other = {"p": 1.0, "n": 9, "wins": 5, "detectable": 0.18}
    return {m: entry(round(scores["ng"] - v, 4)) | other | {"p": p.get(m, 1.0)} for m, v in scores.items() if m != "ng"}


def test_fgaa_wins_only_if_every_difference_is_decided():
    won = v.run_sentence(evaluation(sae_ts=0.01, sae=0.01, caa=0.0001))
    assert won == (
        "**On this behaviour, of the steering methods FGAA wins.** By the judge alone FGAA has an average BCS (behaviour times "
        "coherence) of 0.40 [0.30, 0.50], prompting 0.50 and SAE-TS 0.30."
    )
    tied = v.run_sentence(evaluation(sae_ts=0.3, sae=0.01, caa=0.0001))
    assert "of the steering methods none is shown to be the best.**" in tied
    assert tied.endswith("; FGAA and SAE-TS would be told apart, four times in five, at a true difference of 0.18.")
    lost = v.run_sentence(evaluation(SCORES | {"caa": 0.6}, caa=0.0004))
    assert "FGAA loses to CAA.**" in lost and lost.endswith("of 0.40 [0.30, 0.50], CAA 0.60 and prompting 0.50.")
    one = evaluation()
    for entry_ in one["paired"].values():
        entry_["n"] = 1
    assert "told apart, four" not in v.run_sentence(one), "one behaviour finds nothing"


def test_natural_gradient_is_set_against_the_papers_methods_and_prompting():
    said = v.run_sentence(with_natural(0.45, fgaa=0.3, sae_ts=0.01, sae=0.001, caa=0.2, prompting=0.9))
    assert said.startswith(
        "**On this behaviour NG beats SAE and SAE-TS, and is not told apart from CAA, FGAA and prompting; of the paper's methods "
        "none is shown to be the best.** By the judge alone NG has an average BCS (behaviour times coherence) of "
        "0.45 [0.35, 0.55], prompting 0.50, FGAA 0.40 and SAE-TS 0.30; FGAA and SAE-TS would"
    )


CORRECTED = {"fgaa": 0.25, "sae_ts": 0.2, "sae": 0.2, "caa": 0.3, "prompting": 0.4, "ng": 0.2}


def test_scores_corrected_by_labels_decide():
    found = with_natural(0.45, CORRECTED, fgaa=0.01, prompting=0.001, caa=0.02)
    assert v.run_sentence(found).startswith(
        "**On this behaviour NG loses to CAA, FGAA and prompting, and is not told apart from SAE and SAE-TS; of the paper's "
        "methods FGAA loses to CAA.** Corrected by labels of 720 of the texts NG has an average BCS (behaviour times coherence) "
        "of 0.20"
    )
    table = v.summary_table(found, price())
    assert table.loc["NG", "BCS, this behaviour, corrected by labels"] == "0.20 [0.10, 0.30]"
    assert table.loc["NG", "by the judge alone"] == "0.45 [0.35, 0.55]"


def test_ng_whose_texts_nobody_labelled_is_told_by_the_judge():
    found = with_natural(0.45, CORRECTED)
    del found["corrected"]["paired"]["ng"]
    assert "By the judge alone NG has" in v.run_sentence(found)
    assert "BCS, this behaviour, by the judge" in v.summary_table(found, price())


def test_what_the_judge_alone_decides_otherwise_is_named_each_pair_once():
    agreeing = with_natural(0.45, CORRECTED)
    assert v.judge_sentence(agreeing, judge()) == (
        "**The judge alone would have decided the same.** On the labelled texts its score of behaviour less the label is from "
        "+0.10 (SAE-TS) to +0.30 (FGAA)."
    )
    other = with_natural(0.45, CORRECTED)
    other["paired_natural"]["caa"]["p"] = other["paired_natural"]["fgaa"]["p"] = 0.01
    other["corrected"]["paired"]["fgaa"]["sae"]["p"] = 0.01
    other["paired"]["ng"] |= {"p": 0.01}
    assert v.judge_sentence(other, judge()).startswith(
        "**By the judge alone NG beats FGAA, NG beats CAA and FGAA is not told apart from SAE.** On the labelled texts its"
    )


@pytest.mark.parametrize("none", [None, {"labelled_bcs": {}, "labelled_paired": {}, "judge_bias": {}}])
def test_without_labels_the_sentences_say_so(none):
    assert v.judge_sentence(evaluation(), none).startswith("**No labels.**")
    assert "Nobody has labelled texts of this run" in v.judge_sentence(evaluation(), judge())


@pytest.mark.parametrize(
    ("caa", "said"),
    [
        (3.0, "SAE raises perplexity least of the steering methods, prompting less than any of them"),
        (1.1, "CAA raises perplexity least of the steering methods, prompting more than CAA"),
    ],
)
def test_the_price_is_placed_among_the_steering_methods(caa, said):
    sentence = v.price_sentence(price(caa=caa))
    assert sentence.startswith(f"**At the chosen scales {said}.**")
    least = "SAE 2.5 [2.4, 2.6]" if caa == 3.0 else "CAA 1.1 [1.0, 1.2]"
    assert f"is multiplied by FGAA 15.0 [14.9, 15.1], {least} and prompting 1.2 [1.1, 1.3]; accuracy" in sentence
    assert "random" not in sentence


def test_a_verdict_is_a_sentence_each_of_the_run_its_judge_and_its_price():
    assert len(v.verdict(evaluation(), judge(), price())) == 3
    assert len(v.verdict(with_natural(0.4), judge(), price())) == 3
    assert len(v.verdict(evaluation(), judge(), None)) == 2
    assert list(v.summary_table(evaluation(), None)) == ["BCS, this behaviour, by the judge"]


def test_what_no_choice_had_seen_comes_first():
    unseen = with_natural(0.45, fgaa=0.01, sae_ts=0.01, sae=0.001, caa=0.02, prompting=0.9)
    first, *rest = v.verdict(evaluation(), judge(), price(), unseen)
    assert len(rest) == 3
    assert first == (
        "**On one behaviour that no method was tuned on, steering by natural gradient (NG) beats CAA, SAE, SAE-TS and FGAA, and is "
        "not told apart from prompting.** By the judge alone NG has an average BCS (behaviour times coherence) of "
        "0.45 [0.35, 0.55], prompting 0.50, FGAA 0.40 and SAE-TS 0.30."
    )
    sure = with_natural(0.45, CORRECTED, prompting=0.001)
    assert "Corrected by labels of 720 of the texts NG has" in v.unseen_sentence(sure)
    table = v.summary_table(evaluation(), price(), sure)
    assert table.loc["FGAA", "BCS, one unseen behaviour, corrected by labels"] == "0.25 [0.15, 0.35]"
    assert table.loc["prompting", "NG minus it, on the 1"] == "-0.20 [-0.30, -0.10], p = 0.001"


def test_behaviours_that_were_read_for_the_first_time_are_told_of_alone():
    sure = with_natural(0.45, CORRECTED)
    assert v.newest_sentence(sure) == "" == v.newest_sentence(with_natural(0.45))
    lead = {"value": 0.05, "lo": -0.01, "hi": 0.11, "p": 0.2}
    paired = {"caa": lead, "sae": lead | {"value": 0.2}, "prompting": lead | {"value": -0.02}}
    newest = {"bcs": {"ng": {"value": 0.3, "lo": 0.2, "hi": 0.4, "n": 24}}, "paired": paired}
    sure["corrected"] = sure["corrected"] | {"sets": {"test": newest, "later": newest}}
    assert v.unseen_sentence(sure).endswith(
        ". On the 24 of them that were read for the first time NG minus CAA is +0.05 [-0.01, +0.11], p = 0.20 and NG minus "
        "prompting is -0.02 [-0.01, +0.11], p = 0.20."
    )


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ({}, "is not told apart from CAA, SAE, SAE-TS, FGAA and prompting"),
        (dict.fromkeys(SCORES, 0.01), "beats CAA, SAE, SAE-TS and FGAA, and loses to prompting"),
        (
            {"caa": 0.01, "prompting": 0.01},
            "beats CAA, loses to prompting, and is not told apart from SAE, SAE-TS and FGAA",
        ),
    ],
)
def test_places_are_named_whoever_wins(p, said):
    assert v.place(of_ng(SCORES | {"ng": 0.45}, p)) == said


def test_the_summary_has_steering_methods_prompting_and_unsteered_text():
    table = v.summary_table(evaluation(), price())
    assert list(table.index) == ["FGAA", "SAE-TS", "SAE", "CAA", "prompting", "unsteered"]
    assert list(table.loc["FGAA"]) == [
        "0.40 [0.30, 0.50]",
        "15.0 [14.9, 15.1]",
        "-0.15 [-0.25, -0.05]",
    ]
    assert list(table.loc["unsteered"]) == ["0.04 [-0.06, 0.14]", "", ""]


def test_the_average_is_the_last_row_of_the_table_of_behaviours():
    found = evaluation()
    for scores in found["bcs"].values():
        scores |= {"want_to_die": entry(0.1), "wedding": entry(0.2)}
    table = v.behaviour_table(found)
    assert list(table.index) == ["Anger", "Want to die", "Wedding", "Average"]
    assert list(table.columns)[:2] == ["FGAA", "SAE-TS"] and table.loc["Want to die", "FGAA"] == "0.10 [0.00, 0.20]"


def test_the_sentences_change_with_the_numbers_alone():
    """No method, number or verdict is written into a sentence: other metrics, other words."""
    one = v.verdict(evaluation(), judge(), price())
    flat = dict.fromkeys(SCORES, 0.33)
    other = v.verdict(evaluation(flat), judge(flat, kindest="sae"), price(fgaa=1.1))
    assert all(a != b for a, b in zip(one, other))
