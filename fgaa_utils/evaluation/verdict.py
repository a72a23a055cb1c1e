"""What a run found, in four sentences and two tables, from its metrics: README, reports and `make repro` say the same.

Scores are average BCS over behaviours; differences are one method's less another's, paired by behaviour, p corrected (Holm).
Where texts of the run were labelled, scores and differences are those corrected by the labels.
"""

import pandas as pd

from fgaa_utils.figures import listed, with_interval
from fgaa_utils.names import CONTROLS, LABELS, METHODS, PAPER_METHODS, PROMPTING, UNSEEN, method_order

LEVEL = 0.05  # of a corrected p below which a difference is decided
FGAA, NG = "fgaa", "ng"
NEWEST = UNSEEN[-1]  # the set that no reading had before
OUTCOMES = ("beats", "loses to", "is not told apart from")
Paired = dict[str, dict]  # a method's difference to each other one: value, lo, hi, p, n, detectable


def verdict(evaluation: dict, judge: dict | None, capability: dict | None, unseen: dict | None = None) -> list[str]:
    """Sentences of Markdown: behaviours that no method was tuned on; those of this run; judge and labels; the price.

    evaluation, judge, capability: the metrics of these stages; judge None for a run whose texts nobody labelled, capability
    for one that did not measure it. unseen: the metrics of evaluation of the setting `unseen`, if it was run.
    """
    return [
        *([unseen_sentence(unseen)] if unseen else []),
        run_sentence(evaluation),
        judge_sentence(evaluation, judge),
        *([price_sentence(capability)] if capability else []),
    ]


def unseen_sentence(evaluation: dict) -> str:
    """NG on behaviours that no method was tuned on, against each method of the paper and prompting."""
    paired = differences(evaluation, NG)
    where = f"On {of_behaviours(evaluation, 'behaviours')} that no method was tuned on"
    said = f"**{where}, steering by natural gradient (NG) {place(paired)}.** {standing(evaluation, NG)}."
    return said + newest_sentence(evaluation)


def newest_sentence(evaluation: dict) -> str:
    """NG against the closest of the paper's methods and prompting, by labels, on the behaviours of the newest set alone, which
    no earlier reading had; empty without."""
    newest = (labels_of(evaluation) or {}).get("sets", {}).get(NEWEST)
    if not newest:
        return ""
    paired = newest["paired"]
    rival = min((m for m in PAPER_METHODS if m in paired), key=lambda m: paired[m]["value"])
    told = listed(f"NG minus {LABELS[m]} is {lead(paired[m])}" for m in (rival, PROMPTING))
    return f" On the {newest['bcs'][NG]['n']} of them that were read for the first time {told}."


def run_sentence(evaluation: dict) -> str:
    """NG, and the paper's methods among themselves, on the behaviours of this run; FGAA alone where there is no NG."""
    papers = [m for m in PAPER_METHODS if m in scores_of(evaluation)]
    best = headline(papers, differences(evaluation, FGAA))
    where = f"On {of_behaviours(evaluation)}"
    if NG in scores_of(evaluation):
        said = f"{where} NG {place(differences(evaluation, NG))}; of the paper's methods {best}"
    else:
        said = f"{where}, of the steering methods {best}"
    first = NG if NG in scores_of(evaluation) else FGAA
    return f"**{said}.** {standing(evaluation, first)}{power(evaluation)}."


def power(evaluation: dict) -> str:
    """What the run could have found, if FGAA and the paper's best other method are not told apart."""
    other, paired = best_rival(evaluation), differences(evaluation, FGAA)
    entry = paired[other]
    if entry["p"] < LEVEL or entry["n"] < 2:
        return ""
    return f"; FGAA and {LABELS[other]} would be told apart, four times in five, at a true difference of {entry['detectable']:.2f}"


