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


def test_fgaa_wins_only_if_every_difference_is_decided():
    won = evaluation(sae_ts=0.01, sae=0.01, caa=0.0001)
    assert v.steering_sentence(won) == (
        "**On this behaviour, tuned alike: FGAA wins among the steering methods.** By the judge FGAA has the highest average BCS (behaviour times "
        "coherence), 0.40 [0.30, 0.50], before SAE-TS 0.30, SAE 0.25 and CAA 0.20; it has 0.10 [0.00, 0.20] more than "
        "SAE-TS, p = 0.010."
    )
    tied = v.steering_sentence(evaluation(sae_ts=0.01, sae=0.05, caa=0.0001))
    assert tied.startswith(
        "**On this behaviour, tuned alike: no steering method is shown to be the best.** By the judge FGAA has the highest"
    )


def test_a_tie_says_what_could_have_been_found():
    sentence = v.steering_sentence(evaluation(sae_ts=0.3, sae=0.01, caa=0.0001))
    assert sentence.startswith("**On this behaviour, tuned alike: no steering method is shown to be the best.**")
    assert "more than SAE-TS, p = 0.30, undecided" in sentence
    assert sentence.endswith("(behaviours: 9; a true difference of 0.18 is found four times in five).")


def test_a_loss_names_the_winner_first():
    scores = SCORES | {"caa": 0.6}
    assert v.steering_sentence(evaluation(scores, caa=0.0004)) == (
        "**On this behaviour, tuned alike: FGAA loses to CAA.** By the judge CAA has the highest average BCS (behaviour times coherence), "
        "0.60 [0.50, 0.70], before FGAA 0.40, SAE-TS 0.30 and SAE 0.25; FGAA has 0.20 [0.10, 0.30] less than CAA, p < 0.001."
    )
    undecided = v.steering_sentence(evaluation(scores, caa=0.2))
    assert undecided.startswith(
        "**On this behaviour, tuned alike: no steering method is shown to be the best.** By the judge CAA has the highest"
    )


def test_the_labels_have_their_own_verdict():
    sentence = v.labels_sentence(judge(SCORES | {"sae": 0.7}, kindest="sae", sae=0.01))
    assert sentence.startswith(
        "**By labels of an earlier run, with other vectors and strengths: FGAA loses to SAE.** On 90 texts a method, labelled by two language models"
    )
    assert sentence.endswith(
        "the judge is kindest to SAE: its score of behaviour less the label is +0.30 there, +0.10 to +0.10 elsewhere."
    )
    assert v.labels_sentence(judge()).startswith("**By labels of an earlier run")


def with_natural(ng, corrected=None, **p):
    """A run with NG, whose differences have the p given; `corrected` are its scores by labels."""
    scores = SCORES | {"ng": ng, "ng_fgaa": 0.42, "ng_caa": 0.3}
    found = evaluation(scores)
    found["paired_natural"] = of_ng(scores, p)
    found["choices"] = {
        "ng": {"love": {"variant": "n1=128,n2=0,white=1,means=1"}, "anger": {"variant": "n1=128,n2=0,white=1"}}
    }
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


def test_natural_gradient_is_set_against_the_papers_methods_and_prompting():
    assert v.natural_sentences(evaluation()) == []
    [sentence] = v.natural_sentences(with_natural(0.45, fgaa=0.3, sae_ts=0.01, sae=0.001, caa=0.2, prompting=0.9))
    assert sentence.startswith(
        "**On this behaviour vectors by natural gradient beat SAE and SAE-TS, and are not told apart from CAA, FGAA and "
        "prompting.**"
    )
    assert "score by the judge 0.45 [0.35, 0.55], 0.05 [-0.05, 0.15] more than FGAA, p = 0.30, undecided" in sentence
    assert sentence.endswith(
        "by the judge: NG-FGAA 0.42 [0.32, 0.52], 0.02 [-0.08, 0.12] more than FGAA, p = 1.00, undecided; NG-CAA "
        "0.30 [0.20, 0.40], where CAA has 0.20 [0.10, 0.30]."
    )
    assert "corrected" not in sentence
    assert (
        "prompting.** Sums of the vectors that raise FGAA's target and CAA's contrast most at equal KL, and of CAA"
        in sentence
    )


def test_a_run_of_an_earlier_form_of_natural_gradient_says_so():
    run = with_natural(0.45)
    run["choices"]["ng"] = {"love": {"variant": "n1=8,n2=0,white=1"}}
    assert v.earlier_form(run) and not v.earlier_form(with_natural(0.45)) and not v.earlier_form(evaluation())
    [sentence] = v.natural_sentences(run)
    assert (
        "raise FGAA's target, CAA's contrast, or both most at equal KL (NG; an earlier form of it) score by" in sentence
    )


def test_scores_corrected_by_labels_decide():
    corrected = {"fgaa": 0.25, "sae_ts": 0.2, "sae": 0.2, "caa": 0.3, "prompting": 0.4, "ng": 0.2}
    found = with_natural(0.45, corrected, fgaa=0.01, prompting=0.001, caa=0.02)
    [sentence] = v.natural_sentences(found)
    assert sentence.startswith(
        "**On this behaviour vectors by natural gradient lose to CAA, FGAA and prompting, and are not told apart from"
    )
    assert "corrected by labels 0.20 [0.10, 0.30], 0.05 [-0.05, 0.15] less than FGAA, p = 0.010" in sentence
    labels = v.labels_sentence(judge(), found["corrected"])
    assert labels.startswith(
        "**Corrected by labels: FGAA loses to CAA.** With 720 of these texts labelled by two language"
    )
    table = v.summary_table(found, price())
    assert "(corrected by labels 0.15 [0.05, 0.25] more than FGAA, p = 0.001)" in v.prompting_sentence(found)
    assert table.loc["NG", "BCS, corrected by labels"] == "0.20 [0.10, 0.30]" and "BCS by the labels" not in table


