"""What a run found, in a few sentences and two tables, from its metrics: README, reports and `make repro` say the same.

Scores are average BCS over behaviours; differences are FGAA's less another's, paired by behaviour, p corrected (Holm).
"""

import pandas as pd

from fgaa_utils.figures import listed, with_interval
from fgaa_utils.names import CONTROLS, LABELS, METHODS, PAPER_METHODS, PROMPTING, method_order

LEVEL = 0.05  # of a corrected p below which a difference is decided
OURS = "fgaa"
NG = "ng"


def verdict(evaluation: dict, judge: dict | None, capability: dict | None, unseen: dict | None = None) -> list[str]:
    """Sentences of Markdown: behaviours that no method was tuned on; the paper's methods by the judge, by the labels; natural
    gradient, prompting, the price.

    evaluation, judge, capability: the metrics of these stages; judge None for a run whose texts nobody labelled, capability
    for one that did not measure it. unseen: the metrics of evaluation of the setting `unseen`, if it was run.
    """
    return [
        *([unseen_sentence(unseen)] if unseen else []),
        steering_sentence(evaluation),
        labels_sentence(judge, evaluation.get("corrected")),
        *natural_sentences(evaluation),
        prompting_sentence(evaluation),
        *([price_sentence(capability)] if capability else []),
    ]


def unseen_sentence(evaluation: dict) -> str:
    """NG on behaviours that no method was tuned on, against each method of the paper and prompting."""
    corrected = corrected_with_ng(evaluation)
    scores = corrected["bcs"] if corrected else {m: table["average"] for m, table in evaluation["bcs"].items()}
    paired = corrected["paired"][NG] if corrected else evaluation["paired_natural"]
    told = listed(compared(paired[m], LABELS[m]) for m in (*PAPER_METHODS, PROMPTING))
    by = f"Corrected by labels of {corrected['labels']:,} of the texts" if corrected else "By the judge alone"
    return (
        f"**On {paired[OURS]['n']} behaviours that no method was tuned on, vectors by natural gradient (NG) {place(paired)}.** "
        f"{by}, NG has an average BCS (behaviour times coherence) of {with_interval(scores[NG])}: {told}."
    )


def corrected_with_ng(evaluation: dict) -> dict | None:
    """The scores corrected by labels, if NG is among the methods whose texts were labelled."""
    corrected = evaluation.get("corrected") or {}
    return corrected if NG in corrected.get("paired", {}) else None


def place(paired: dict[str, dict]) -> str:
    """`beat CAA, and are not told apart from prompting`: of the differences {method: entry} to the paper's methods and
    prompting."""
    said = (("beat", wins), ("lose to", loses), ("are not told apart from", lambda entry: not decided(entry)))
    groups = [(verb, [LABELS[m] for m in (*PAPER_METHODS, PROMPTING) if test(paired[m])]) for verb, test in said]
    *first, last = [f"{verb} {listed(labels)}" for verb, labels in groups if labels]
    return f"{', '.join(first)}, and {last}" if first else last


def steering_sentence(evaluation: dict) -> str:
    """Who has the highest score of the steering methods, by how much, and how sure that is."""
    scores, paired = averages(evaluation), evaluation["paired"]
    entry = paired[rival(scores)]
    order = standing(scores, paired).replace("average BCS", "average BCS (behaviour times coherence)", 1)
    found = f"**On {of_behaviours(evaluation)}, tuned alike: {lower(headline(scores, paired))}.** By the judge {order}"
    if decided(entry):
        return f"{found}."
    return f"{found} (behaviours: {entry['n']}; a true difference of {entry['detectable']:.2f} is found four times in five)."


def labels_sentence(judge: dict | None, corrected: dict | None = None) -> str:
    """The same corrected by the labels of this run's texts, else by the texts of an earlier run that annotators labelled;
    and whom the judge favours on these."""
    if not judge or not judge["labelled_bcs"]:
        return "**No labels.** Nobody has labelled texts of this run, so that its judge is all there is."
    favoured = favour(judge["judge_bias"]["behaviour"])
    if corrected:
        scores, paired = steering(corrected["bcs"]), corrected["paired"][OURS]
        return (
            f"**Corrected by labels: {lower(headline(scores, paired))}.** With {corrected['labels']} of these texts "
            f"labelled by two language models, {standing(scores, paired)}; {favoured}."
        )
    scores, paired = steering(judge["labelled_bcs"]["labels"]), judge["labelled_paired"]
    return (
        f"**By labels of an earlier run, with other vectors and strengths: {lower(headline(scores, paired))}.** On "
        f"{scores[OURS]['n']} texts a method, labelled by two language models, {standing(scores, paired)}; {favoured}."
    )