def judge_sentence(evaluation: dict, judge: dict | None) -> str:
    """What the judge alone would decide otherwise than the labels of this run's texts, and how far it is from labels."""
    if not judge or not judge["judge_bias"]:
        return "**No labels.** Nobody has labelled texts of this run, so that its judge is all there is."
    changed = decided_otherwise(evaluation)
    if not labels_of(evaluation):
        said = (
            "**Nobody has labelled texts of this run, so that its judge decides.** On labelled texts of an earlier one"
        )
    elif changed:
        said = f"**By the judge alone {listed(changed)}.** On the labelled texts"
    else:
        said = "**The judge alone would have decided the same.** On the labelled texts"
    bias = {m: entry["value"] for m, entry in judge["judge_bias"]["behaviour"].items()}
    low, high = min(bias, key=lambda m: bias[m]), max(bias, key=lambda m: bias[m])
    return (
        f"{said} its score of behaviour less the label is from {bias[low]:+z.2f} ({LABELS[low]}) to {bias[high]:+z.2f} "
        f"({LABELS[high]})."
    )


def decided_otherwise(evaluation: dict) -> list[str]:
    """The differences of NG, then of FGAA, that the judge alone decides otherwise than the labels, as the judge has them."""
    said = []
    for method in (NG, FGAA):
        corrected = (labels_of(evaluation) or {}).get("paired", {}).get(method, {})
        alone = by_the_judge(evaluation, method) if corrected else {}
        for m in method_order([*corrected]):
            known = method == FGAA and m == NG  # said of NG already
            if not known and outcome(alone[m]) != outcome(corrected[m]):
                said.append(f"{LABELS[method]} {outcome(alone[m])} {LABELS[m]}")
    return said


def price_sentence(capability: dict) -> str:
    """What the methods cost at their chosen scales: the steering method of the lowest perplexity, NG, FGAA and prompting."""
    price = capability["at_chosen_scale"]
    ratio = {m: entry["perplexity_ratio"]["value"] for m, entry in price.items() if m in (*METHODS, PROMPTING)}
    least = min((m for m in ratio if m in METHODS), key=lambda m: ratio[m])
    prompting = "less than any of them" if ratio[PROMPTING] < ratio[least] else f"more than {LABELS[least]}"
    told = [m for m in method_order([*price]) if m in {NG, FGAA, least, PROMPTING}]
    times = listed(f"{LABELS[m]} {with_interval(price[m]['perplexity_ratio'], '.1f')}" for m in told)
    accuracy = listed(f"{LABELS[m]} {with_interval(price[m]['accuracy_change'], '+z.2f')}" for m in told)
    return (
        f"**At the chosen scales {LABELS[least]} raises perplexity least of the steering methods, prompting {prompting}.** That "
        f"of held-out text is multiplied by {times}; accuracy on multiple choice changes by {accuracy}."
    )


def labels_of(evaluation: dict) -> dict | None:
    """The scores corrected by labels, if those of NG are among them where the run has NG."""
    corrected = evaluation.get("corrected") or None
    return corrected if corrected and (NG in corrected["paired"] or NG not in evaluation["bcs"]) else None


def source(evaluation: dict) -> str:
    """What the scores of a run are by."""
    corrected = labels_of(evaluation)
    return f"Corrected by labels of {corrected['labels']:,} of the texts" if corrected else "By the judge alone"


def best_rival(evaluation: dict) -> str:
    """The highest of the paper's methods but FGAA."""
    scores = scores_of(evaluation)
    return max((m for m in PAPER_METHODS if m in scores and m != FGAA), key=lambda m: scores[m]["value"])


def standing(evaluation: dict, method: str) -> str:
    """`By the judge alone NG has an average BCS (behaviour times coherence) of 0.37 [0.29, 0.44], prompting 0.41 and so on`: a
    method's score and, in their order, those of prompting, FGAA and the highest of the paper's other methods."""
    scores = scores_of(evaluation)
    others = [m for m in (FGAA, best_rival(evaluation), PROMPTING) if m != method]
    told = [f"{LABELS[m]} {scores[m]['value']:.2f}" for m in sorted(others, key=lambda m: -scores[m]["value"])]
    own = f"{LABELS[method]} has an average BCS (behaviour times coherence) of {with_interval(scores[method])}"
    return f"{source(evaluation)} {listed([own, *told])}"


def scores_of(evaluation: dict) -> dict[str, dict]:
    """{method: average BCS}, corrected by labels where texts of the run were labelled; controls are not among these."""
    corrected = labels_of(evaluation)
    return corrected["bcs"] if corrected else judged(evaluation)


def judged(evaluation: dict) -> dict[str, dict]:
    """{method: average BCS} by the judge."""
    return {method: table["average"] for method, table in evaluation["bcs"].items()}