@pytest.mark.parametrize("none", [None, {"labelled_bcs": {}, "labelled_paired": {}, "judge_bias": {}}])
def test_without_labels_the_sentences_say_so(none):
    assert v.labels_sentence(none).startswith("**No labels.**")
    assert "by labels" not in v.prompting_sentence(evaluation())
    assert "BCS, corrected by labels" not in v.summary_table(evaluation(), price())


def test_prompting_is_compared_from_its_own_side():
    won = v.prompting_sentence(evaluation(prompting=0.01))
    assert won == (
        "**Prompting beats FGAA.** The contrastive texts as a prompt, without a vector, score 0.50 [0.40, 0.60], "
        "0.10 [0.00, 0.20] more than FGAA, p = 0.010."
    )
    lost = v.prompting_sentence(evaluation(SCORES | {"prompting": 0.1}, prompting=0.01))
    assert lost.startswith("**Prompting loses to FGAA.**") and "0.30 [0.20, 0.40] less than FGAA" in lost
    assert v.prompting_sentence(evaluation()).startswith("**Prompting is not told apart from FGAA.**")


@pytest.mark.parametrize(
    "ratio, place", [(15.0, "costs most"), (1.5, "costs least"), (2.8, "is neither the cheapest nor the dearest")]
)
def test_the_price_is_placed_among_the_steering_methods(ratio, place):
    """Prompting is cheaper than all of them and does not count."""
    sentence = v.price_sentence(price(fgaa=ratio))
    assert sentence.startswith(f"**Of the steering methods FGAA {place}.**")
    assert (
        f"{ratio:.1f} [{ratio - 0.1:.1f}, {ratio + 0.1:.1f}] times the unsteered one (SAE-TS 12.0, SAE 2.5" in sentence
    )
    assert "random" not in sentence


def test_a_verdict_is_four_sentences_and_one_of_natural_gradient():
    assert len(v.verdict(evaluation(), judge(), price())) == 4
    assert len(v.verdict(with_natural(0.4), judge(), price())) == 5


def test_what_no_choice_had_seen_comes_first():
    unseen = with_natural(0.45, fgaa=0.01, sae_ts=0.01, sae=0.001, caa=0.02, prompting=0.9)
    first, *rest = v.verdict(evaluation(), judge(), price(), unseen)
    assert len(rest) == 4
    assert first.startswith(
        "**On 9 behaviours that no method was tuned on, vectors by natural gradient (NG) beat CAA, SAE, SAE-TS and FGAA, and are not "
        "told apart from prompting.** By the judge alone, NG has an average BCS (behaviour times coherence) of "
        "0.45 [0.35, 0.55]: 0.25 [0.15, 0.35] more than CAA, p = 0.020, "
    )
    corrected = {"fgaa": 0.25, "sae_ts": 0.2, "sae": 0.2, "caa": 0.3, "prompting": 0.4, "ng": 0.2}
    sure = v.unseen_sentence(with_natural(0.45, corrected, prompting=0.001))
    assert (
        "lose to prompting, and are not told apart from CAA, SAE, SAE-TS and FGAA.** Corrected by labels of 720 of"
        in sure
    )
    table = v.summary_table(evaluation(), price(), with_natural(0.45, corrected))
    assert table.loc["FGAA", "BCS, 1 unseen behaviours, corrected by labels"] == "0.25 [0.15, 0.35]"
    assert (
        v.summary_table(evaluation(), price(), unseen).loc["FGAA", "BCS, 1 unseen behaviours, by the judge"]
        == "0.40 [0.30, 0.50]"
    )


def test_ng_whose_texts_nobody_labelled_is_told_by_the_judge():
    unseen = with_natural(0.45, {"fgaa": 0.25, "sae_ts": 0.2, "sae": 0.2, "caa": 0.3, "prompting": 0.4, "ng": 0.2})
    del unseen["corrected"]["paired"]["ng"]
    assert "By the judge alone, NG has" in v.unseen_sentence(unseen)
    assert "BCS, 1 unseen behaviours, by the judge" in v.summary_table(evaluation(), price(), unseen)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ({}, "are not told apart from CAA, SAE, SAE-TS, FGAA and prompting"),
        (dict.fromkeys(SCORES, 0.01), "beat CAA, SAE, SAE-TS and FGAA, and lose to prompting"),
        (
            {"caa": 0.01, "prompting": 0.01},
            "beat CAA, lose to prompting, and are not told apart from SAE, SAE-TS and FGAA",
        ),
    ],
)
def test_places_are_named_whoever_wins(p, said):
    assert v.place(of_ng(SCORES | {"ng": 0.45}, p)) == said


def test_what_was_not_measured_is_left_out():
    assert len(v.verdict(evaluation(), judge(), None)) == 3
    assert list(v.summary_table(evaluation(), None)) == ["BCS, by the judge"]


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
    other = v.verdict(evaluation(flat), judge(flat), price(fgaa=1.1))
    assert all(a != b for a, b in zip(one, other))