def natural_sentences(evaluation: dict) -> list[str]:
    """The same texts by natural gradient against each other method; nothing of a run that had none."""
    if NG not in evaluation["bcs"]:
        return []
    judged = evaluation["paired_natural"], evaluation["bcs"][NG]["average"]
    corrected = corrected_with_ng(evaluation)
    sure = (corrected["paired"][NG], corrected["bcs"][NG]) if corrected else None
    told = [f"by the judge {_natural_scores(*judged)}", f"corrected by labels {_natural_scores(*sure)}" if sure else ""]
    return [
        f"**On {of_behaviours(evaluation)} vectors by natural gradient {place((sure or judged)[0])}.** {_form(evaluation)} score "
        f"{'; '.join(filter(None, told))}. Same reward for same reward, by the judge: {_same_rewards(evaluation)}."
    ]


def earlier_form(evaluation: dict) -> bool:
    """Whether NG of this run is that of an earlier one, which had no sums with the difference of means."""
    if NG not in evaluation["bcs"]:
        return False
    return not any("means" in choice["variant"] for choice in evaluation["choices"][NG].values())


def _form(evaluation: dict) -> str:
    """What NG tried in this run."""
    if earlier_form(evaluation):
        return (
            "The vectors that raise FGAA's target, CAA's contrast, or both most at equal KL (NG; an earlier form of it)"
        )
    return "Sums of the vectors that raise FGAA's target and CAA's contrast most at equal KL, and of CAA itself (NG),"


def _same_rewards(evaluation: dict) -> str:
    """What the natural gradient adds to FGAA and to CAA: differences of the paper's method, the other way round."""
    paired = evaluation["paired"]
    scores = {m: with_interval(evaluation["bcs"][m]["average"]) for m in ("ng_fgaa", "ng_caa")}
    return (
        f"NG-FGAA {scores['ng_fgaa']}, {compared(flipped(paired['ng_fgaa']), 'FGAA')}; NG-CAA {scores['ng_caa']}, where CAA "
        f"has {with_interval(evaluation['bcs']['caa']['average'])}"
    )


def _natural_scores(paired: dict[str, dict], score: dict) -> str:
    others = listed(compared(paired[m], LABELS[m]) for m in ("fgaa", "caa", PROMPTING))
    return f"{with_interval(score)}, {others}"


def prompting_sentence(evaluation: dict) -> str:
    """Prompting against FGAA, by the judge and corrected by labels, which decide where there are any."""
    judged, score = flipped(evaluation["paired"][PROMPTING]), evaluation["bcs"][PROMPTING]["average"]
    corrected = evaluation.get("corrected")
    sure = flipped(corrected["paired"][OURS][PROMPTING]) if corrected else None
    entry = sure or judged
    place = "beats FGAA" if wins(entry) else "loses to FGAA" if loses(entry) else "is not told apart from FGAA"
    labels = f" (corrected by labels {compared(sure, 'FGAA')})" if sure else ""
    return (
        f"**Prompting {place}.** The contrastive texts as a prompt, without a vector, score {with_interval(score)}, "
        f"{compared(judged, 'FGAA')}{labels}."
    )


def price_sentence(capability: dict) -> str:
    """What FGAA costs at its chosen scales beside the other methods and prompting."""
    price = capability["at_chosen_scale"]
    ratios = {m: price[m]["perplexity_ratio"] for m in METHODS if m in price}
    order = sorted(ratios, key=lambda m: ratios[m]["value"])
    place = {order[0]: "costs least", order[-1]: "costs most"}.get(OURS, "is neither the cheapest nor the dearest")
    others = [m for m in method_order(list(price)) if m not in (OURS, *CONTROLS)]
    times = listed(f"{LABELS[m]} {price[m]['perplexity_ratio']['value']:.1f}" for m in others)
    accuracy = listed(f"{LABELS[m]} {price[m]['accuracy_change']['value']:+z.2f}" for m in others)
    return (
        f"**Of the steering methods FGAA {place}.** At its chosen scales the perplexity of held-out text is "
        f"{with_interval(ratios[OURS], '.1f')} times the unsteered one ({times}), and accuracy on multiple choice changes "
        f"by {with_interval(price[OURS]['accuracy_change'], '+z.2f')} ({accuracy})."
    )


def headline(scores: dict[str, dict], paired: dict[str, dict]) -> str:
    """Who wins among the steering methods `scores` {method: entry}: FGAA against all, others against FGAA, or none."""
    others = [m for m in scores if m != OURS]
    if above := [LABELS[m] for m in others if loses(paired[m])]:
        return f"FGAA loses to {listed(above)}"
    if all(wins(paired[m]) for m in others):
        return "FGAA wins among the steering methods"
    return "No steering method is shown to be the best"


def standing(scores: dict[str, dict], paired: dict[str, dict]) -> str:
    """The scores in their order, and FGAA's difference to the highest of the others."""
    first, *rest = sorted(scores, key=lambda m: -scores[m]["value"])
    after = listed(f"{LABELS[m]} {scores[m]['value']:.2f}" for m in rest)
    other = rival(scores)
    return (
        f"{LABELS[first]} has the highest average BCS, {with_interval(scores[first])}, before {after}; "
        f"{'it' if first == OURS else 'FGAA'} has {compared(paired[other], LABELS[other])}"
    )