def differences(evaluation: dict, method: str) -> Paired:
    """A method's (FGAA's or NG's) differences, corrected by labels where texts of the run were labelled."""
    corrected = labels_of(evaluation)
    return corrected["paired"][method] if corrected else by_the_judge(evaluation, method)


def by_the_judge(evaluation: dict, method: str) -> Paired:
    return evaluation["paired_natural" if method == NG else "paired"]


def place(paired: Paired) -> str:
    """`beats CAA, and is not told apart from prompting`: of the differences to the paper's methods and prompting."""
    others = [m for m in (*PAPER_METHODS, PROMPTING) if m in paired]
    groups = {verb: [LABELS[m] for m in others if outcome(paired[m]) == verb] for verb in OUTCOMES}
    *first, last = [f"{verb} {listed(labels)}" for verb, labels in groups.items() if labels]
    return f"{', '.join(first)}, and {last}" if first else last


def outcome(entry: dict) -> str:
    """What a difference decides."""
    if entry["p"] >= LEVEL:
        return OUTCOMES[2]
    return OUTCOMES[0] if entry["value"] > 0 else OUTCOMES[1]


def headline(methods: list[str], paired: Paired) -> str:
    """Who wins among `methods`: FGAA against all, others against FGAA, or none."""
    others = [m for m in methods if m != FGAA]
    if above := [LABELS[m] for m in others if outcome(paired[m]) == OUTCOMES[1]]:
        return f"FGAA loses to {listed(above)}"
    if all(outcome(paired[m]) == OUTCOMES[0] for m in others):
        return "FGAA wins"
    return "none is shown to be the best"


def summary_table(evaluation: dict, capability: dict | None, unseen: dict | None = None) -> pd.DataFrame:
    """Average BCS by judge and labels, NG's lead on unseen behaviours and the price, one row a method; of the controls
    unsteered text alone. What was not measured has no column."""
    price = capability["at_chosen_scale"] if capability else {}
    of_unseen = scores_of(unseen) if unseen else {}
    leads = differences(unseen, NG) if unseen else {}
    corrected = (labels_of(evaluation) or {}).get("bcs", {})
    first = f"BCS, {heading(unseen, 'unseen behaviours')}" if unseen else ""
    leads_of = f"NG minus it, on the {count_of(unseen)}" if unseen else ""
    rows = {}
    for method in method_order(list(evaluation["bcs"])):
        if method not in CONTROLS:
            cost = price.get(method, {})
            rows[LABELS[method]] = {
                first: shown(of_unseen.get(method)),
                leads_of: lead(leads.get(method)),
                f"BCS, {heading(evaluation)}": shown((corrected or judged(evaluation)).get(method)),
                "by the judge alone": shown(judged(evaluation)[method]) if corrected else "",
                "perplexity, times": shown(cost.get("perplexity_ratio"), ".1f"),
                "accuracy, change": shown(cost.get("accuracy_change"), "+z.2f"),
            }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return table.loc[:, (table != "").any()]


def lead(entry: dict | None) -> str:
    """`+0.06 [0.00, 0.12], p = 0.095` of a difference; nothing of what was not measured."""
    if not entry:
        return ""
    p = "p < 0.001" if entry["p"] < 0.001 else f"p = {entry['p']:.{3 if entry['p'] < 0.1 else 2}f}"
    return f"{with_interval(entry, '+z.2f')}, {p}"


def count_of(evaluation: dict) -> int:
    """How many behaviours an evaluation is of."""
    return len(set(next(iter(evaluation["bcs"].values()))) - {"average"})


def of_behaviours(evaluation: dict, what: str = "these") -> str:
    """`these 9 behaviours`, or `36 behaviours` of another kind `what`."""
    count = count_of(evaluation)
    if what != "these":
        return f"{count} {what}" if count > 1 else f"one {what.removesuffix('s')}"
    return f"these {count} behaviours" if count > 1 else "this behaviour"


def heading(evaluation: dict, what: str = "these") -> str:
    """`36 unseen behaviours, corrected by labels`."""
    return f"{of_behaviours(evaluation, what)}, {'corrected by labels' if labels_of(evaluation) else 'by the judge'}"


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