def rival(scores: dict[str, dict]) -> str:
    """The method that FGAA is measured against: the highest of the others."""
    return max((m for m in scores if m != OURS), key=lambda m: scores[m]["value"])


def favour(bias: dict[str, dict]) -> str:
    """Whose behaviour the judge scores most above the labels; bias {method: entry} of score minus label."""
    kindest = max(bias, key=lambda m: bias[m]["value"])
    rest = [entry["value"] for method, entry in bias.items() if method != kindest]
    return (
        f"the judge is kindest to {LABELS[kindest]}: its score of behaviour less the label is {bias[kindest]['value']:+z.2f} "
        f"there, {min(rest):+z.2f} to {max(rest):+z.2f} elsewhere"
    )


def averages(evaluation: dict) -> dict[str, dict]:
    """{method of the paper: its average BCS with interval}."""
    return steering({method: table["average"] for method, table in evaluation["bcs"].items()})


def steering(scores: dict[str, dict]) -> dict[str, dict]:
    return {method: scores[method] for method in method_order(list(scores)) if method in PAPER_METHODS}


def compared(entry: dict, other: str) -> str:
    """`0.03 [-0.06, 0.12] more than SAE, p = 0.84, undecided` of a difference to the other."""
    less = entry["value"] < 0
    p = "p < 0.001" if entry["p"] < 0.001 else f"p = {entry['p']:.{3 if entry['p'] < 0.1 else 2}f}"
    amount = f"{with_interval(flipped(entry) if less else entry, 'z.2f')} {'less' if less else 'more'} than {other}"
    return f"{amount}, {p}{'' if decided(entry) else ', undecided'}"


def flipped(entry: dict) -> dict:
    """The difference the other way round."""
    return entry | {"value": -entry["value"], "lo": -entry["hi"], "hi": -entry["lo"]}


def decided(entry: dict) -> bool:
    return entry["p"] < LEVEL


def wins(entry: dict) -> bool:
    return decided(entry) and entry["value"] > 0


def loses(entry: dict) -> bool:
    return decided(entry) and entry["value"] < 0


def lower(sentence: str) -> str:
    """The sentence to stand within another; a name keeps its capitals."""
    return sentence if sentence.startswith(tuple(LABELS.values())) else sentence[0].lower() + sentence[1:]


def summary_table(evaluation: dict, capability: dict | None, unseen: dict | None = None) -> pd.DataFrame:
    """Average BCS by judge and labels and the price, one row a method; controls but unsteered text are left out. Scores
    corrected by labels stand beside those of the judge if this run's texts were labelled, those of `unseen` if it was run."""
    labels = (evaluation.get("corrected") or {}).get("bcs", {})
    price = capability["at_chosen_scale"] if capability else {}
    name, of_unseen = _column_of(unseen)
    judged = f"BCS, {of_behaviours(evaluation)}" if unseen else "BCS"
    rows = {}
    for method in method_order(list(evaluation["bcs"])):
        if method not in CONTROLS:
            cost = price.get(method, {})
            rows[LABELS[method]] = {
                name: shown(of_unseen.get(method)),
                f"{judged}, by the judge": shown(evaluation["bcs"][method]["average"]),
                f"{judged}, corrected by labels": shown(labels.get(method)),
                "perplexity, times": shown(cost.get("perplexity_ratio"), ".1f"),
                "accuracy, change": shown(cost.get("accuracy_change"), "+z.2f"),
            }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return table.loc[:, (table != "").any()]  # without what was not measured


def _column_of(unseen: dict | None) -> tuple[str, dict]:
    """(heading, {method: average BCS}) of behaviours that no method was tuned on, corrected if they were labelled."""
    if not unseen:
        return "", {}
    corrected = (corrected_with_ng(unseen) or {}).get("bcs", {})
    judged = {m: table["average"] for m, table in unseen["bcs"].items()}
    how = "corrected by labels" if corrected else "by the judge"
    return f"BCS, {count_of(unseen)} unseen behaviours, {how}", corrected or judged


def count_of(evaluation: dict) -> int:
    """How many behaviours an evaluation is of."""
    return len(set(next(iter(evaluation["bcs"].values()))) - {"average"})


def of_behaviours(evaluation: dict) -> str:
    """`these 9 behaviours`."""
    count = count_of(evaluation)
    return f"these {count} behaviours" if count > 1 else "this behaviour"


def behaviour_table(evaluation: dict) -> pd.DataFrame:
    """BCS with intervals, one row a behaviour and the average last, one column a method."""
    scores = evaluation["bcs"]
    methods = method_order(list(scores))
    keys = sorted(scores[methods[0]], key=lambda key: (key == "average", key))
    rows = {key.replace("_", " ").capitalize(): {LABELS[m]: shown(scores[m][key]) for m in methods} for key in keys}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behaviour")


def shown(entry: dict | None, form: str = ".2f") -> str:
    """The value with its interval; nothing of what was not measured."""
    return with_interval(entry, form) if entry else ""
